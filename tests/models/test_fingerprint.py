"""A model's fingerprint changes with what it computes, and with nothing else."""

import json
from pathlib import Path

import pytest
import torch

from lit_rlhf.models.fingerprint import fingerprint_of, fingerprint_of_stored
from lit_rlhf.models.lora import add_lora
from tests.conftest import make_llama, make_tokenizer

TOKENIZER = make_tokenizer()


def test_equal_models_have_one_fingerprint_wherever_they_come_from():
    built = make_llama(TOKENIZER)
    again = make_llama(TOKENIZER)
    again.config._name_or_path = "elsewhere"
    again.set_attn_implementation("eager")
    assert fingerprint_of(built) == fingerprint_of(again)
    assert len(fingerprint_of(built)) == 64


def test_one_bit_of_one_weight_changes_it():
    model = make_llama(TOKENIZER)
    before = fingerprint_of(model)
    with torch.no_grad():
        weight = model.model.layers[1].mlp.down_proj.weight
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))
    assert fingerprint_of(model) != before


def test_a_config_that_computes_otherwise_changes_it():
    one, other = make_llama(TOKENIZER), make_llama(TOKENIZER, rms_norm_eps=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert fingerprint_of(one) != fingerprint_of(other)


def test_the_dtype_changes_it():
    one, other = make_llama(TOKENIZER).half(), make_llama(TOKENIZER).half()
    for weight in other.parameters():
        weight.data = weight.data.view(torch.bfloat16)  # the same bytes
    assert fingerprint_of(one) != fingerprint_of(other)


def test_adapters_do_not_count():
    model = make_llama(TOKENIZER)
    before = fingerprint_of(model)
    add_lora(model, model, {"r": 2})
    assert fingerprint_of(model) == before


def test_a_folder_that_is_overwritten_is_another(tmp_path: Path):
    make_llama(TOKENIZER).save_pretrained(tmp_path)
    before = fingerprint_of_stored(str(tmp_path))
    (tmp_path / "README.md").write_text("words")
    assert fingerprint_of_stored(str(tmp_path)) == before
    make_llama(TOKENIZER, seed=1).save_pretrained(tmp_path)
    overwritten = fingerprint_of_stored(str(tmp_path))
    assert overwritten != before
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert fingerprint_of_stored(str(tmp_path)) != overwritten


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fingerprint_of_stored(str(tmp_path / "nowhere"))

"""Models whose weights are read late: what one loads at once, in parts on each rank and never whole."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from transformers import GPT2Config, GPT2LMHeadModel

from lit_rlhf.models.components import Components
from lit_rlhf.models.deferred_weights import deferred_weights, has_deferred, read_weights
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.models.sharding import reshard, shard, whole
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed

TOKENIZER = make_tokenizer()


def gpt2() -> GPT2LMHeadModel:
    """Its head is its embeddings, and its norms have biases."""
    config = GPT2Config(vocab_size=len(TOKENIZER), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return GPT2LMHeadModel(config)


@pytest.fixture(params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    torch.manual_seed(0)
    model = make_llama(TOKENIZER) if request.param == "llama" else gpt2()
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")  # over several files
    TOKENIZER.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def state(network: torch.nn.Module) -> dict[str, np.ndarray]:
    reshard(network)
    held = [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]
    return {name: whole(tensor.detach()).clone().numpy() for name, tensor in held}


def alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


def test_one_process_reads_what_it_would_have_loaded(folder: str):
    with deferred_weights():
        model = load_causal_lm(folder)
    assert has_deferred(model)
    assert not any(buffer.is_meta for buffer in model.buffers())
    read_weights(model, "cpu")
    assert alike(state(model), state(load_causal_lm(folder)))
    assert model.training == load_causal_lm(folder).training
    tied = model.config.tie_word_embeddings
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def test_outside_of_it_weights_are_loaded_at_once(folder: str):
    with deferred_weights():
        pass
    assert not has_deferred(load_causal_lm(folder))


def parts(folder: str) -> tuple[dict[str, np.ndarray], int]:
    torch.distributed.init_process_group("gloo")
    try:
        with deferred_weights():
            policy = PolicyNetwork(load_causal_lm(folder))
        both = torch.nn.Sequential(policy, copy.deepcopy(policy))  # one stored tensor in two places
        shard(both, init_device_mesh("cpu", (2,)))
        read_weights(both, "cpu")
        local = sum(parameter.to_local().numel() for parameter in both.parameters())
        return state(both), local
    finally:
        torch.distributed.destroy_process_group()


def test_each_rank_reads_its_part(folder: str):
    single = state(PolicyNetwork(load_causal_lm(folder)))
    expected = {f"{copied}.{name}": value for copied in (0, 1) for name, value in single.items()}
    total = sum(p.numel() for p in load_causal_lm(folder).parameters()) * 2
    found = run_distributed(parts, 2, folder)
    assert all(alike(weights, expected) for weights, _ in found)
    assert sum(local for _, local in found) == total
    assert max(local for _, local in found) < 0.6 * total


@pytest.mark.parametrize("members", [None, 3])
def test_a_reward_export_keeps_its_heads(folder: str, tmp_path: Path, members: int | None):
    scorer = load_scorer(folder, components=None if members is None else Components(members=members))
    with torch.no_grad():
        scorer.head.bias.fill_(0.7)
        scorer.score_offset.fill_(0.2)
    export_scorer(scorer, TOKENIZER, tmp_path / "reward")
    with deferred_weights():
        late = load_scorer(str(tmp_path / "reward"))
    assert late.head.bias.tolist() == load_scorer(str(tmp_path / "reward")).head.bias.tolist()
    read_weights(late, "cpu")
    assert alike(state(late), state(load_scorer(str(tmp_path / "reward"))))


def test_a_new_head_is_there_at_once(folder: str):
    with deferred_weights():
        scorer = ScorerNetwork(load_causal_lm(folder).base_model)
    assert not scorer.head.weight.is_meta
    read_weights(scorer, "cpu")
    assert alike(state(scorer.trunk), state(load_causal_lm(folder).base_model))


def test_other_names_than_the_models_own_are_loaded_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_llama(TOKENIZER).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["other"] = stored.pop("model.norm.weight")
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with deferred_weights(), caplog.at_level("WARNING", logger="lit_rlhf"):
        assert not has_deferred(load_causal_lm(str(tmp_path)))
    assert "holds no model.norm.weight under that name: every rank loads this model whole" in caplog.text


def test_what_no_folder_holds_cannot_be_read():
    with torch.device("meta"):
        layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"weight has no content, and no folder"):
        read_weights(torch.nn.Sequential(layer), "cpu")

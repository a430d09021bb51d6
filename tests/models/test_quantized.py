"""Frozen weights in 4 bits: what they cost in numbers, and that training, checkpoints and exports hold together."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.deferred_weights import deferred_weights
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.lora_settings import lora_settings
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.quantized import is_quantized
from lit_rlhf.models.reference import AdapterOff
from tests.conftest import make_llama, make_tokenizer
from tests.models.test_lora import make_gpt2, train_a_bit
from tests.modules import ppo_runs, test_lora_phases
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()
TREES = pack_trees(random_trees(3))
SIZE = {"hidden_size": 64, "intermediate_size": 128}  # blocks of 64 weights, so that several are there
NF4 = {"r": 4, "base_weights": "nf4"}


@pytest.fixture
def bitsandbytes() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bitsandbytes")


def quantized(**lora: Any) -> tuple[PolicyNetwork, LoraAdapter]:
    torch.manual_seed(0)
    network = PolicyNetwork(load_causal_lm(make_llama(TOKENIZER, **SIZE))).eval()
    adapter = add_lora(network, network.causal_lm, lora_settings({**NF4, **lora}))
    assert adapter is not None
    return network, adapter


def test_settings() -> None:
    assert lora_settings({"base_weights": "nf4"}) == {"base_weights": "nf4"}
    with pytest.raises(ValueError, match=r"model\.lora\.base_weights: expected full or nf4, found 'int3'"):
        lora_settings({"base_weights": "int3"})
    with pytest.raises(ValueError, match=r"model\.lora\.base_weight: .* Did you mean 'base_weights'\?"):
        lora_settings({"base_weight": "nf4"})
    model = make_llama(TOKENIZER)
    add_lora(PolicyNetwork(model), model, lora_settings({"base_weights": "full"}))
    assert not is_quantized(model)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"model\.lora\.base_weights: nf4 needs bitsandbytes"):
        quantized()
    with deferred_weights():
        later = load_causal_lm(str(tiny_model_dir))
    with pytest.raises(ValueError, match=r"model\.lora\.base_weights: nf4 does not go with a strategy"):
        add_lora(PolicyNetwork(later), later, NF4)


def test_a_family_without_linear_maps_is_refused(bitsandbytes: Any) -> None:
    model = make_gpt2()
    with pytest.raises(ValueError, match=r"model\.lora\.base_weights: GPT2LMHeadModel has no linear maps"):
        add_lora(PolicyNetwork(model), model, NF4)


def test_layers_hold_four_bits_and_stay_near(bitsandbytes: Any) -> None:
    network, _ = quantized()
    plain = make_llama(TOKENIZER, **SIZE)
    for name, linear in plain.model.layers.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        held = network.causal_lm.model.layers.get_submodule(name)
        weight = getattr(held, "base_layer", held).weight
        assert weight.dtype == torch.uint8 and weight.numel() == linear.weight.numel() / 2
        whole = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        largest = linear.weight.view(-1, 64).abs().amax(1)
        # half of the widest gap between two of the sixteen values that NF4 has in [-1, 1]
        assert ((whole - linear.weight).view(-1, 64).abs().amax(1) <= 0.16 * largest).all()
    assert network.causal_lm.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("lora", [{}, {"use_dora": True, "target_modules": ["q_proj"]}], ids=str)
def test_the_export_gives_what_was_trained(lora: dict[str, Any], bitsandbytes: Any, tmp_path: Path) -> None:
    network, adapter = quantized(**lora)
    start = network(TREES).logprobs
    train_a_bit(network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert all("lora_" in name for name in state)
    expected = network(TREES).logprobs
    assert not torch.allclose(expected, start, atol=1e-2)
    export_policy(network, TOKENIZER, tmp_path / "export", adapter)
    exported = PolicyNetwork(load_causal_lm(str(tmp_path / "export"))).eval()
    assert torch.allclose(exported(TREES).logprobs, expected, atol=1e-4)
    assert torch.equal(network(TREES).logprobs, expected)  # the copy alone was merged
    assert torch.allclose(AdapterOff(network, adapter)(TREES).logprobs, start, atol=1e-5)
    again, _ = quantized(**lora)
    again.load_state_dict(state)
    assert torch.equal(again(TREES).logprobs, expected)


@pytest.mark.parametrize("phase", ["sft", "reward", "dpo"])
def test_phases_train(phase: str, bitsandbytes: Any) -> None:
    settings = {"reference_storage": "frozen"} if phase == "dpo" else {}
    module = test_lora_phases.fit(phase, NF4, **settings)
    moved = [weight.abs().max() > 0 for n, weight in module.network.named_parameters() if "lora_B" in n]
    assert moved and all(moved)
    if phase == "dpo":  # the reference is the policy as it starts: quantized
        fresh = test_lora_phases.make(phase, NF4, **settings)
        assert torch.equal(fresh.network(TREES).logprobs, fresh._reference(TREES).logprobs)


def test_ppo_trains_on_one_quantized_trunk(bitsandbytes: Any) -> None:
    changes = {"critic": "adapter", "reference_storage": "adapter_off", "lora": NF4}
    module = ppo_runs.make_module(execution={"activation_checkpointing": True}, **changes)
    ppo_runs.fit(module)
    assert is_quantized(module.network.policy.causal_lm)
    moved = [weight.abs().max() > 0 for n, weight in module.network.named_parameters() if "lora_B" in n]
    assert len(moved) == 2 * 2 * 2 and all(moved)

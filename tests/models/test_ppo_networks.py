"""PPO's networks from its arguments: which critic, which reference, and what contradicts what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.export import export_policy, export_scorer
from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.ppo_networks import build_actor_critic, build_reference
from lit_rlhf.models.reference import AdapterOff, Frozen, MovingReference
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.value_head import ValueHead
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import random_trees, weights_of

TOKENIZER = make_tokenizer()
TREES = pack_trees(random_trees(3))
LORA = {"r": 4, "target_modules": "all-linear"}


def build(
    critic: str | None = None, wants_critic: bool = True, lora: dict[str, Any] | None = None
) -> tuple[ActorCritic, LoraAdapter | None]:
    return build_actor_critic(make_llama(TOKENIZER), critic, wants_critic, "auto", lora)


def move(network: ActorCritic) -> None:
    """As training would: every weight that is trained changes."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))


def start() -> torch.Tensor:
    return PolicyNetwork(make_llama(TOKENIZER))(TREES).logprobs


def test_a_critic_of_its_own_is_the_policys_trunk_copied_with_values_of_zero() -> None:
    network, _ = build()
    assert isinstance(network.critic, ScorerNetwork)
    assert torch.equal(weights_of(network.critic.trunk), weights_of(make_llama(TOKENIZER).base_model))
    assert not {id(p) for p in network.critic.parameters()} & {id(p) for p in network.policy.parameters()}
    assert (network(TREES).values == 0).all()


def test_a_critic_from_a_reward_export_keeps_its_head_and_bias(tmp_path: Path) -> None:
    scorer = ScorerNetwork(make_llama(TOKENIZER, seed=1).base_model)
    scorer.shift(torch.tensor(-2.0))
    export_scorer(scorer, TOKENIZER, tmp_path / "reward")
    network, _ = build(str(tmp_path / "reward"))
    assert torch.allclose(network(TREES).values, scorer.values(TREES), atol=1e-5)
    assert torch.equal(network.critic.head.weight, scorer.head.weight)


def test_a_critic_from_a_policys_folder_has_that_trunk(tmp_path: Path) -> None:
    make_llama(TOKENIZER, seed=1).save_pretrained(tmp_path)
    network, _ = build(str(tmp_path))
    assert torch.equal(weights_of(network.critic.trunk), weights_of(make_llama(TOKENIZER, seed=1).base_model))


def test_a_shared_critic_is_a_head_on_the_policys_own_states() -> None:
    network, _ = build("shared")
    assert isinstance(network.critic, ValueHead)
    assert sum(p.numel() for p in network.critic_parameters()) == 33
    assert (network(TREES).values == 0).all()


def test_where_no_values_are_wanted_there_is_no_critic_and_none_may_be_given(tmp_path: Path) -> None:
    network, _ = build(wants_critic=False)
    assert network.critic is None and network.critic_parameters() == []
    assert not any("critic" in name for name in network.state_dict())
    for given in ("shared", str(tmp_path)):
        with pytest.raises(ValueError, match=rf"model\.critic: expected null, found {given}.*advantage: gae"):
            build(given, wants_critic=False)


def test_dropout_is_off_in_policy_and_critic() -> None:
    config = GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=1, n_head=2, n_positions=64)
    network, _ = build_actor_critic(GPT2LMHeadModel(config).train(), None, True, "auto", None)
    rates = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(rates) >= 6 and set(rates) == {0.0}


@pytest.mark.parametrize("critic", [None, "shared"])
def test_lora_is_the_policys_alone(critic: str | None) -> None:
    network, adapter = build(critic, lora=LORA)
    assert adapter is not None and adapter.layers
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("policy.")} == {
        name for name, _ in network.named_parameters() if "lora_" in name
    }
    critics = {name for name, _ in network.named_parameters() if name.startswith("critic.")}
    assert critics and critics <= trained and not any("lora_" in name for name in critics)
    assert len(network.policy_parameters()) + len(network.critic_parameters()) == len(trained)
    assert torch.allclose(network(TREES).logprobs, start(), atol=1e-5)


@pytest.mark.parametrize(
    ("storage", "lora"),
    [("frozen", None), ("frozen", LORA), ("frozen", {"use_dora": True}), ("adapter_off", LORA)],
    ids=str,
)
def test_the_reference_is_the_start_to_the_bit_while_the_policy_moves(storage: Any, lora: Any) -> None:
    network, adapter = build(lora=lora)
    reference = build_reference(None, storage, network, adapter, "auto")
    assert type(reference) is (Frozen if storage == "frozen" else AdapterOff)
    move(network)
    assert torch.equal(reference(TREES).logprobs, start())
    assert not torch.allclose(network(TREES).logprobs, start(), atol=1e-2)
    if storage == "frozen":
        held = dict(reference.network.named_parameters())
        assert not any("lora" in name or "base_layer" in name for name in held)
        assert not {id(p) for p in held.values()} & {id(p) for p in network.parameters()}


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("settings", [{"every": 2}, {"decay": 0.5}], ids=str)
def test_a_reference_that_moves_begins_at_the_start(settings: dict[str, Any], lora: Any) -> None:
    network, adapter = build(lora=lora)
    reference = build_reference(settings, "frozen", network, adapter, "auto")
    assert isinstance(reference, MovingReference) and reference.adapter is adapter
    move(network)
    assert torch.equal(reference(TREES).logprobs, start())
    reference.advance(network.policy, 2)
    gap = (reference(TREES).logprobs - network(TREES).logprobs).abs().max()
    assert gap < 1e-4 if "every" in settings else gap > 1e-2
    assert not torch.allclose(reference(TREES).logprobs, start(), atol=1e-2)


def test_a_reference_from_a_folder_is_that_model(tmp_path: Path) -> None:
    other = make_llama(TOKENIZER, seed=1)
    other.save_pretrained(tmp_path)
    reference = build_reference(str(tmp_path), "frozen", *build(lora=LORA), "auto")
    assert torch.allclose(reference(TREES).logprobs, PolicyNetwork(other)(TREES).logprobs, atol=1e-6)


@pytest.mark.parametrize("reference", ["a folder", {"every": 3}])
def test_adapter_off_has_the_start_for_its_reference(reference: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"model\.reference: expected null with reference_storage: adapter_off.*Use frozen with",
    ):
        build_reference(reference, "adapter_off", *build(lora=LORA), "auto")
    with pytest.raises(
        ValueError, match=r"model\.reference_storage: adapter_off needs model\.lora.*use frozen\."
    ):
        build_reference(None, "adapter_off", *build(), "auto")


def test_settings_of_a_moving_reference_are_refused_by_their_key() -> None:
    with pytest.raises(ValueError, match=r"model\.reference\.every: expected a whole number"):
        build_reference({"every": 0}, "frozen", *build(), "auto")


@pytest.mark.parametrize("part", ["critic", "reference"])
def test_both_must_read_the_policys_ids(part: str, tmp_path: Path) -> None:
    make_llama(TOKENIZER, vocab_size=len(TOKENIZER) + 8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.{part}: expected the policy's vocabulary of 320 tokens"):
        network = build(str(tmp_path) if part == "critic" else None)
        build_reference(str(tmp_path), "frozen", *network, "auto")


def test_the_export_has_the_adapters_merged_and_beside_it(tmp_path: Path) -> None:
    network, adapter = build("shared", lora=LORA)
    move(network)
    export_policy(network.policy, TOKENIZER, tmp_path / "export", adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert torch.allclose(PolicyNetwork(merged)(TREES).logprobs, network(TREES).logprobs, atol=1e-4)
    assert (tmp_path / "export-adapter" / "adapter_model.safetensors").is_file()


def test_the_state_holds_adapters_and_critic_and_loads() -> None:
    network, _ = build("shared", lora=LORA)
    move(network)
    state = network.state_dict()
    besides = {name for name in state if "lora_A" not in name and "lora_B" not in name}
    assert besides == {"critic.weight", "critic.bias", "lora_base_checksum"}
    again, _ = build("shared", lora=LORA)
    again.load_state_dict(state)
    assert torch.equal(again(TREES).values, network(TREES).values)
    assert torch.equal(again(TREES).logprobs, network(TREES).logprobs)

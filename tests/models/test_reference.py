"""References that move: the arithmetic of following, what is saved, and settings by their keys."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reference import Frozen, MovingReference, moving_reference
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()
TREES = pack_trees(random_trees(3))


class Scale(nn.Module):
    """One weight, a table in floats and a count in integers."""

    def __init__(self, weight: float, table: float = 0.0, count: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.register_buffer("table", torch.tensor([table]))
        self.register_buffer("count", torch.tensor(count))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def weight_of(reference: MovingReference) -> float:
    return reference(torch.ones(1)).item()


def set_to(network: Scale, value: float) -> Scale:
    with torch.no_grad():
        network.weight.fill_(value)
    return network


def test_an_average_moves_by_its_share_an_iteration() -> None:
    """τ = 3/4: 8, then ¾·8 + ¼·4 = 7, then ¾·7 + ¼·(−1) = 5."""
    policy = Scale(8.0)
    reference = MovingReference(Scale(8.0), decay=0.75)
    found = []
    for iteration, value in ((1, 4.0), (2, -1.0)):
        reference.advance(set_to(policy, value), iteration)
        found.append(weight_of(reference))
    assert found == [7.0, 5.0]
    assert policy.weight.item() == -1.0


def test_an_iterate_is_that_of_the_last_iteration_that_n_divides() -> None:
    policy, reference = Scale(0.0), MovingReference(Scale(0.0), every=3)
    found = []
    for iteration in range(8):
        reference.advance(set_to(policy, float(iteration)), iteration)
        found.append(weight_of(reference))
    assert found == [0, 0, 0, 3, 3, 3, 6, 6]


@pytest.mark.parametrize("settings", [{"every": 1}, {"decay": 0.5}])
def test_the_policy_going_on_does_not_take_the_reference_along(settings: dict[str, Any]) -> None:
    policy, reference = Scale(2.0), moving_reference(settings, Scale(2.0))
    reference.advance(policy, 1)
    set_to(policy, 9.0)
    assert weight_of(reference) == 2.0


def test_following_twice_to_one_iteration_is_following_once() -> None:
    """A checkpoint from within a rollout holds a reference that has followed already."""
    reference = MovingReference(Scale(8.0), decay=0.5)
    for _ in range(2):
        reference.advance(Scale(0.0), 1)
    assert weight_of(reference) == 4.0
    reference.start_anew()  # another fit begins, whose iteration 1 is another
    reference.advance(Scale(0.0), 1)
    assert weight_of(reference) == 2.0


@pytest.mark.parametrize("settings", [{"every": 1}, {"decay": 0.5}])
def test_buffers_are_the_policys_whatever_their_kind(settings: dict[str, Any]) -> None:
    reference = moving_reference(settings, Scale(1.0))
    reference.advance(Scale(1.0, table=3.0, count=5), 1)
    assert reference.network.table.item() == 3.0
    assert reference.network.count.item() == 5 and reference.network.count.dtype == torch.int64


def test_a_slow_average_of_coarse_weights_moves_all_the_same() -> None:
    """From 1 to 2 by 1/1000 a time: in bf16, 1 + 1/1000 is 1 again, for ever; 1 − 0.999^200 of the way is 0.181."""
    policy, reference = Scale(2.0).bfloat16(), MovingReference(Scale(1.0).bfloat16(), decay=0.999)
    for iteration in range(1, 201):
        reference.advance(policy, iteration)
    assert reference.network.weight.dtype == torch.bfloat16
    assert reference.network.weight.item() == 1.1796875  # the number of bf16 nearest to 1.1814
    assert reference.state_dict()["weights"]["weight"].item() == pytest.approx(2 - 0.999**200, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_average_of_other_weights_is_taken_in_its_own(dtype: torch.dtype) -> None:
    policy, reference = Scale(1 + 2**-30).to(dtype), MovingReference(Scale(0.0).to(dtype), decay=0.5)
    set_to(policy, 1 + 2**-30)
    reference.advance(policy, 1)
    expected = 0.5 if dtype == torch.float32 else 0.5 + 2**-31
    assert reference.network.weight.item() == expected
    assert reference.network.weight.dtype == dtype


def test_a_call_has_no_gradient_and_its_network_is_in_eval_mode() -> None:
    reference = moving_reference({"every": 2}, PolicyNetwork(make_llama(TOKENIZER).train()))
    assert not reference(TREES).logprobs.requires_grad
    assert not any(module.training for module in reference.network.modules())
    reference.advance(PolicyNetwork(make_llama(TOKENIZER, 1)).train(), 2)
    assert not any(p.requires_grad for p in reference.network.parameters())
    assert isinstance(reference, Frozen)  # as which precision and device are settled


def gpt2(seed: int) -> PolicyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=2, n_head=2, n_positions=64)
        return PolicyNetwork(GPT2LMHeadModel(config))


def test_tied_weights_are_averaged_once_and_stay_tied() -> None:
    first, second = gpt2(0), gpt2(1)
    start = first.causal_lm.lm_head.weight.detach().clone()
    reference = MovingReference(first, decay=0.5)
    reference.advance(second, 1)
    held = reference.network.causal_lm
    assert held.lm_head.weight is held.transformer.wte.weight
    assert torch.allclose(held.lm_head.weight, (start + second.causal_lm.lm_head.weight) / 2, atol=1e-6)
    stored = reference.state_dict()["weights"]
    assert not any("lm_head" in name for name in stored)
    again = MovingReference(gpt2(2), decay=0.5)
    again.load_state_dict(reference.state_dict())
    assert torch.equal(again(TREES).logprobs, reference(TREES).logprobs)
    assert again.network.causal_lm.lm_head.weight is again.network.causal_lm.transformer.wte.weight


def stored_and_read(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint has it: plain values, and tensors that share nothing with those of the run."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("settings", [{"every": 2}, {"decay": 0.9}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_run_goes_on_from_its_state_to_the_bit(settings: dict[str, Any], dtype: torch.dtype) -> None:
    """The state comes before the precision, as in a trainer that restores a checkpoint."""
    policies = [Scale(float(value)).to(dtype) for value in torch.randn(6, dtype=torch.float64)]
    straight, stopped = (moving_reference(settings, Scale(1 / 3).to(dtype)) for _ in range(2))
    for iteration in range(6):
        straight.advance(policies[iteration], iteration)
    for iteration in range(4):
        stopped.advance(policies[iteration], iteration)
    resumed = moving_reference(settings, Scale(1 / 3))
    resumed.load_state_dict(stored_and_read(stopped.state_dict()))
    assert torch.equal(resumed.state_dict()["weights"]["weight"], stopped.state_dict()["weights"]["weight"])
    resumed.network.to(dtype)
    for iteration in range(3, 6):  # and the iteration that it was stopped in counts once
        resumed.advance(policies[iteration], iteration)
    assert torch.equal(resumed.network.weight, straight.network.weight)
    assert torch.equal(resumed.state_dict()["weights"]["weight"], straight.state_dict()["weights"]["weight"])


def test_a_loaded_state_is_in_use_at_the_first_call() -> None:
    reference = MovingReference(Scale(1.0), every=5)
    reference.load_state_dict({"iteration": 7, "weights": {"weight": torch.tensor([4.0])}})
    assert weight_of(reference) == 4.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"other": torch.zeros(1)}, r"weight has the shape None there and \(1,\) here"),
        ({"weight": torch.zeros(2)}, r"weight has the shape \(2,\) there and \(1,\) here"),
        (
            {"weight": torch.zeros(1), "more": torch.zeros(3)},
            r"more has the shape \(3,\) there and None here",
        ),
    ],
)
def test_the_state_of_another_model_is_refused(weights: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"moving reference is of another model: {message}"):
        MovingReference(Scale(1.0), every=2).load_state_dict({"iteration": 1, "weights": weights})


def adapted(**lora: Any) -> tuple[PolicyNetwork, LoraAdapter]:
    policy = PolicyNetwork(make_llama(TOKENIZER))
    adapter = add_lora(policy, policy.causal_lm, {"r": 4, **lora})
    assert adapter is not None
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy.eval(), adapter


@pytest.mark.parametrize("lora", [{}, {"use_dora": True, "target_modules": "all-linear"}], ids=str)
def test_with_adapters_the_iterate_is_the_policy_with_them(lora: dict[str, Any]) -> None:
    policy, adapter = adapted(**lora)
    start = PolicyNetwork(make_llama(TOKENIZER))
    reference = moving_reference({"every": 2}, start, adapter)
    before = reference(TREES).logprobs
    names = [name for name, _ in policy.named_parameters()]
    reference.advance(policy, 2)
    now = policy(TREES).logprobs
    assert torch.allclose(reference(TREES).logprobs, now, atol=1e-4)
    assert not torch.allclose(before, now, atol=1e-2)
    assert [name for name, _ in policy.named_parameters()] == names


def test_with_adapters_the_average_is_one_of_whole_weights() -> None:
    """W + ½·(α/r)·BA; averaging A and B by themselves would give a quarter, since B starts at 0."""
    policy, adapter = adapted(target_modules=["q_proj"])
    layer = policy.causal_lm.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight + 0.5 * (8 / 4) * b @ a
    reference = moving_reference({"decay": 0.5}, PolicyNetwork(make_llama(TOKENIZER)), adapter)
    reference.advance(policy, 1)
    found = reference.network.causal_lm.model.layers[0].self_attn.q_proj.weight
    assert torch.allclose(found, expected, atol=1e-6)
    assert (b @ a).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"model\.reference: expected \{every: n\} .* or \{decay: τ\} .*, found \{\}"),
        ({"evry": 3}, r"model\.reference: expected .* found \{'evry': 3\}"),
        ({"every": 3, "decay": 0.9}, r"model\.reference: expected .* found"),
        ({"every": 0}, r"model\.reference\.every: expected a whole number of iterations from 1, found 0"),
        ({"every": 1.5}, r"model\.reference\.every: .* found 1\.5"),
        ({"every": True}, r"model\.reference\.every: .* found True"),
        ({"every": None}, r"model\.reference\.every: .* found None"),
        ({"every": "3"}, r"model\.reference\.every: .* found '3'"),
        ({"decay": 0}, r"model\.reference\.decay: expected more than 0 and less than 1, found 0"),
        ({"decay": 1.0}, r"model\.reference\.decay: .* found 1\.0"),
        ({"decay": "slow"}, r"model\.reference\.decay: .* found 'slow'"),
        ({"decay": float("nan")}, r"model\.reference\.decay: .* found nan"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_by_their_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moving_reference(settings, Scale(1.0))


def test_settings_are_taken_as_given() -> None:
    every = moving_reference({"every": 10.0}, Scale(1.0))  # a file may have it as a decimal number
    assert (every.every, every.decay) == (10, None) and isinstance(every.every, int)
    average = moving_reference({"decay": 0.99}, Scale(1.0))
    assert (average.every, average.decay) == (None, 0.99)

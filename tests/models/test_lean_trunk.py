"""The lean trunk: the states of the model's own forward, in the families that it knows and in no others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from lit_rlhf.models import lean_trunk, packed_linear
from lit_rlhf.models.decoding import Feed, attending_to_trees, next_token_states
from lit_rlhf.models.key_value_store import Buffers, NextTokenAttention, PromptAttention, Sharing
from lit_rlhf.models.lean_trunk import LeanTrunk, decoding_from_copies
from lit_rlhf.models.lora import add_lora
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import choose_attention
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES

TOKENIZER = make_tokenizer()
LENGTHS = torch.tensor([9, 4, 7])
"""Of the prompts: with the responses they are longer than the families' windows of 6, or not."""
STEPS = 4
KNOWN: dict[str, Callable[[], PreTrainedModel]] = {
    **{name: make for name, make in FAMILIES.items() if not name.startswith(("gemma", "gpt2"))},
    "llama, heads that are wider than their share": lambda: make_llama(TOKENIZER, head_dim=12),
    "llama, biases": lambda: make_llama(TOKENIZER, attention_bias=True, mlp_bias=True),
    "llama, one key head for each": lambda: make_llama(TOKENIZER, num_key_value_heads=4, rms_norm_eps=0.1),
    "llama, stretched positions": lambda: make_llama(
        TOKENIZER, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    ),
}


def model_of(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """With norms and biases that do something."""
    model = choose_attention(make().eval(), "trees")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.5)
    return model


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each step of the lean trunk had."""
    taken: list[int] = []
    call = LeanTrunk.__call__

    def noting(self: LeanTrunk, input_ids: Tensor, *others: object) -> Tensor:
        taken.append(input_ids.numel())
        return call(self, input_ids, *others)

    monkeypatch.setattr(LeanTrunk, "__call__", noting)
    return taken


@torch.no_grad()
def decoded_states(model: PreTrainedModel, shared: bool = False) -> Tensor:
    """States of three rows over four steps, ``[4, 3, D]``; if shared, the first two follow the first prompt."""
    lengths = LENGTHS[:2] if shared else LENGTHS
    tokens = torch.Generator().manual_seed(1)
    own, held = Buffers(3, 32), Buffers(len(lengths), 32)
    if not shared:
        held = own
    held.grow(int(lengths.max()))
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])
    holders = torch.arange(len(lengths)).repeat_interleave(lengths)
    ids = torch.randint(3, 300, (len(positions),), generator=tokens)
    prompts = Feed(ids, positions, PromptAttention(held, holders, positions), lengths.tolist())
    next_token_states(model.base_model, prompts)
    rows, sharing, seen = torch.arange(3), None, []
    if shared:
        slots = torch.tensor([0, 1, 2])
        sharing = Sharing(held, slots, 2, lengths, held.allocated, rows_in_order=False)
    for step in range(STEPS):
        ids = torch.randint(3, 300, (3,), generator=tokens)
        before = lengths[torch.tensor([0, 0, 1])] if shared else lengths
        columns = torch.full((3,), step) if shared else before + step
        own.grow(int(columns.max()) + 1)
        attention = NextTokenAttention(own, rows, columns, sharing)
        seen.append(next_token_states(model.base_model, Feed(ids, before + step, attention)))
    return torch.stack(seen)


def replaced(model: nn.Module) -> list[str]:
    """The parts whose own forward is not what is called."""
    return [name for name, part in model.named_modules() if "forward" in vars(part)]


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_states_are_those_of_the_models_own_forward(family, shared, packed, steps, monkeypatch):
    if packed:
        monkeypatch.setattr(packed_linear, "FEWEST_WEIGHTS", 1)
    torch.manual_seed(0)
    model = model_of(KNOWN[family])
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with attending_to_trees(model):
        own = decoded_states(model, shared)
        assert not steps
        with decoding_from_copies(model):
            lean = decoded_states(model, shared)
    assert steps == [3] * STEPS  # and not for the prompts
    assert torch.allclose(lean, own, atol=1e-5, rtol=1e-5), (lean - own).abs().max()
    assert own.std() > 0.1  # nothing trivial was compared
    assert not replaced(model)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_the_models_own_forward_is_back_after_an_exception(tiny_llama, monkeypatch):
    monkeypatch.setattr(packed_linear, "FEWEST_WEIGHTS", 1)
    with pytest.raises(KeyError), decoding_from_copies(tiny_llama):
        assert set(replaced(tiny_llama)) == {"model", "lm_head"}
        raise KeyError
    assert not replaced(tiny_llama)


def with_lora(model: PreTrainedModel) -> None:
    add_lora(model, model, {"r": 2})


def with_a_hook(model: PreTrainedModel) -> None:
    model.base_model.layers[1].mlp.register_forward_hook(lambda *_: None)


def with_an_early_hook(model: PreTrainedModel) -> None:
    model.base_model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda *_: None)


def with_another_forward(model: PreTrainedModel) -> None:
    network = model.base_model.layers[0].mlp
    network.forward = network.forward


def with_another_layer(model: PreTrainedModel) -> None:
    layer = model.base_model.layers[0]
    layer.__class__ = type("MyLayer", (type(layer),), {})


OTHERS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[PreTrainedModel], None]]] = {
    **{name: (FAMILIES[name], lambda _: None) for name in ("gemma", "gpt2", "gemma3, sliding window")},
    "bf16": (lambda: make_llama(TOKENIZER).bfloat16(), lambda _: None),
    "gelu": (lambda: make_llama(TOKENIZER, hidden_act="gelu"), lambda _: None),
    "lora": (lambda: make_llama(TOKENIZER), with_lora),
    "a hook": (lambda: make_llama(TOKENIZER), with_a_hook),
    "an early hook": (lambda: make_llama(TOKENIZER), with_an_early_hook),
    "another forward": (lambda: make_llama(TOKENIZER), with_another_forward),
    "another layer": (lambda: make_llama(TOKENIZER), with_another_layer),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_known_takes_its_own_forward(name, steps):
    make, change = OTHERS[name]
    torch.manual_seed(0)
    model = choose_attention(make().eval(), "trees")
    change(model)
    before = replaced(model)
    with attending_to_trees(model):
        own = decoded_states(model)
        with decoding_from_copies(model):
            assert torch.equal(decoded_states(model), own)
    assert not steps
    assert replaced(model) == before


def test_no_more_is_copied_than_allowed(tiny_llama, monkeypatch):
    layers = sum(weight.numel() for weight in tiny_llama.model.layers.parameters())
    head = tiny_llama.lm_head.weight.numel()
    monkeypatch.setattr(packed_linear, "FEWEST_WEIGHTS", 1)

    def copied(allowed: int) -> list[bool]:
        monkeypatch.setattr(lean_trunk, "MOST_WEIGHTS", allowed)
        with decoding_from_copies(tiny_llama):
            found = replaced(tiny_llama)
        return ["model" in found, "lm_head" in found, "model.layers.0.mlp.up_proj" in found]

    assert copied(layers + head) == [
        True,
        True,
        False,
    ]  # prompts are many rows, and take the model's own maps
    assert copied(layers + head - 1) == [True, False, False]
    assert copied(layers - 1) == [False, True, True]


def test_autocast_is_left_to_the_models_own_forward(tiny_llama, steps):
    model = choose_attention(tiny_llama.eval(), "trees")
    with attending_to_trees(model), torch.autocast("cpu", torch.bfloat16):
        own = decoded_states(model)
        with decoding_from_copies(model):
            assert torch.equal(decoded_states(model), own)
    assert not steps
    with attending_to_trees(model), decoding_from_copies(model):
        decoded_states(model)
    assert steps


@pytest.mark.parametrize("family", ["llama", "mistral, sliding window", "qwen3"])
def test_greedy_responses_are_those_of_generate(family, steps, monkeypatch):
    monkeypatch.setattr(packed_linear, "FEWEST_WEIGHTS", 1)
    torch.manual_seed(0)
    model = model_of(FAMILIES[family])
    prompts, limits = [[5, 6, 7], [9], list(range(40, 50)), [9]], [3, 20, 8, 14]
    expected = []
    for prompt, limit in zip(prompts, limits, strict=True):
        ids = torch.tensor([prompt])
        row = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(max_new_tokens=limit, do_sample=False, pad_token_id=2),
        )
        expected.append(row[0, len(prompt) :].tolist())
    settings, keys = SamplingSettings(max_new_tokens=20, temperature=0.0), torch.arange(4)
    found = sample_responses(PolicyNetwork(model), prompts, settings, keys, eos_token_id=-1, limits=limits)
    assert found.response_ids == expected
    # the first token comes with the prompt; rows leave with their last
    assert steps == [4, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]

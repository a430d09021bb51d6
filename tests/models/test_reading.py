"""The flat row and the padded rows are one computation: same numbers, same gradients, for every family."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.flex_attention import Segment
from lit_rlhf.models.reading import (
    choose_attention,
    last_states,
    predicting_states,
    reads_flat,
    why_not_trees,
)
from lit_rlhf.models.tree_attention import NAME, tree_attention
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES, SIZES, gradients_without_and_with_checkpointing
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()


@pytest.fixture(autouse=True)
def _short_segments_take_the_flat_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)


def both(
    model: PreTrainedModel, trees: list[Tree], weight: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(outputs, gradient of all parameters) over padded rows and over the flat row."""
    batch = pack_trees(trees)
    found = []
    for asked in ("padded", "trees"):
        choose_attention(model, asked)
        assert reads_flat(model.base_model, batch) == (asked == "trees")
        model.zero_grad()
        states = torch.cat([predicting_states(model.base_model, batch), last_states(model.base_model, batch)])
        (states @ weight).sin().sum().backward()
        grads = [p.grad.flatten() for p in model.base_model.parameters() if p.grad is not None]
        found.append((states.detach(), torch.cat(grads)))
    return found


def agree(found: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    (padded, padded_grad), (flat, flat_grad) = found
    assert torch.allclose(flat, padded, atol=1e-5 * padded.abs().max().item())
    assert (flat_grad - padded_grad).norm() < 1e-4 * padded_grad.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_states_and_gradients(family: str):
    model = FAMILIES[family]()
    assert model.config._attn_implementation != NAME
    agree(both(model, random_trees(5), torch.randn(32)))
    assert model.config._attn_implementation == NAME


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 5), seed=st.integers(0, 1000), most=st.integers(2, 8))
def test_any_trees_agree(count: int, seed: int, most: int):
    agree(both(make_llama(TOKENIZER), random_trees(count, seed, most), torch.ones(32)))


def test_edges_agree():
    """A prompt of one token, responses of one token, a shared prefix, one tree larger than all the others."""
    trees = [
        Tree([5], [[6], [7]], [[True], [True]]),
        Tree([5, 6], [[9, 10, 11, 1], [9, 10, 12, 1]], [[True] * 4] * 2),
        Tree(list(range(20, 60)), [list(range(60, 100)), [1]], [[True] * 40, [True]]),
        Tree([8, 9], [[4, 5, 6]], [[True, False, True]]),
    ]
    agree(both(make_llama(TOKENIZER), trees, torch.ones(32)))


def test_activation_checkpointing_recomputes_the_same_attention():
    model = make_llama(TOKENIZER).train()
    choose_attention(model, "trees")
    gradients = gradients_without_and_with_checkpointing(model, pack_trees(random_trees(4)))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * gradients[0].abs().max().item())


def test_decoding_goes_on_to_plain_attention():
    model = make_llama(TOKENIZER).eval()
    prompt = torch.tensor([[5, 6, 7]])
    settings_of_test = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 8, "do_sample": False}
    before = model.generate(prompt, **settings_of_test)
    choose_attention(model, "trees")
    assert torch.equal(model.generate(prompt, **settings_of_test), before)


def test_short_segments_take_padded_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 4)
    model = make_llama(TOKENIZER)
    choose_attention(model, "trees")
    assert not reads_flat(model.base_model, pack_trees([Tree([5, 6], [[7, 1], [8, 1]], [[True] * 2] * 2)]))
    assert reads_flat(model.base_model, pack_trees([Tree([5] * 9, [[7, 1], [8, 1]], [[True] * 2] * 2)]))


FEW_EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
LEFT_TO_PADDED_ROWS = {
    "it caps attention logits": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8)),
    "its sliding window is in its mask alone": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZES, **FEW_EXPERTS, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "it carries a state from token to token": lambda: Qwen3NextForCausalLM(
        Qwen3NextConfig(**SIZES, **FEW_EXPERTS, head_dim=8)
    ),
}


@pytest.mark.parametrize("reason", LEFT_TO_PADDED_ROWS)
def test_what_cannot_be_replaced_takes_padded_rows_and_says_so(reason: str, caplog: pytest.LogCaptureFixture):
    model = LEFT_TO_PADDED_ROWS[reason]()
    name = type(model).__name__
    with caplog.at_level("INFO"):
        choose_attention(model)
    assert f"{name}: padded rows ({reason})" in caplog.text
    assert not reads_flat(model.base_model, pack_trees(random_trees(2)))
    with pytest.raises(ValueError, match=f"{name} cannot: {reason}"):
        choose_attention(model, "trees")


def test_kinds_of_layer_that_are_not_known_take_padded_rows():
    model = make_llama(TOKENIZER)
    model.config.layer_types = ["full_attention", "conv"]
    assert why_not_trees(model) == "it has layers of conv"


def test_a_family_of_windows_takes_trees_where_the_window_is_off():
    config = Qwen2MoeConfig(**SIZES, **FEW_EXPERTS, use_sliding_window=False)
    assert why_not_trees(Qwen2MoeForCausalLM(config)) is None


def test_a_model_that_loses_the_segments_takes_padded_rows():
    model = StableLmForCausalLM(StableLmConfig(**SIZES))
    assert why_not_trees(model) == "its layers do not tell their attention of the segments"
    choose_attention(model)
    assert not reading.reads_flat(model.base_model, pack_trees(random_trees(2)))


def test_segments_that_are_lost_all_the_same_are_an_error_and_no_leak():
    model = StableLmForCausalLM(StableLmConfig(**SIZES))
    model.set_attn_implementation(reading.NAME)
    with pytest.raises(
        NotImplementedError, match=r"StableLmAttention is not handed .* model.attention: padded"
    ):
        predicting_states(model.base_model, pack_trees(random_trees(2)))


def test_what_changes_weights_in_a_way_that_is_not_known_is_an_error():
    heads = torch.zeros(1, 2, 3, 16)
    with pytest.raises(NotImplementedError, match="LlamaForCausalLM attends with position_bias"):
        tree_attention(
            make_llama(TOKENIZER),
            heads,
            heads,
            heads,
            None,
            tree_segments=[Segment(3, None)],
            position_bias=heads,
        )

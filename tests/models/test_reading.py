"""The flat row and the padded rows are one computation: same numbers, same gradients, for every family."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.reading import choose_attention, last_states, predicting_states, reads_flat
from lit_rlhf.models.tree_attention import NAME
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()
SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
FAMILIES = {
    "llama": lambda: make_llama(TOKENIZER),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, **NO_DROPOUT)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2, sliding window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8)),
    "gemma3, sliding window": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
}


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
    batch = pack_trees(random_trees(4))
    choose_attention(model, "trees")
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        predicting_states(model.base_model, batch).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.base_model.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * gradients[0].abs().max().item())


def test_other_branches_and_trees_and_what_follows_are_not_seen():
    model = make_llama(TOKENIZER)
    choose_attention(model, "trees")

    def first_response(other: list[int], next_prompt: list[int]) -> torch.Tensor:
        trees = [
            Tree([5, 6, 7], [[9, 10, 1], other], [[True] * 3, [True] * len(other)]),
            Tree(next_prompt, [[11]], [[True]]),
        ]
        return predicting_states(model.base_model, pack_trees(trees))[:3]

    assert torch.allclose(first_response([20, 21], [30]), first_response([40] * 7, [50] * 9), atol=1e-6)


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


def test_what_cannot_be_replaced_takes_padded_rows_and_says_so(caplog: pytest.LogCaptureFixture):
    config = Gemma2Config(**SIZES, head_dim=8)
    assert config.attn_logit_softcapping is not None
    model = Gemma2ForCausalLM(config)
    with caplog.at_level("INFO"):
        choose_attention(model)
    assert "Gemma2ForCausalLM: padded rows (it caps attention logits)" in caplog.text
    with pytest.raises(ValueError, match="Gemma2ForCausalLM cannot: it caps attention logits"):
        choose_attention(model, "trees")

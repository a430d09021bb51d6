"""A tiny model of each family that response trees are tested with."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
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

from lit_rlhf.models.reading import predicting_states
from lit_rlhf.records import ResponseTrees
from tests.conftest import make_llama, make_tokenizer

TOKENIZER = make_tokenizer()
# wide weights, so that attention is far from uniform; heads of 16, the least that FlexAttention takes
SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2,
}  # fmt: skip
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: make_llama(TOKENIZER, head_dim=16),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=320,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=128,
            initializer_range=0.2,
            **NO_DROPOUT,
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2, sliding window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=16)),
    "gemma3, sliding window": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES, head_dim=16, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
}


def gradients_without_and_with_checkpointing(model: PreTrainedModel, batch: ResponseTrees) -> list[Tensor]:
    """Two flat gradients of the trunk, of the sum of squares of the states that predict."""
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        predicting_states(model.base_model, batch).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.base_model.parameters()]))
    return gradients

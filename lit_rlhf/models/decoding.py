"""One forward of decoding: prompts packed in a row, or the next token of each unfinished response.

Both are a flat row without padding, as in training, so every model that attends over response trees decodes, and
what it samples with are the numbers that it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.flex_attention import BlockMasks, Segment, takes_flex
from lit_rlhf.models.key_value_store import NextTokenAttention, PromptAttention
from lit_rlhf.models.last_layer import distinct_positions
from lit_rlhf.models.reading import ATTENTION_NAMES, why_not_trees
from lit_rlhf.models.tree_attention import NAME, NO_MASK

FOLLOWING_THE_LONGEST = ("longrope", "dynamic")
"""Kinds of rotary positions whose factors change with the longest sequence of a batch."""


@dataclass
class Feed:
    """The tokens of one forward, T of them, end to end."""

    input_ids: Tensor
    """Long ``[T]``."""
    position_ids: Tensor
    """Long ``[T]``."""
    attention: NextTokenAttention | PromptAttention
    prompt_lengths: list[int] | None = None
    """Of prompts; None = every token is the newest of a response."""

    @property
    def device(self) -> torch.device:
        return self.input_ids.device


def next_token_states(trunk: PreTrainedModel, feed: Feed) -> Tensor:
    """Final states ``[M, D]`` that predict the next tokens: of each prompt's last token, or of every row's newest."""
    segments, read, masks = None, None, None
    if feed.prompt_lengths is not None:
        segments = [Segment(length, None) for length in feed.prompt_lengths]
        read = torch.tensor(feed.prompt_lengths, device=feed.device).cumsum(0) - 1
        masks = BlockMasks(segments, feed.device) if takes_flex(trunk, feed.device) else None
    output = trunk(
        input_ids=feed.input_ids[None],
        position_ids=feed.position_ids[None],
        attention_mask=feed.input_ids.new_zeros(NO_MASK),
        use_cache=False,
        tree_segments=segments,
        block_masks=masks,
        decoding=feed.attention,
        read_positions=None if read is None else distinct_positions(read, feed.input_ids.numel()),
    )
    states: Tensor = output.last_hidden_state[0]
    return states if read is None else states[read]


def why_not_decoding(causal_lm: PreTrainedModel) -> str | None:
    """What keeps the model from decoding over our own keys and values; None if nothing does."""
    reason = why_not_trees(causal_lm)
    config = causal_lm.config.get_text_config()
    if (
        reason is None and config._attn_implementation == "eager"
    ):  # asked for, and it may compute something of its own
        return "it attends through an implementation of its own"
    if reason is None and getattr(config, "num_kv_shared_layers", None):
        return "its layers share keys and values"
    if reason is None and _numbers_of_attention(causal_lm) != list(range(config.num_hidden_layers)):
        return "its layers do not each have one attention with its number"
    return reason


def _numbers_of_attention(causal_lm: PreTrainedModel) -> list[int]:
    """What the attention layers are called, in order: keys and values are kept by these numbers."""
    parts = [getattr(module, name, None) for module in causal_lm.modules() for name in ATTENTION_NAMES]
    return [getattr(part, "layer_idx", -1) for part in parts if isinstance(part, nn.Module)]


def most_positions(model: PreTrainedModel) -> int | None:
    """Tokens of a sequence at the most; None where nothing limits them, as with most rotary positions.

    A table of positions ends. Rotary factors that follow the longest sequence of a batch, beyond the length that the
    model was trained on, would make a response depend on what shares its batch.
    """
    config = model.config.get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    rope: dict[str, Any] | None = getattr(config, "rope_parameters", None)
    if rope is None:
        return positions
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # one, or one a kind of layer
    trained = [
        kind.get("original_max_position_embeddings") or positions
        for kind in kinds
        if kind.get("rope_type") in FOLLOWING_THE_LONGEST
    ]
    return min((length for length in trained if length is not None), default=None)


def most_over_ranks(value: int, sharded: bool, device: torch.device | str) -> int:
    """The largest value of all ranks that forward together; this rank's own where each is by itself."""
    if not sharded:
        return value
    largest = torch.tensor(value, device=device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


@contextmanager
def attending_to_trees(causal_lm: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends through ours, also where training takes padded rows."""
    config = causal_lm.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = usual

"""Attention over response trees packed in one flat row: the prompt is computed once, whatever its responses.

The row's segments are prompts and responses, end to end. A prompt's tokens look at their own segment, causally;
a response's tokens look at their prompt, and causally at their own branch. So attention runs segment by
segment, and padding never exists. It is registered with transformers' attention interface under one name; a
call without `tree_segments` (decoding, for one) goes on to plain SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_rlhf.records import ResponseTrees

NAME = "response_trees"
"""Under which transformers knows it."""


class Segment(NamedTuple):
    """A run of tokens in the flat row."""

    length: int
    prompt: int | None
    """For a response, the number of its prompt's segment; None for a prompt."""


def tree_segments(trees: ResponseTrees) -> list[Segment]:
    """The segments of a batch, in the order of its flat row."""
    counts = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees).tolist()
    segments: list[Segment] = []
    lengths = iter(trees.response_lengths)
    for prompt_length, count in zip(trees.prompt_lengths, counts, strict=True):
        prompt = len(segments)
        segments.append(Segment(prompt_length, None))
        segments.extend(Segment(next(lengths), prompt) for _ in range(count))
    return segments


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_segments: Sequence[Segment] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One layer's attention, in the form that transformers' attention interface asks for.

    Args:
        module: the attention layer.
        query: ``[1, heads, T, D_head]``.
        key: ``[1, key heads, T, D_head]``.
        value: as `key`.
        attention_mask: of plain calls; a tree's mask follows from its segments.
        dropout: probability.
        scaling: of the products; None = 1/√D_head.
        tree_segments: the segments, or None for a plain call.
        sliding_window: how many positions back a token may look, itself included.
        kwargs: what else the model hands on; not read.
    Returns:
        ``[1, T, heads, D_head]``, and None for the weights.
    """
    if tree_segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    lengths = [segment.length for segment in tree_segments]
    # split and not slices: the backward of a slice fills a full-size gradient with zeros, for each segment anew
    queries, keys, values = query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2)
    outputs = []
    for number, segment in enumerate(tree_segments):
        seen_keys, seen_values, prompt_length = keys[number], values[number], 0
        if segment.prompt is not None:
            prompt_length = lengths[segment.prompt]
            seen_keys = torch.cat([keys[segment.prompt], seen_keys], 2)
            seen_values = torch.cat([values[segment.prompt], seen_values], 2)
        windowed = sliding_window is not None and prompt_length + segment.length > sliding_window
        plain = prompt_length == 0 and not windowed
        outputs.append(
            scaled_dot_product_attention(
                queries[number],
                seen_keys,
                seen_values,
                attn_mask=None
                if plain
                else _branch_mask(
                    prompt_length, segment.length, sliding_window if windowed else None, query.device
                ),
                is_causal=plain,
                dropout_p=dropout,
                scale=scaling,
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


@lru_cache(maxsize=1024)
def _branch_mask(prompt: int, response: int, window: int | None, device: torch.device) -> Tensor:
    """Bool ``[response, prompt + response]``: True where a branch's token may look."""
    looking = torch.arange(prompt, prompt + response, device=device)[:, None]
    seen = torch.arange(prompt + response, device=device)[None, :]
    mask = seen <= looking
    return mask if window is None else mask & (looking - seen < window)


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def tree_hidden_states(trunk: PreTrainedModel, trees: ResponseTrees) -> Tensor:
    """Final hidden states ``[T, D]`` of the flat row, every distinct token computed once."""
    # A mask of four dimensions is handed on as it is; it keeps transformers from building one of T x T.
    no_mask = trees.input_ids.new_zeros(1, 1, 1, 1)
    output = trunk(
        input_ids=trees.input_ids[None],
        position_ids=trees.position_ids[None],
        attention_mask=no_mask,
        use_cache=False,
        tree_segments=tree_segments(trees),
    )
    return output.last_hidden_state[0]

"""Attention over response trees packed in one flat row: the prompt is computed once, whatever its responses.

The row's segments are prompts and responses, end to end. A prompt's tokens look at their own segment, causally;
a response's tokens look at their prompt, and causally at their own branch. So attention runs segment by segment
through SDPA, and padding never exists; on a GPU it is one call of FlexAttention where the model's family takes
it. It is registered with transformers' attention interface under one name; decoding attends over the
keys and values that it has put away, and a call with neither goes on to plain SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_rlhf.models.flex_attention import BlockMasks, Segment, flex_tree_attention, takes_flex
from lit_rlhf.models.key_value_store import NextTokenAttention, PromptAttention
from lit_rlhf.models.last_layer import distinct_positions, read_by
from lit_rlhf.records import ResponseTrees

NAME = "response_trees"
"""Under which transformers knows it."""
CHANGES_WEIGHTS = ("softcap", "s_aux", "position_bias")
"""What some models hand to their attention beside the usual."""
NO_MASK = (1, 1, 1, 1)
"""Shape of the mask of a flat row: a mask of four dimensions is handed on as it is, and none of T x T is built."""


def tree_segments(trees: ResponseTrees) -> list[Segment]:
    """The segments of a batch, in the order of its flat row.

    A prompt with one response is one segment: each of its tokens looks at all before it.
    """
    counts = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees).tolist()
    segments: list[Segment] = []
    lengths = iter(trees.response_lengths)
    for prompt_length, count in zip(trees.prompt_lengths, counts, strict=True):
        if count == 1:
            segments.append(Segment(prompt_length + next(lengths), None))
            continue
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
    block_masks: BlockMasks | None = None,
    decoding: NextTokenAttention | PromptAttention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One layer's attention, in the form that transformers' attention interface asks for.

    Args:
        module: the attention layer.
        query: ``[1, heads, T, D_head]``.
        key: ``[1, key heads, T, D_head]``.
        value: as `key`.
        attention_mask: of plain calls; a tree's mask follows from its segments.
        dropout: probability that a weight is left out; the model hands on 0 outside training.
        scaling: of the products; None = 1/√D_head.
        tree_segments: the segments, or None for a plain call.
        sliding_window: how many positions back a token may look, itself included.
        block_masks: of the batch, where FlexAttention is taken; None = SDPA. Dropout, which FlexAttention
            does not know, takes SDPA all the same.
        decoding: the keys and values that the tokens of a decoding step look at; or, beside the segments, where
            those of prompts are put away.
        kwargs: what else the model hands on.
    Returns:
        ``[1, T, heads, D_head]``, and None for the weights.
    Raises:
        NotImplementedError: the model loses the segments on the way here, or hands on something that changes
            the weights and is not known here.
    """
    if tree_segments is None and decoding is None:
        if attention_mask is not None and attention_mask.shape == NO_MASK and query.shape[2] > 1:
            raise NotImplementedError(
                f"{type(module).__name__} is not handed the segments of the response trees by the layers above it, "
                "so it cannot attend over them. Set model.attention: padded."
            )
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    unknown = [name for name in CHANGES_WEIGHTS if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(
            f"{type(module).__name__} attends with {', '.join(unknown)}, which attention over trees does not know. "
            "Set model.attention: padded."
        )
    if isinstance(decoding, NextTokenAttention):
        return decoding.attend(module, query, key, value, scaling, sliding_window), None
    assert tree_segments is not None
    if decoding is not None:
        decoding.put_away(module, key, value)
    output = None
    if block_masks is not None and dropout == 0:
        output = flex_tree_attention(query, key, value, block_masks.of(sliding_window), scaling)
    if output is None:
        output = _by_segment(
            query, key, value, tree_segments, dropout, scaling, sliding_window, read_by(module)
        )
    return output.transpose(1, 2).contiguous(), None


def _by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree_segments: Sequence[Segment],
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    read: Tensor | None,
) -> Tensor:
    """One call of SDPA a segment, ``[1, heads, T, D_head]``; 0 where nothing is read."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    lengths = [segment.length for segment in tree_segments]
    # split and not slices: the backward of a slice fills a full-size gradient with zeros, for each segment anew
    queries, keys, values = query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2)
    rows = [None] * len(lengths) if read is None else _rows_by_segment(read, lengths)
    outputs = []
    for number, segment in enumerate(tree_segments):
        asked, looking = rows[number], queries[number]
        if asked is not None:
            if not len(asked):
                outputs.append(torch.zeros_like(looking))
                continue
            looking = looking[:, :, asked]
        seen_keys, seen_values, prompt_length = keys[number], values[number], 0
        if segment.prompt is not None:
            prompt_length = lengths[segment.prompt]
            seen_keys = torch.cat([keys[segment.prompt], seen_keys], 2)
            seen_values = torch.cat([values[segment.prompt], seen_values], 2)
        windowed = sliding_window is not None and prompt_length + segment.length > sliding_window
        plain = prompt_length == 0 and not windowed and asked is None
        mask = None
        if asked is not None:
            mask = _visible(prompt_length + asked, seen_keys.shape[2], sliding_window if windowed else None)
        elif not plain:
            mask = _branch_mask(
                prompt_length, segment.length, sliding_window if windowed else None, query.device
            )
        output = scaled_dot_product_attention(
            looking,
            seen_keys,
            seen_values,
            attn_mask=mask,
            is_causal=plain,
            dropout_p=dropout,
            scale=scaling,
        )
        if asked is not None:
            output = torch.zeros_like(queries[number]).index_copy(2, asked, output)
        outputs.append(output)
    return torch.cat(outputs, 2)


def _rows_by_segment(read: Tensor, lengths: list[int]) -> list[Tensor | None]:
    """The rows of each segment that are read; None where most are, and all are computed."""
    ends = torch.tensor(lengths, device=read.device).cumsum(0)
    counts = torch.searchsorted(read, ends).diff(prepend=ends.new_zeros(1)).tolist()
    return [
        None if 2 * count > length else part - (end - length)
        for part, count, length, end in zip(read.split(counts), counts, lengths, ends.tolist(), strict=True)
    ]


@lru_cache(maxsize=128)
def _branch_mask(prompt: int, response: int, window: int | None, device: torch.device) -> Tensor:
    """Bool ``[response, prompt + response]``: True where a branch's token may look."""
    with torch.inference_mode(False):  # a mask made in validation is used again in training
        return _visible(torch.arange(prompt, prompt + response, device=device), prompt + response, window)


def _visible(looking: Tensor, length: int, window: int | None) -> Tensor:
    """Bool ``[M, length]``: True where the tokens at the positions `looking`, ``[M]``, may look."""
    seen = torch.arange(length, device=looking.device)[None, :]
    mask = seen <= looking[:, None]
    return mask if window is None else mask & (looking[:, None] - seen < window)


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def tree_states(trunk: PreTrainedModel, trees: ResponseTrees, read: Tensor) -> Tensor:
    """Final hidden states ``[M, D]`` at the positions `read` of the flat row, every distinct token computed once.

    Args:
        trunk: its attention is over trees.
        trees: the batch, of T tokens.
        read: Long ``[M]``, in [0, T); a position may come more than once.
    """
    segments, device = tree_segments(trees), trees.input_ids.device
    output = trunk(
        input_ids=trees.input_ids[None],
        position_ids=trees.position_ids[None],
        attention_mask=trees.input_ids.new_zeros(NO_MASK),
        use_cache=False,
        tree_segments=segments,
        block_masks=BlockMasks(segments, device) if takes_flex(trunk, device) else None,
        read_positions=distinct_positions(read, trees.input_ids.numel()),
    )
    return output.last_hidden_state[0, read]

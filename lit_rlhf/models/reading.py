"""Where networks read response trees: the hidden states that predict response tokens, and the last ones.

Two paths with the same numbers: the flat row, where every distinct token is computed once, for trunks whose
attention is over trees; and padded rows, one a response, for all others and for batches of short segments.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_rlhf.models.padded import gather_positions, unfold
from lit_rlhf.models.tree_attention import NAME, tree_hidden_states
from lit_rlhf.records import ResponseTrees

Attention = Literal["auto", "trees", "padded"]

MIN_MEAN_SEGMENT = 32
"""Tokens: below it one call a segment costs more than the padding it saves."""

log = logging.getLogger(__name__)


def choose_attention(model: PreTrainedModel, asked: Attention = "auto") -> PreTrainedModel:
    """`model`, attending over trees where it can; which path it takes is logged.

    Args:
        model: its attention is replaced in place; decoding and plain calls give what SDPA gives.
        asked: ``auto`` takes trees where the model can, and padded rows with one line saying why elsewhere.

    Raises:
        ValueError: trees were asked for, and the model cannot.
    """
    reason = "asked for" if asked == "padded" else why_not_trees(model)
    if reason and asked == "trees":
        raise ValueError(
            f"model.attention: trees were asked for, and {type(model).__name__} cannot: {reason}."
        )
    if reason:
        log.info("%s: padded rows (%s)", type(model).__name__, reason)
        return model
    model.set_attn_implementation(NAME)
    log.info("%s: attention over response trees, each prompt computed once", type(model).__name__)
    return model


def why_not_trees(model: PreTrainedModel) -> str | None:
    """What keeps the model's attention from being replaced; None if nothing does."""
    if not model._can_set_attn_implementation():
        return "its attention cannot be replaced"
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps attention logits"
    if any(name.endswith("sinks") for name, _ in model.named_parameters()):
        return "its attention has sinks"
    return None


def predicting_states(trunk: PreTrainedModel, trees: ResponseTrees) -> Tensor:
    """Final hidden states ``[M, D]`` at the positions that predict the M counted tokens, in the row's order."""
    if reads_flat(trunk, trees):
        return tree_hidden_states(trunk, trees)[_predicted_by(trees)[trees.response_mask]]
    rows = unfold(trees)
    hidden = trunk(input_ids=rows.input_ids, use_cache=False).last_hidden_state
    return gather_positions(hidden, rows.predicting)[trees.response_grid_mask()]


def last_states(trunk: PreTrainedModel, trees: ResponseTrees) -> Tensor:
    """Final hidden states ``[N, D]`` at the last token of each response."""
    if reads_flat(trunk, trees):
        ends = torch.tensor(trees.segment_lengths).cumsum(0) - 1
        # responses are the segments that are no prompts: response n of tree t stands behind t + 1 prompts
        number = torch.arange(trees.num_responses) + trees.tree_index.cpu() + 1
        return tree_hidden_states(trunk, trees)[ends[number].to(trees.input_ids.device)]
    rows = unfold(trees)
    hidden = trunk(input_ids=rows.input_ids, use_cache=False).last_hidden_state
    return hidden[torch.arange(len(hidden), device=hidden.device), rows.last]


def reads_flat(trunk: PreTrainedModel, trees: ResponseTrees) -> bool:
    """Whether this batch takes the flat row; it depends on the batch alone, so a resumed run does the same."""
    segments = trees.num_trees + trees.num_responses
    return (
        trunk.config.get_text_config()._attn_implementation == NAME
        and trees.input_ids.numel() >= MIN_MEAN_SEGMENT * segments
    )


def _predicted_by(trees: ResponseTrees) -> Tensor:
    """For each token of the row the position that predicts it, ``[T]``; meaningless in prompts."""
    positions = torch.arange(trees.input_ids.numel()) - 1
    lengths = torch.tensor(trees.segment_lengths)
    starts = lengths.cumsum(0) - lengths
    number = torch.arange(trees.num_responses) + trees.tree_index.cpu() + 1
    first_response = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees).cumsum(0)
    prompt = torch.arange(trees.num_trees) + torch.cat([first_response.new_zeros(1), first_response[:-1]])
    prompt_ends = (starts + lengths)[prompt] - 1
    positions[starts[number]] = prompt_ends[trees.tree_index.cpu()]
    return positions.to(trees.input_ids.device)

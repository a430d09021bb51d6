"""Where networks read response trees: the hidden states that predict response tokens, and the last ones.

Two paths with the same numbers: the flat row, where every distinct token is computed once, for trunks whose
attention is over trees; and padded rows, one a response, for all others and for batches of short segments.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_rlhf.models.flex_attention import takes_flex, why_not_flex
from lit_rlhf.models.last_layer import leave_out_unread
from lit_rlhf.models.padded import gather_positions, unfold
from lit_rlhf.models.tree_attention import NAME, tree_segments, tree_states
from lit_rlhf.records import ResponseTrees

Attention = Literal["auto", "trees", "padded"]

MIN_MEAN_SEGMENT = 32
"""Tokens: below it one call a segment costs more than the padding it saves."""
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layer whose every look at other tokens goes through the attention that is replaced."""
ATTENTION_NAMES = ("self_attn", "attn", "attention")
"""What layers call their attention, in the families of transformers."""

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
    leave_out_unread(model)
    log.info(
        "%s: attention over response trees, each prompt computed once, through %s",
        type(model).__name__,
        _kernels(model),
    )
    return model


def _kernels(model: PreTrainedModel) -> str:
    """What attends over the trees; its weights may be on a CPU still, and on a GPU in training."""
    without = why_not_flex(model)
    return f"SDPA everywhere ({without})" if without else "FlexAttention on CUDA and SDPA elsewhere"


def why_not_trees(model: PreTrainedModel) -> str | None:
    """What keeps the model's attention from being replaced; None if nothing does."""
    if not model._can_set_attn_implementation():
        return "its attention cannot be replaced"
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps attention logits"
    if model._is_stateful:
        return "it carries a state from token to token"
    other_layers = set(getattr(config, "layer_types", None) or []) - KNOWN_LAYERS
    if other_layers:
        return f"it has layers of {', '.join(sorted(other_layers))}"
    if getattr(config, "sliding_window", None) and not _hands_on_its_window(model):
        return "its sliding window is in its mask alone"
    if not _hands_on_segments(model):
        return "its layers do not tell their attention of the segments"
    if any(name.endswith("sinks") for name, _ in model.named_parameters()):
        return "its attention has sinks"
    return None


def _hands_on_segments(model: PreTrainedModel) -> bool:
    """Whether what the layers are called with reaches their attention: read off the source too."""
    for module in model.modules():
        if any(isinstance(getattr(module, name, None), torch.nn.Module) for name in ATTENTION_NAMES):
            source = inspect.getsource(type(module).forward)
            return re.search(rf"self\.({'|'.join(ATTENTION_NAMES)})\(.*?\*\*kwargs", source, re.S) is not None
    return True


def _hands_on_its_window(model: PreTrainedModel) -> bool:
    """Whether attention is told the window: read off the source, as transformers reads whether it is replaceable."""
    source = inspect.getsource(sys.modules[type(model).__module__])
    return re.search(r"\bsliding_window=", source) is not None


def predicting_states(trunk: PreTrainedModel, trees: ResponseTrees) -> Tensor:
    """Final hidden states ``[M, D]`` at the positions that predict the M counted tokens, in the row's order."""
    if reads_flat(trunk, trees):
        return tree_states(trunk, trees, _predicted_by(trees)[trees.response_mask])
    rows = unfold(trees)
    hidden = trunk(input_ids=rows.input_ids, use_cache=False).last_hidden_state
    return gather_positions(hidden, rows.predicting)[trees.response_grid_mask()]


class Reading(NamedTuple):
    """Final hidden states where scores are read."""

    states: Tensor
    """At the last token of each response, ``[N, D]``."""
    prompt_states: Tensor | None
    """At the last token of each prompt, ``[B, D]``, where they were asked for."""


def last_states(trunk: PreTrainedModel, trees: ResponseTrees) -> Tensor:
    """Final hidden states ``[N, D]`` at the last token of each response."""
    return end_states(trunk, trees, prompts=False).states


def end_states(trunk: PreTrainedModel, trees: ResponseTrees, prompts: bool) -> Reading:
    """Final hidden states at the last token of each response, and of each prompt if asked, in one pass.

    Raises:
        ValueError: prompts are asked for, and one has no response, so that no padded row holds it.
    """
    counts = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees)
    if prompts and not counts.all():
        raise ValueError(
            f"{trees.row_ids[counts.tolist().index(0)]}: expected responses to score, found none."
        )
    if reads_flat(trunk, trees):
        ends = torch.tensor(trees.segment_lengths).cumsum(0) - 1
        read = ends[_response_segments(trees)]
        if prompts:
            read = torch.cat([read, ends[_prompt_segments(trees)]])
        states = tree_states(trunk, trees, read.to(trees.input_ids.device))
        if not prompts:
            return Reading(states, None)
        of_responses, of_prompts = states.split([trees.num_responses, trees.num_trees])
        return Reading(of_responses.clone(), of_prompts.clone())  # no views: FSDP2 hangs its hooks on them
    rows = unfold(trees)
    hidden = trunk(input_ids=rows.input_ids, use_cache=False).last_hidden_state
    states = hidden[torch.arange(len(hidden), device=hidden.device), rows.last]
    if not prompts:
        return Reading(states, None)
    first_row = (counts.cumsum(0) - counts).to(hidden.device)
    last = torch.tensor(trees.prompt_lengths, device=hidden.device) - 1
    return Reading(states, hidden[first_row, last])


def reads_flat(trunk: PreTrainedModel, trees: ResponseTrees) -> bool:
    """Whether this batch takes the flat row.

    It depends on the batch and the kind of device alone, so a resumed run does the same. FlexAttention is one
    call whatever the segments, and takes short ones too.
    """
    if trunk.config.get_text_config()._attn_implementation != NAME:
        return False
    segments = len(tree_segments(trees))
    long_enough = trees.input_ids.numel() >= MIN_MEAN_SEGMENT * segments
    return long_enough or takes_flex(trunk, trees.input_ids.device)


def _predicted_by(trees: ResponseTrees) -> Tensor:
    """For each token of the row the position that predicts it, ``[T]``; meaningless in prompts."""
    positions = torch.arange(trees.input_ids.numel()) - 1
    lengths = torch.tensor(trees.segment_lengths)
    ends = lengths.cumsum(0)
    prompt_ends = ends[_prompt_segments(trees)] - 1
    positions[(ends - lengths)[_response_segments(trees)]] = prompt_ends[trees.tree_index.cpu()]
    return positions.to(trees.input_ids.device)


def _response_segments(trees: ResponseTrees) -> Tensor:
    """Which of the row's segments each response is, ``[N]``: response n of tree t stands behind t + 1 prompts."""
    return torch.arange(trees.num_responses) + trees.tree_index.cpu() + 1


def _prompt_segments(trees: ResponseTrees) -> Tensor:
    """Which of the row's segments each prompt is, ``[B]``: it stands behind the responses of all trees before."""
    counts = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees)
    return torch.arange(trees.num_trees) + counts.cumsum(0) - counts

"""Response trees unfolded into padded rows, one a response: the path that every decoder can take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_rlhf.records import ResponseTrees


@dataclass
class PaddedRows:
    """Prompt and response of each of the N responses, right-padded to the longest, S tokens."""

    input_ids: Tensor
    """Long ``[N, S]``; the padding is id 0 and is never looked at: attention is causal."""
    predicting: Tensor
    """Long ``[N, R]``: the position in the row whose hidden state predicts each response token."""
    last: Tensor
    """Long ``[N]``: the position of each response's last token, from the lengths."""


def unfold(trees: ResponseTrees) -> PaddedRows:
    """Rows ``prompt + response``. The prompt is repeated for each of its responses."""
    segments = iter(trees.input_ids.split(trees.segment_lengths))
    counts = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees).tolist()
    rows: list[Tensor] = []
    prompt_lengths: list[int] = []
    for prompt_length, count in zip(trees.prompt_lengths, counts, strict=True):
        prompt = next(segments)
        for _ in range(count):
            rows.append(torch.cat([prompt, next(segments)]))
            prompt_lengths.append(prompt_length)
    device = trees.input_ids.device
    prompt_length_of = torch.tensor(prompt_lengths, device=device)
    response_length_of = torch.tensor(trees.response_lengths, device=device)
    width = max(trees.response_lengths)
    # The token before the response predicts its first token, hence the shift by one.
    predicting = prompt_length_of[:, None] - 1 + torch.arange(width, device=device)[None, :]
    last = prompt_length_of + response_length_of - 1
    return PaddedRows(pad_sequence(rows, batch_first=True), predicting.minimum(last[:, None]), last)


def gather_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """``hidden [N, S, D]`` at ``positions [N, R]`` -> ``[N, R, D]``."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))

"""A model beside people: whose votes it has, and whether a person would do better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_rlhf.metrics.agreement import count_votes, leave_one_out, vote_shares
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.records import Vote


class JudgedByVotes(NamedTuple):
    """Rows that two or more people voted on, M of them, and V votes beside a majority of the others there."""

    voted_row: Tensor
    """Long ``[M]``."""
    vote_accuracy: Tensor
    """Share of the row's votes on the model's side, 1/2 where its scores are equal, ``[M]``; a tie is half a vote."""
    vote_ceiling: Tensor
    """The most that it could be, ``[M]``."""
    left_out_row: Tensor
    """Long ``[V]``."""
    human_right: Tensor
    """Whether the vote is that of the majority of the others, 1/2 for a tie, ``[V]``."""
    model_right: Tensor
    """Whether the model sides with that majority; equal scores are wrong, ``[V]``."""


def judge_by_votes(judged: Judged, votes: Sequence[Sequence[Vote]]) -> JudgedByVotes:
    """Holds a model against single votes and against majorities, as a person is held.

    Args:
        judged: comparisons; where a row has several, they are of the same two responses.
        votes: of each row of the data set.
    """
    # a vote of 1 is for response 0; the model's side in the same terms
    of_better = (judged.better_scores - judged.worse_scores).sign()
    side = torch.zeros(len(votes), dtype=torch.float64)
    side[judged.row] = torch.where(judged.better < judged.worse, of_better, -of_better).double()
    several = torch.tensor([len(of_row) >= 2 for of_row in votes], dtype=torch.bool)
    seen = torch.zeros(len(votes), dtype=torch.bool)
    seen[judged.row] = True
    rows = (several & seen).nonzero().flatten()
    chosen = [votes[row] for row in rows.tolist()]
    share = vote_shares(count_votes(chosen))
    left_out = leave_one_out(chosen)
    left_out_row = rows[left_out.row]
    return JudgedByVotes(
        voted_row=rows,
        vote_accuracy=0.5 + (share - 0.5) * side[rows],
        vote_ceiling=torch.maximum(share, 1 - share),
        left_out_row=left_out_row,
        human_right=left_out.right(),
        model_right=(side[left_out_row] == 2 * left_out.majority - 1).double(),
    )

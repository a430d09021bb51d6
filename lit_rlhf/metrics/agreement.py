"""How far people agree with one another, which sets what a model can reach.

The two sides of a vote, first and second, are names that the data file gave. Agreement by chance is that of the pooled
answers: where each row's sides were drawn at random it is that of a coin (beside the ties), whatever the responses
are like. Where one side is systematically the better one, say because a file always has it first, the pooled answers
lean to that side, chance explains more, and the same votes give a smaller α and κ. Nothing is swapped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.nominal import fleiss_kappa as torchmetrics_fleiss_kappa

from lit_rlhf.metrics.inter_rater import (
    Distance,
    alpha_of_coincidences,
    coincidences_of_items,
    shares_of_equal_pairs,
)
from lit_rlhf.records import Vote

CHOICES = (0.0, 0.5, 1.0)
"""The second response is better, a tie, the first is better."""


def count_votes(votes: Sequence[Sequence[Vote]]) -> Tensor:
    """Votes of each row for each of `CHOICES`.

    Args:
        votes: of each row; any number of them.

    Returns:
        Float64 ``[rows, 3]``.

    Raises:
        ValueError: a choice is none of them.

    Example:
        >>> count_votes([[Vote("ann", 1.0), Vote("bob", 0.5)], []])
        tensor([[0., 1., 1.],
                [0., 0., 0.]], dtype=torch.float64)
    """
    place = {choice: number for number, choice in enumerate(CHOICES)}
    cells = []
    for row, of_row in enumerate(votes):
        for vote in of_row:
            if vote.choice not in place:
                raise ValueError(f"row {row}: expected a choice of 1, 0 or 0.5, found {vote.choice}")
            cells.append(row * len(CHOICES) + place[vote.choice])
    counts = torch.bincount(torch.tensor(cells, dtype=torch.long), minlength=len(votes) * len(CHOICES))
    return counts.view(-1, len(CHOICES)).double()


def vote_shares(counts: Tensor) -> Tensor:
    """Share of the votes that are for the first response, a tie half for either; NaN without votes.

    Args:
        counts: Shape ``[rows, 3]``.

    Example:
        >>> vote_shares(torch.tensor([[1.0, 2.0, 1.0], [0.0, 1.0, 1.0]]))
        tensor([0.5000, 0.7500])
    """
    return counts @ counts.new_tensor(CHOICES) / counts.sum(1)


def krippendorff_alpha(
    counts: Tensor, distance: Distance = "nominal", values: Sequence[float] = CHOICES
) -> float | None:
    """Krippendorff's α: 1 - D_o/D_e, disagreement observed over disagreement expected.

    Rows with fewer than two votes do not count. The formula is :func:`~.inter_rater.alpha_of_coincidences`.

    Args:
        counts: n_uc, votes of each row for each answer, which stand in their order. Float ``[rows, answers]``.
        distance: the same for all (nominal), by the votes between (ordinal), or by the values (interval).
        values: of the answers, for ``interval``.

    Returns:
        1 where all agree, 0 as by chance, below 0 for less; None where no row has two votes or all are one answer.

    Source:
        Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D.

    Example:
        >>> krippendorff_alpha(torch.tensor([[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]]))
        1.0
    """
    alpha = alpha_of_coincidences(coincidences_of_items(counts[None]).sum(0), distance, values)
    return None if alpha.isnan() else float(alpha)


class FleissKappa(NamedTuple):
    """Fleiss' κ of the rows that it can be taken of."""

    kappa: float
    rows: int
    votes: int
    """Of each of those rows."""


def fleiss_kappa(counts: Tensor) -> FleissKappa | None:
    """Fleiss' κ, of the rows that have the most common number of votes (the larger of two as common).

    κ asks for equally many votes of each row; α does not, and uses all rows.

    Args:
        counts: votes of each row for each answer. Float ``[rows, answers]``.

    Returns:
        None where no row has two votes, or all votes are one answer.

    Source:
        Fleiss 1971, "Measuring Nominal Scale Agreement Among Many Raters", as torchmetrics has it.
    """
    of_row = counts.sum(1).long()
    rows_with = torch.bincount(of_row[of_row >= 2])
    if len(rows_with) == 0:
        return None
    votes = len(rows_with) - 1 - int(rows_with.flip(0).argmax())
    chosen = counts[of_row == votes].long()
    if (chosen.sum(0) > 0).sum() < 2:
        return None
    kappa = torchmetrics_fleiss_kappa(chosen, mode="counts")
    return FleissKappa(float(kappa), len(chosen), votes)


def pairwise_agreement(counts: Tensor) -> float | None:
    """How often two annotators of a row give one answer: the mean over rows of the share of their pairs of votes.

    Args:
        counts: votes of each row for each answer. Float ``[rows, answers]``.

    Returns:
        In [0, 1]; None where no row has two votes.

    Example:
        >>> pairwise_agreement(torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0]]))  # of 1 and 1/3
        0.666...
    """
    shares = shares_of_equal_pairs(counts.double())
    known = shares[~shares.isnan()]
    return float(known.mean()) if len(known) else None


class LeftOut(NamedTuple):
    """Votes beside the majority of the others on their row, M of them; votes without a majority are not here."""

    row: Tensor
    """Long ``[M]``."""
    choice: Tensor
    """Float ``[M]``: the vote."""
    majority: Tensor
    """Float ``[M]``: 1 where most of the others are for the first response, 0 for the second; a tie is for neither."""
    vote: Tensor
    """Long ``[M]``: which of all the votes it is."""

    def right(self) -> Tensor:
        """1 where the vote is that of the majority, 1/2 where it is a tie, else 0, ``[M]``."""
        return torch.where(self.choice == 0.5, 0.5, (self.choice == self.majority).double())


def leave_one_out(votes: Sequence[Sequence[Vote]]) -> LeftOut:
    """Every vote beside what the others on its row say.

    Their mean is how good one annotator is at telling what the others say: the accuracy of a person.

    Args:
        votes: of each row.

    Example:
        >>> found = leave_one_out([[Vote("ann", 1.0), Vote("bob", 1.0), Vote("cid", 0.0)]])
        >>> found.right()  # cid against two; ann and bob each see one of each, no majority
        tensor([0.], dtype=torch.float64)
    """
    row = [number for number, of_row in enumerate(votes) for _ in of_row]
    choice = [vote.choice for of_row in votes for vote in of_row]
    return leave_out(torch.tensor(row, dtype=torch.long), torch.tensor(choice, dtype=torch.float64))


def leave_out(row: Tensor, choice: Tensor, counted: Tensor | None = None) -> LeftOut:
    """As :func:`leave_one_out`, of votes in one list.

    Args:
        row: of each vote. Long ``[V]``.
        choice: 1, 0 or 1/2. Float ``[V]``.
        counted: whether the vote is among the others of its row; one that is not is only held against them. Bool
            ``[V]``; None = all are.
    """
    side = choice.double() - 0.5
    lead = side if counted is None else side * counted
    rows = int(row.max()) + 1 if len(row) else 0
    others = lead.new_zeros(rows).index_add(0, row, lead)[row] - lead
    vote = others.nonzero().flatten()
    return LeftOut(row[vote], choice[vote].double(), (others[vote] > 0).double(), vote)


def describe_agreement(votes: Sequence[Sequence[Vote]]) -> list[str]:
    """What there is to know of the votes before a model learns from them.

    Args:
        votes: of each row; rows without votes are passed over.

    Returns:
        Lines of text; none where nobody voted.
    """
    voted = [of_row for of_row in votes if of_row]
    if not voted:
        return []
    counts = count_votes(voted)
    of_row = counts.sum(1)
    signed = [vote.annotator for of_one in voted for vote in of_one if vote.annotator]
    who = f"{len(set(signed)):,} annotators" if signed else "annotators without names"
    if signed and (unsigned := int(of_row.sum()) - len(signed)):
        who += f" and {unsigned:,} without a name"
    lines = [
        f"votes: {int(of_row.sum()):,} by {who} on {len(voted):,} rows, {of_row.mean():.1f} a row "
        f"({int(of_row.min())} to {int(of_row.max())}), {counts[:, 1].sum() / of_row.sum():.1%} ties"
    ]
    pairwise = pairwise_agreement(counts)
    if pairwise is None:
        return [*lines, "  no row has two votes: how far people agree is not known"]
    if alone := int((of_row < 2).sum()):
        lines.append(f"  rows with a single vote, which say nothing of agreement: {alone:,}")
    alpha = _number(krippendorff_alpha(counts))
    if counts[:, 1].any():
        alpha += f", with a tie half way {_number(krippendorff_alpha(counts, 'interval'))}"
    kappa = fleiss_kappa(counts)
    of_kappa = f"{kappa.kappa:.3f} ({kappa.rows:,} rows of {kappa.votes} votes)" if kappa else _number(None)
    lines.append(
        f"  two annotators of a row agree in {pairwise:.1%}; Krippendorff's α {alpha}; Fleiss' κ {of_kappa}"
    )
    right = leave_one_out(voted).right()
    if len(right):
        lines.append(f"  an annotator sides with the majority of the others in {right.mean():.1%}")
    shares = vote_shares(counts[of_row >= 2])
    ceiling = torch.maximum(shares, 1 - shares).mean()
    lines.append(
        f"  who always sides with the majority agrees with {ceiling:.1%} of a row's votes: a model's ceiling"
    )
    return lines


def _number(value: float | None) -> str:
    return "undefined (all votes are one answer)" if value is None or math.isnan(value) else f"{value:.3f}"

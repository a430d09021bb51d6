"""What the studies measure, on scores of responses grouped by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Grouped = Sequence[Tensor]
"""One number for each response of a row, a tensor a row."""


def pair_accuracy(differences: Tensor) -> float:
    """Share of comparisons whose score difference, better minus worse, is positive; 0 counts one half."""
    return ((differences > 0).double() + 0.5 * (differences == 0).double()).mean().item()


def log_loss(differences: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy in nats of σ(difference) against the probability that the first is better."""
    return binary_cross_entropy_with_logits(differences.double(), targets.double()).item()


def mean_entropy(targets: Tensor) -> float:
    """Mean entropy in nats of the targets: what no log-loss against them is below."""
    return torch.special.entr(torch.stack([targets, 1 - targets]).double()).sum(0).mean().item()


def strict_differences(scores: Grouped, truths: Grouped) -> Tensor:
    """Score differences, better minus worse, of all pairs of a row that `truths` tells apart; higher = better."""
    differences = []
    for score, truth in zip(scores, truths, strict=True):
        better = truth[:, None] > truth[None, :]
        differences.append((score[:, None] - score[None, :])[better])
    return torch.cat(differences)


def kendall_tau(scores: Grouped, truths: Grouped) -> float:
    """Mean over rows of Kendall's τ-b; rows whose truths are all equal are left out."""
    taus = []
    for score, truth in zip(scores, truths, strict=True):
        above = torch.triu_indices(len(score), len(score), 1)
        s = (score[above[0]] - score[above[1]]).sign().double()
        t = (truth[above[0]] - truth[above[1]]).sign().double()
        if t.any():
            size = (s.square().sum() * t.square().sum()).sqrt()
            taus.append(((s * t).sum() / size).item() if size > 0 else 0.0)
    return sum(taus) / len(taus)


def correlation_within_rows(scores: Grouped, truths: Grouped) -> float:
    """Pearson's correlation of score and truth, both less their mean in the row."""
    s, t = (torch.cat([row.double() - row.double().mean() for row in rows]) for rows in (scores, truths))
    size = (s.square().sum() * t.square().sum()).sqrt()
    return ((s * t).sum() / size).item() if size > 0 else 0.0


def area_under_curve(values: Tensor, positive: Tensor) -> float:
    """How often a positive has the lower value of a positive and a negative, equal ones counting one half.

    Args:
        values: such as the preference strength of comparisons, ``[C]``.
        positive: bool ``[C]``, such as whether the comparison's label was turned round.
    """
    below = values[positive][:, None] - values[~positive][None, :]
    return ((below < 0).double() + 0.5 * (below == 0).double()).mean().item()

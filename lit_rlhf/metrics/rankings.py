"""How far a model ranks the responses of a prompt as people do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.ops.shapes import check_same_shape


class RankedPrompts(NamedTuple):
    """The prompts with two or more judged responses, M of them, in the order of their number."""

    prompt: Tensor
    """Long ``[M]``."""
    judged: Tensor
    """Long ``[M]``: judged responses."""
    tied: Tensor
    """Bool ``[M]``: all of them have one rank, which no ranking can be compared with."""
    kendall_tau: Tensor
    """Float ``[M]``: τ-b, in [-1, 1]; NaN where tied."""
    top1: Tensor
    """Float ``[M]``: 1 where the highest-scored response is among the best-ranked, else 0; NaN where tied."""


def compare_rankings(scores: Tensor, ranks: Tensor, prompt: Tensor) -> RankedPrompts:
    """Compares scores with ranks, prompt by prompt, over the judged responses.

    τ-b = Σ sign(s_i - s_j)·sign(k_j - k_i) / √(n_s·n_k), over the pairs of a prompt's judged responses, with n_s and
    n_k the pairs that have different scores and different ranks. A model that gives all of them one score has 0.
    Where several share the highest score, all must be among the best-ranked: equal scores win nothing.

    Args:
        scores: s. Shape ``[N]``.
        ranks: k, 1 = best, equal = tie, NaN = not judged. Shape ``[N]``.
        prompt: number of each response's prompt. Long ``[N]``.

    Raises:
        ValueError: the shapes differ.

    Source:
        Kendall 1945, "The Treatment of Ties in Ranking Problems".

    Example:
        >>> scores, ranks = torch.tensor([3.0, 1.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 2.0, float("nan")])
        >>> found = compare_rankings(scores, ranks, torch.zeros(4, dtype=torch.long))
        >>> found.kendall_tau, found.top1  # two pairs of three, √(3·2) of which count
        (tensor([0.8165]), tensor([1.]))
    """
    check_same_shape(scores=scores, ranks=ranks, prompt=prompt)
    judged = ranks.isfinite()
    scores, ranks = scores[judged].float(), ranks[judged]
    numbers, group, counts = prompt[judged].unique(return_inverse=True, return_counts=True)
    first, second = _pairs_within(group, counts)
    by_score = (scores[first] - scores[second]).sign()
    by_rank = (ranks[second] - ranks[first]).sign()
    zeros = scores.new_zeros(len(numbers))

    def total(of_pairs: Tensor) -> Tensor:
        return zeros.index_add(0, group[first], of_pairs)

    scored_apart, ranked_apart = total(by_score.abs()), total(by_rank.abs())
    tau = total(by_score * by_rank) / (scored_apart * ranked_apart).sqrt().clamp(min=1)
    highest = scores == zeros.scatter_reduce(0, group, scores, "amax", include_self=False)[group]
    best = ranks == zeros.scatter_reduce(0, group, ranks, "amin", include_self=False)[group]
    wrongly_first = zeros.index_add(0, group, (highest & ~best).to(zeros.dtype))
    tied = ranked_apart == 0
    nowhere = torch.full_like(tau, torch.nan)
    several = counts > 1
    found = (
        numbers,
        counts,
        tied,
        torch.where(tied, nowhere, tau),
        torch.where(tied, nowhere, (wrongly_first == 0).to(tau.dtype)),
    )
    return RankedPrompts(*(values[several] for values in found))


def _pairs_within(group: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Every response with every response of its group, itself among them, as places."""
    order = group.argsort()
    partners = counts[group]
    first = torch.arange(len(group), device=group.device).repeat_interleave(partners)
    before = partners.cumsum(0) - partners
    number = torch.arange(len(first), device=group.device) - before[first]
    start = counts.cumsum(0) - counts
    return first, order[start[group[first]] + number]


class _MeanOverPrompts(Metric):
    """Mean of a number of each ranked prompt; prompts whose judged responses all tie are counted in `tied`."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    summed: Tensor
    prompts: Tensor
    tied: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("summed", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("prompts", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("tied", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Tensor, ranks: Tensor, tree_index: Tensor) -> None:
        """Counts a batch of prompts, each of them whole.

        Args:
            scores: Shape ``[N]``.
            ranks: 1 = best, equal = tie, NaN = not judged. Shape ``[N]``.
            tree_index: prompt of each response. Long ``[N]``.

        Raises:
            ValueError: the shapes differ.
        """
        found = compare_rankings(scores, ranks, tree_index)
        self.summed += self.of_prompts(found)[~found.tied].sum()
        self.prompts += (~found.tied).sum()
        self.tied += found.tied.sum()

    def of_prompts(self, found: RankedPrompts) -> Tensor:
        """The number of each prompt, ``[M]``."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """The mean, a scalar; NaN where no prompt was ranked."""
        return self.summed / self.prompts


class KendallTau(_MeanOverPrompts):
    """Mean over the ranked prompts of Kendall's τ-b between score and rank; see :func:`compare_rankings`.

    Prompts with fewer than two judged responses do not count; those that are all tied do not either, and
    `tied` says how many they are.

    Example:
        >>> tau = KendallTau()
        >>> ranks = torch.tensor([1.0, 2.0, 2.0, 1.0])
        >>> tau.update(torch.tensor([3.0, 1.0, 3.0, 1.0]), ranks, tree_index=torch.tensor([0, 0, 1, 1]))
        >>> tau.compute()  # of 1 and -1
        tensor(0.)
    """

    def of_prompts(self, found: RankedPrompts) -> Tensor:
        return found.kendall_tau


class TopOne(_MeanOverPrompts):
    """Share of the ranked prompts whose highest-scored judged response is among the best-ranked.

    Which prompts count is said at :class:`KendallTau`.

    Example:
        >>> top1 = TopOne()
        >>> ranks, scores = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.0, 5.0, 3.0])
        >>> top1.update(scores, ranks, tree_index=torch.tensor([0, 0, 0]))
        >>> top1.compute()
        tensor(1.)
    """

    def of_prompts(self, found: RankedPrompts) -> Tensor:
        return found.top1

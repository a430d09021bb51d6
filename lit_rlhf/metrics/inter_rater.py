"""Coefficients of agreement as functions of sums over items, so that a bootstrap takes all its resamples at once.

Every function takes leading dimensions ``[...]``, one entry a resample, and gives NaN where a coefficient is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Distance = Literal["nominal", "ordinal", "interval"]
Weights = Literal["equal", "quadratic"]


def count_answers(unit: Tensor, answer: Tensor, units: int, answers: int) -> Tensor:
    """How often each unit was given each answer.

    Args:
        unit: of each judgement. Long ``[V]``.
        answer: of each judgement, from 0. Long ``[V]``.
        units: how many there are.
        answers: how many there are.

    Returns:
        Float64 ``[units, answers]``.
    """
    return torch.bincount(unit * answers + answer, minlength=units * answers).view(units, answers).double()


def coincidences_of_items(counts: Tensor) -> Tensor:
    """Krippendorff's coincidences of each item, Σ_u n_uc·(n_uk - [c = k]) / (m_u - 1); their sum is o_ck.

    Args:
        counts: n_uc, judgements of the item's unit u that give answer c. Float ``[I, U, C]``.

    Returns:
        Float64 ``[I, C, C]``. Units with fewer than two judgements pair with nothing.
    """
    counts = counts.double()
    each = counts / (counts.sum(-1, keepdim=True) - 1).clamp(min=1)
    return torch.einsum("iuc,iud->icd", each, counts) - torch.diag_embed(each.sum(1))


def alpha_of_coincidences(
    coincidences: Tensor, distance: Distance = "nominal", values: Sequence[float] | None = None
) -> Tensor:
    """Krippendorff's α = 1 - (n - 1)·Σ_ck o_ck·δ²_ck / Σ_ck n_c·n_k·δ²_ck.

    δ² is 1 between different answers (nominal), the squared difference of their values (interval), or
    (Σ_{g=c..k} n_g - (n_c + n_k)/2)², the judgements that lie between them (ordinal).

    Args:
        coincidences: o_ck. Float ``[..., C, C]``; for ``ordinal`` the answers stand in their order.
        distance: between two answers.
        values: of the C answers, for ``interval``.

    Returns:
        ``[...]``; NaN where nothing pairs, or all answers are one.

    Source:
        Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections C and D.

    Example:
        >>> alpha_of_coincidences(torch.tensor([[4.0, 0.0], [0.0, 2.0]]))
        tensor(1., dtype=torch.float64)
    """
    coincidences = coincidences.double()
    margins = coincidences.sum(-1)
    if distance == "nominal":
        apart = 1 - torch.eye(margins.shape[-1], dtype=torch.float64)
    else:
        # the judgements below an answer and half of its own: their differences are the ordinal distance
        below = margins.cumsum(-1) - margins / 2
        value = below if distance == "ordinal" else torch.tensor(values, dtype=torch.float64)
        apart = (value[..., :, None] - value[..., None, :]).square()
    observed = (coincidences * apart).sum((-1, -2))
    expected = (margins[..., :, None] * margins[..., None, :] * apart).sum((-1, -2))
    alpha = 1 - (margins.sum(-1) - 1) * observed / expected
    return torch.where(expected > 0, alpha, torch.nan)


def cohen_kappa_of_confusion(confusion: Tensor, weights: Weights = "equal") -> Tensor:
    """Cohen's κ = 1 - Σ w·p_ck / Σ w·p_c.·p_.k, with w = 1 off the diagonal (equal), or (c - k)² (quadratic).

    torchmetrics has the same of one table; this one takes as many as a bootstrap draws.

    Args:
        confusion: how often the first said c while the second said k. Float ``[..., C, C]``.
        weights: of a disagreement.

    Returns:
        ``[...]``; NaN where there is no judgement, or both gave one and the same answer throughout.

    Source:
        Cohen 1960, "A Coefficient of Agreement for Nominal Scales"; Cohen 1968 for the weights.

    Example:
        >>> cohen_kappa_of_confusion(torch.tensor([[20.0, 5.0], [10.0, 15.0]]))
        tensor(0.4000, dtype=torch.float64)
    """
    confusion = confusion.double()
    answers = torch.arange(confusion.shape[-1], dtype=torch.float64)
    weight = (answers[:, None] - answers[None, :]).square()
    if weights == "equal":
        weight = weight.clamp(max=1)
    expected = (confusion.sum(-1)[..., :, None] * confusion.sum(-2)[..., None, :] * weight).sum((-1, -2))
    kappa = 1 - confusion.sum((-1, -2)) * (confusion * weight).sum((-1, -2)) / expected
    return torch.where(expected > 0, kappa, torch.nan)


def fleiss_kappa_of_sums(agreeing: Tensor, units: Tensor, answers: Tensor) -> Tensor:
    """Fleiss' κ = (P̄ - P̄_e) / (1 - P̄_e) of units that have equally many judgements.

    Args:
        agreeing: Σ_u P_u, with P_u the share of unit u's pairs of judgements that are equal. ``[...]``.
        units: how many they are. ``[...]``.
        answers: how often each answer was given. ``[..., C]``.

    Returns:
        ``[...]``; NaN where all answers are one.

    Source:
        Fleiss 1971, "Measuring Nominal Scale Agreement Among Many Raters", equations 3 to 7.
    """
    share = answers / answers.sum(-1, keepdim=True)
    by_chance = share.square().sum(-1)
    kappa = (agreeing / units - by_chance) / (1 - by_chance)
    return torch.where(((answers > 0).sum(-1) > 1) & (units > 0), kappa, torch.nan)


def shares_of_equal_pairs(counts: Tensor) -> Tensor:
    """Share of each unit's pairs of judgements that are equal, Σ_c n_c·(n_c - 1) / (m·(m - 1)).

    Args:
        counts: Float ``[U, C]``.

    Returns:
        ``[U]``; NaN for fewer than two judgements.
    """
    judgements = counts.sum(1)
    equal = (counts * (counts - 1)).sum(1) / (judgements * (judgements - 1))
    return torch.where(judgements >= 2, equal, torch.nan)


def kendall_w(centred_ranks: Tensor, item: Tensor, items: int) -> Tensor:
    """Kendall's coefficient of concordance of each item, corrected for ties.

    W = Σ_i (Σ_a d_ai)² / (m·Σ_a Σ_i d_ai²), with d_ai the rank of response i by annotator a (ties share the mean of
    their places) less (n + 1)/2. The same as 12·S / (m²·(n³ - n) - m·Σ_a T_a) with T_a = Σ (t³ - t) over a's ties,
    since Σ_i d_ai² = (n³ - n - T_a)/12.

    Args:
        centred_ranks: d of each judgement; 0 for places that its item has no response for. Float ``[J, K]``.
        item: of each judgement. Long ``[J]``.
        items: how many there are.

    Returns:
        ``[items]``, in [0, 1], by chance 1/m; NaN for fewer than two judgements, or ties throughout.

    Source:
        Kendall 1948, "Rank Correlation Methods", chapter 6.

    Example:
        >>> kendall_w(torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]]), torch.tensor([0, 0]), 1)
        tensor([0.7500], dtype=torch.float64)
    """
    centred = centred_ranks.double()
    summed = centred.new_zeros(items, centred.shape[1]).index_add(0, item, centred)
    squares = centred.new_zeros(items).index_add(0, item, centred.square().sum(1))
    judgements = torch.bincount(item, minlength=items)
    concordance = summed.square().sum(1) / (judgements * squares)
    return torch.where((judgements >= 2) & (squares > 0), concordance, torch.nan)


def kendall_tau_b(first: Tensor, second: Tensor) -> Tensor:
    """Kendall's τ-b of two rankings, Σ s·t / √(Σ s² · Σ t²), with s and t the signs of each pair's differences.

    Args:
        first: s of each pair of responses: 1 where the one of them is better, -1 the other, 0 tie. ``[..., P]``.
        second: t. ``[..., P]``.

    Returns:
        ``[...]``, in [-1, 1]; NaN where one of the rankings is a tie of all.

    Source:
        Kendall 1945, "The Treatment of Ties in Ranking Problems".

    Example:
        >>> kendall_tau_b(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, -1.0]))
        tensor(0.3333, dtype=torch.float64)
    """
    first, second = first.double(), second.double()
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()

"""Best-of-n in closed form: what it does to a distribution, and how far that is from where it started."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def best_of_n_probabilities(reference_probabilities: Tensor, scores: Tensor, n: int) -> Tensor:
    """How probable each response is when the best scored of n independent draws is kept.

    π_n(y) = (F(y)^n - F₋(y)^n)·π_ref(y) / (F(y) - F₋(y)), with F(y) = P[r ≤ r_y] and F₋(y) = P[r < r_y]
    under π_ref.

    Draws of equal score are kept with equal chances; where all scores differ the last factor is 1.

    Args:
        reference_probabilities: π_ref over a finite set of K responses, summing to 1. Shape ``[K]``.
        scores: r. Shape ``[K]``.
        n: draws, at least 1; 1 gives π_ref.

    Returns:
        π_n, shape ``[K]``.

    Raises:
        ValueError: the shapes differ, the probabilities do not sum to 1, or n is below 1.

    Example:
        >>> best_of_n_probabilities(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), n=2)
        tensor([0.2500, 0.7500])
        >>> best_of_n_probabilities(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.0, 1.0, 1.0]), n=2)
        tensor([0.2500, 0.4500, 0.3000])
    """
    if reference_probabilities.shape != scores.shape or scores.dim() != 1:
        raise ValueError(
            "expected one probability and one score a response, found "
            f"{list(reference_probabilities.shape)} and {list(scores.shape)}"
        )
    if n < 1:
        raise ValueError(f"expected n of 1 or more, found {n}")
    total = reference_probabilities.sum().item()
    if not math.isclose(total, 1, abs_tol=1e-4):
        raise ValueError(f"expected probabilities that sum to 1, found a sum of {total:g}")
    levels, index = torch.unique(scores, return_inverse=True)
    at_level = torch.zeros_like(levels, dtype=reference_probabilities.dtype)
    at_level = at_level.index_add(0, index, reference_probabilities)
    up_to = at_level.cumsum(0)
    below = up_to - at_level
    share = reference_probabilities / at_level.clamp(min=torch.finfo(at_level.dtype).tiny)[index]
    return (up_to**n - below**n)[index] * share


def best_of_n_kl(n: int) -> float:
    """How far best-of-n is from the policy that it draws from.

    KL(π_n‖π_ref) = log n - (n-1)/n.

    Exact where no two draws ever have the same score, as with long text. Where they may, as over a
    finite set, it is an upper bound: the draws then are not n different ones.

    Args:
        n: draws, at least 1.

    Returns:
        Nats per response, 0 for one draw.

    Raises:
        ValueError: n is below 1.

    Source:
        Stiennon et al. 2020, arXiv 2009.01325, appendix G.3; the bound: Beirami et al. 2024,
        arXiv 2401.01879, theorem 1.

    Example:
        >>> round(best_of_n_kl(16), 4)
        1.8351
    """
    if n < 1:
        raise ValueError(f"expected n of 1 or more, found {n}")
    return math.log(n) - (n - 1) / n

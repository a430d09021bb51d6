"""How sure several reward models are, together, of what a comparison says."""

from __future__ import annotations

from torch import Tensor


def preference_strength(differences: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over models of the score difference of each comparison.

    μ̂ = 1/M · Σ_m d_m and σ̂ = √(1/M · Σ_m (d_m - μ̂)²), with d_m = r_m(x, y_w) - r_m(x, y_l).

    As in the source. A mean far below 0 says that the label is probably the wrong way round, one near 0 that
    people would hardly agree. In the source the models differ in the order of their data and judge the very
    comparisons they were trained on, for one epoch: after more they know wrong labels by heart.

    Args:
        differences: d, one row per model, in units of the score. Shape ``[M, C]``, with M models.

    Returns:
        The mean and the population standard deviation, ``[C]`` each.

    Raises:
        ValueError: `differences` is not a matrix, or has no rows.

    Source:
        Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II", arXiv 2401.06080, eq. 4.

    Example:
        >>> import torch
        >>> preference_strength(torch.tensor([[2.0, -1.0], [4.0, -1.0]]))
        (tensor([ 3., -1.]), tensor([1., 0.]))
    """
    if differences.dim() != 2 or len(differences) == 0:
        raise ValueError(f"expected differences [models, comparisons], found {list(differences.shape)}")
    return differences.mean(dim=0), differences.std(dim=0, correction=0)

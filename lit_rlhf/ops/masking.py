"""The one mask convention, and sums, means and variances under it.

A mask is bool, has the shape of the values and is True where the value counts. Values that do not
count are never multiplied by zero but replaced by it: whatever stands there, NaN included, changes
neither the result nor a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def _check(values: Tensor, mask: Tensor) -> None:
    check_same_shape(values=values, mask=mask)
    if mask.dtype != torch.bool:
        raise ValueError(f"expected a bool mask (True = counted), found {mask.dtype}")


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the counted values.

    Σ_i m_i x_i.

    Args:
        values: what to add up. Any shape.
        mask: True = counted, bool. The shape of `values`.
        dim: the dimension to add along; all of them if None.

    Returns:
        The sum: scalar, or the shape of `values` without `dim`. 0 where nothing counts.

    Raises:
        ValueError: `mask` has another shape than `values` or is not bool.

    Example:
        >>> masked_sum(torch.tensor([1.0, 2.0, float("nan")]), torch.tensor([True, True, False]))
        tensor(3.)
    """
    _check(values, mask)
    counted = values.masked_fill(~mask, 0)
    return counted.sum() if dim is None else counted.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the counted values.

    Σ_i m_i x_i / Σ_i m_i, and 0 where nothing counts.

    Args:
        values: what to average. Any shape.
        mask: True = counted, bool. The shape of `values`.
        dim: the dimension to average along; all of them if None.

    Returns:
        The mean: scalar, or the shape of `values` without `dim`.

    Raises:
        ValueError: `mask` has another shape than `values` or is not bool.

    Example:
        >>> values = torch.tensor([[1.0, 3.0, 9.0], [5.0, 9.0, 9.0]])
        >>> mask = torch.tensor([[True, True, False], [True, False, False]])
        >>> masked_mean(values, mask), masked_mean(values, mask, dim=1)
        (tensor(3.), tensor([2., 5.]))
    """
    total = masked_sum(values, mask, dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    return total / count.clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor, unbiased: bool = False) -> Tensor:
    """Variance of all counted values around their mean.

    Σ_i m_i (x_i - mean)² / n, with n = Σ_i m_i, or n - 1 if `unbiased`.

    Args:
        values: any shape.
        mask: True = counted, bool. The shape of `values`.
        unbiased: divide by n - 1 (Bessel, as TRL does) instead of n (as lm-human-preferences does).

    Returns:
        The variance, a scalar; 0 where fewer than two values count.

    Raises:
        ValueError: `mask` has another shape than `values` or is not bool.

    Example:
        >>> values, mask = torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False])
        >>> masked_variance(values, mask), masked_variance(values, mask, unbiased=True)
        (tensor(1.), tensor(2.))
    """
    mean = masked_mean(values, mask)
    # The mean stands in for what does not count: no difference, and no NaN on the way back.
    centred = torch.where(mask, values, mean) - mean
    count = mask.sum() - int(unbiased)
    return centred.square().sum() / count.clamp(min=1)


def masked_whiten(
    values: Tensor, mask: Tensor, shift_mean: bool = True, unbiased: bool = False, epsilon: float = 1e-8
) -> Tensor:
    """The counted values scaled to variance 1, and shifted to mean 0 unless told otherwise.

    (x - mean) / √(variance + ε), plus the mean again if not `shift_mean`.

    Whiten a whole rollout, not a minibatch: the statistics of a few responses are mostly noise.

    Args:
        values: any shape, such as a grid of advantages ``[N, R]``.
        mask: True = counted, bool. The shape of `values`.
        shift_mean: False keeps the mean (what is done to rewards, whose sign matters).
        unbiased: which variance; see :func:`masked_variance`.
        epsilon: added to the variance, so that equal values give 0 and not NaN.

    Returns:
        The whitened values, the shape of `values`, 0 where the mask is False.

    Raises:
        ValueError: `mask` has another shape than `values` or is not bool.

    Source:
        Ziegler et al. 2019, arXiv 1909.08593; ``utils.core.whiten`` of openai/lm-human-preferences
        at cbfd210, which has the biased variance.

    Example:
        >>> values, mask = torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False])
        >>> masked_whiten(values, mask)
        tensor([-1.,  1.,  0.])
        >>> masked_whiten(values, mask, shift_mean=False)
        tensor([1., 3., 0.])
    """
    mean = masked_mean(values, mask)
    centred = torch.where(mask, values, mean) - mean
    whitened = centred * torch.rsqrt(masked_variance(values, mask, unbiased) + epsilon)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0)

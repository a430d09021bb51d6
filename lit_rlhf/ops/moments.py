"""Mean and deviation of numbers that arrive in batches, as plain values that a checkpoint can hold."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Of all values merged so far."""

    count: float  # type: ignore[assignment]  # over tuple.count, which nobody asks of three numbers
    """How many."""
    mean: float
    squares: float
    """Σ (x - mean)²: the deviations' squares, not divided by anything."""

    @property
    def std(self) -> float:
        """√(squares / (count - 1)), Bessel's; 0 while there are fewer than two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0


def merge_moments(moments: Moments | None, values: Tensor) -> Moments:
    """The moments of the values until now and of these, as if all had come at once.

    δ = x̄_b - x̄_a,  x̄ = x̄_a + δ·n_b/n,  M = M_a + M_b + δ²·n_a·n_b/n,  with n = n_a + n_b.

    In float64, so that merging loses nothing to a long history.

    Args:
        moments: until now; None = none yet.
        values: the new ones, any float dtype, on any device. Shape ``[N]``; N = 0 changes nothing.

    Returns:
        Of old and new together.

    Raises:
        ValueError: `values` is not a list of numbers, or one of them is not finite.

    Source:
        Chan, Golub and LeVeque 1983, eq. 2.1; Welford 1962 is N = 1.

    Example:
        >>> import torch
        >>> first = merge_moments(None, torch.tensor([1.0, 3.0]))
        >>> merge_moments(first, torch.tensor([5.0]))
        Moments(count=3.0, mean=3.0, squares=8.0)
        >>> merge_moments(first, torch.tensor([5.0])).std
        2.0
    """
    if values.dim() != 1:
        raise ValueError(f"expected values of shape [N], found {list(values.shape)}")
    values = values.detach().double()
    if not bool(values.isfinite().all()):
        raise ValueError(f"expected finite values, found {values[~values.isfinite()].tolist()[:8]}")
    moments = moments or Moments(0.0, 0.0, 0.0)
    if len(values) == 0:
        return moments
    count, new = moments.count + len(values), values.mean()
    apart = new.item() - moments.mean
    return Moments(
        count,
        moments.mean + apart * len(values) / count,
        moments.squares
        + (values - new).square().sum().item()
        + apart**2 * moments.count * len(values) / count,
    )

"""Bootstrap of anything that is a function of sums over items."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.metrics.intervals import RESAMPLES

FEWEST_ITEMS = 10
"""Under so many items their resamples are too few different ones to show a spread."""
_BINOMIAL = 10
"""A binomial number costs as much as about so many items that are drawn one by one."""
_DRAWS_AT_ONCE = 1 << 21


def resampled_sums(features: Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Tensor:
    """Sums over items that are drawn with replacement, as many as there are (Efron 1979).

    The order of the items changes nothing.

    Where many items are alike, how many of each kind are in a resample is drawn, which is the same distribution.

    Args:
        features: what is summed, of each item. Float ``[I, F]``, I > 0.
        seed: of the drawing.
        resamples: how many are drawn.

    Returns:
        Float64 ``[resamples, F]``.
    """
    # what differs by rounding alone is alike, or the order of what was summed would show in the resamples
    patterns, of_item = features.double().round(decimals=12).unique(dim=0, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(of_item, minlength=len(patterns))
    if len(patterns) * _BINOMIAL < len(of_item):
        return _multinomial(sizes, resamples, generator) @ patterns
    items = len(of_item)
    place = torch.repeat_interleave(torch.arange(len(patterns), dtype=torch.int32), sizes)
    at_once = max(1, _DRAWS_AT_ONCE // items)
    sums = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = torch.randint(items, (rows * items,), generator=generator, dtype=torch.int32)
        cell = place.index_select(0, drawn).view(rows, items)
        cell = cell + torch.arange(rows, dtype=torch.int32)[:, None] * len(patterns)
        times = torch.bincount(cell.flatten(), minlength=rows * len(patterns)).view(rows, -1)
        sums.append(times.double() @ patterns)
    return torch.cat(sums)


def _multinomial(sizes: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each pattern is drawn, ``[resamples, P]``: one binomial after the other, of what is left."""
    left = torch.full((resamples,), float(sizes.sum()), dtype=torch.float64)
    behind = sizes.flip(0).cumsum(0).flip(0)
    drawn = []
    for size, rest in zip(sizes.tolist(), behind.tolist(), strict=True):
        share = torch.full_like(left, size / rest)
        drawn.append(torch.binomial(left, share, generator=generator))
        left = left - drawn[-1]
    return torch.stack(drawn, 1)


def percentile_interval(values: Tensor) -> tuple[float, float] | None:
    """The middle 95 % of a number's resamples; None where it is undefined (NaN) in more than one in twenty of them.

    Args:
        values: Shape ``[R]``.

    Example:
        >>> percentile_interval(torch.arange(1000.0))
        (25.0, 974.0)
    """
    known, _ = values[~values.isnan()].sort()
    if len(known) < 0.95 * len(values):
        return None
    return known[round(0.025 * len(known))].item(), known[round(0.975 * len(known)) - 1].item()

"""Bootstrap intervals of a mean, resampled by prompt where prompts are many enough, else by row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_PROMPTS = 20
"""Under so many prompts a bootstrap over them says little, and whole rows are resampled instead."""
RESAMPLES = 2000
_DRAWS_AT_ONCE = 1 << 18
"""So that they stay in the cache of a core."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    unit: str
    """What was resampled: ``prompt`` or ``row``."""
    count: int
    """How many of them there were."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    values: Sequence[float] | Tensor,
    prompts: Sequence[Hashable],
    seed: int = 0,
    rows: Sequence[Hashable] | None = None,
) -> Interval:
    """The mean of `values` and its percentile interval (Efron 1979).

    Args:
        values: numbers, such as one a comparison; a sequence, or a tensor of shape ``[C]``.
        prompts: the prompt of each number; all of a prompt are drawn together.
        seed: of the resampling.
        rows: the row of each number; all of a row are drawn together where prompts are too few. None = each is a
            row of its own.

    Raises:
        ValueError: there is no number, or the sequences differ in length.

    Example:
        >>> interval = bootstrap([1.0, 1.0, 1.0], ["a", "b", "c"])
        >>> str(interval), interval.unit
        ('1.000 [1.000, 1.000]', 'row')
    """
    rows = range(len(values)) if rows is None else rows
    if len(values) == 0 or not len(values) == len(prompts) == len(rows):
        raise ValueError(
            f"expected a prompt and a row for each of one or more numbers, found {len(values)}, {len(prompts)} "
            f"and {len(rows)}"
        )
    numbers = torch.as_tensor(values, dtype=torch.float64)
    unit, group = "prompt", _numbered(prompts)
    if int(group.max()) + 1 < FEWEST_PROMPTS:
        unit, group = "row", _numbered(rows)
    counts = torch.bincount(group).double()
    means, _ = _resampled_means(torch.bincount(group, numbers), counts, seed).sort()
    low, high = means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]
    return Interval(numbers.mean().item(), low.item(), high.item(), unit, len(counts))


def _numbered(names: Sequence[Hashable]) -> Tensor:
    """The same as numbers from 0, in the order of their first."""
    number: dict[Hashable, int] = {}
    return torch.tensor([number.setdefault(name, len(number)) for name in names])


def _resampled_means(sums: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Means of groups drawn with replacement, ``[RESAMPLES]``; groups are given by their sum and size, ``[G]``."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    same_size = bool((counts == counts[0]).all())
    means = []
    for start in range(0, RESAMPLES, at_once):
        resamples = min(at_once, RESAMPLES - start)
        # 32 bits are drawn, and looked up, several times faster than 64
        drawn = torch.randint(len(sums), (resamples * len(sums),), generator=generator, dtype=torch.int32)
        totals, sizes = (
            of_groups.index_select(0, drawn).view(resamples, -1).sum(1) if not constant else of_groups.sum()
            for of_groups, constant in ((sums, False), (counts, same_size))
        )
        means.append(totals / sizes)
    return torch.cat(means)

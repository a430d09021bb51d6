"""One number of the agreement page: what it is called, its interval, what it stands on, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lit_rlhf.metrics.proportions import wilson_interval
from lit_rlhf.metrics.resampling import FEWEST_ITEMS, percentile_interval, resampled_sums

Measure: TypeAlias = dict[str, Any]
"""`name`, `label`, `value`, `low` and `high` (95 %), `format` (`share`, `coefficient`, `points`), `count` and `unit`
(how many of what it stands on), `why` (there is no value)."""
Format: TypeAlias = Literal["share", "coefficient", "points"]


def measure(
    name: str,
    label: str,
    value: float | None,
    count: int,
    unit: str,
    interval: tuple[float, float] | None = None,
    format: Format = "coefficient",
    why: str | None = None,
) -> Measure:
    """The record; JSON as it is."""
    low, high = interval if interval is not None and value is not None else (None, None)
    return {
        "name": name,
        "label": label,
        "value": value,
        "low": low,
        "high": high,
        "format": format,
        "count": count,
        "unit": unit,
        "why": why if value is None else None,
    }


def share(name: str, label: str, won: Tensor, tried: Tensor, item: Tensor, unit: str, why: str) -> Measure:
    """A share of trials: Wilson's interval where every item has one trial, else a bootstrap of the items.

    What several annotators say of one item is not independent, nor are the pairs of one ranking: Wilson's interval
    over them all would be too narrow. Where all trials are won, or none, resamples do not differ, and the interval is
    Wilson's of as many trials as there are items.

    Args:
        name: for programs.
        label: for people.
        won: successes of each judgement, long or bool ``[J]``.
        tried: trials of each judgement, long or bool ``[J]``; those of 0 do not count.
        item: a number of each judgement's item, long ``[J]``.
        unit: of the trials.
        why: it has no value, where nothing was tried.
    """
    trials, successes = int(tried.sum()), int(won.sum())
    if trials == 0:
        return measure(name, label, None, 0, unit, format="share", why=why)
    items, of_trial = item[tried > 0].unique(return_inverse=True)
    zeros = torch.zeros(len(items), dtype=torch.float64)
    parts = {
        part: zeros.index_add(0, of_trial, one[tried > 0].double())
        for part, one in (("won", won), ("tried", tried))
    }
    if trials == len(items) or successes in (0, trials):
        interval = wilson_interval(len(items) * successes / trials, len(items))
        return measure(name, label, successes / trials, trials, unit, interval, "share")
    return Sums(parts).measure(name, label, lambda of: of["won"] / of["tried"], trials, unit, "share")


class Sums:
    """Sums over items and their resamples, which coefficients are functions of; all from the same resamples.

    Args:
        parts: of each item, by name. Each ``[I, ...]``.
    """

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        self.items = len(next(iter(parts.values())))
        flat = torch.cat([part.reshape(self.items, -1).double() for part in parts.values()], 1)
        rows = [flat.sum(0, keepdim=True)]
        if self.items >= FEWEST_ITEMS:
            rows.append(resampled_sums(flat))
        totals = torch.cat(rows).split([part[0].numel() for part in parts.values()], 1)
        shapes = [part.shape[1:] for part in parts.values()]
        self._totals = {
            name: total.view(-1, *shape) for name, total, shape in zip(parts, totals, shapes, strict=True)
        }

    def measure(
        self,
        name: str,
        label: str,
        coefficient: Callable[[Mapping[str, Tensor]], Tensor],
        count: int,
        unit: str = "items",
        format: Format = "coefficient",
        why: str = "all judgements are one answer",
    ) -> Measure:
        """A coefficient with its bootstrap interval; none under `FEWEST_ITEMS` items.

        Args:
            name: for programs.
            label: for people.
            coefficient: of the sums, each with the resamples as its first dimension.
            count: what it stands on.
            unit: of the count.
            format: how to print it.
            why: it has no value, where the coefficient is NaN.
        """
        values = coefficient(self._totals)
        interval = percentile_interval(values[1:]) if len(values) > 1 else None
        value = None if values[0].isnan() else values[0].item()
        return measure(name, label, value, count, unit, interval, format, why)


def quartiles(seconds: list[float]) -> dict[str, float | int] | None:
    """`count`, `lower` quartile, `median` and `upper` quartile of times; None without any."""
    if not seconds:
        return None
    ends = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    lower, median, upper = torch.tensor(seconds, dtype=torch.float64).quantile(ends).tolist()
    return {"count": len(seconds), "lower": lower, "median": median, "upper": upper}

"""A truth: something that holds of a run that is set up right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Truth:
    """Something that holds of a run that is set up right."""

    name: str
    holds: bool
    explanation: str
    """What was found; where the truth does not hold, what is likely wrong and what to do."""


def agreement(name: str, one: Tensor, other: Tensor, tolerance: float, wrong: str) -> Truth:
    """Whether two readings of the same numbers agree; a number that only one of them has does not.

    Args:
        name: of the truth.
        one: any shape; NaN = there is none.
        other: the same shape.
        tolerance: relative to the largest number, where that is over 1.
        wrong: what is likely wrong where they differ, and what to do.
    """
    apart = (
        torch.where(one.isnan() & other.isnan(), 0.0, (one - other).abs()).nan_to_num(torch.inf).max().item()
    )
    holds = apart <= tolerance * max(1.0, one.nan_to_num(0.0).abs().max().item())
    return Truth(name, holds, f"{apart:.2g} apart" if holds else f"they are {apart:.2g} apart: {wrong}")

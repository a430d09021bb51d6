"""Learning rates lowered in the middle of a run, schedule and all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Entries of a parameter group that are learning rates; schedulers read the latter three."""


def scale_learning_rates(optimizers: Iterable[Optimizer], schedulers: Iterable[Any], factor: float) -> None:
    """Multiply every learning rate by `factor`, now and for the rest of the schedule.

    Schedulers compute rates from what they were given at first (`base_lrs`) or from the rate before; both are
    scaled, and both are in checkpoints.

    Args:
        optimizers: whose parameter groups hold the rates.
        schedulers: theirs, also those that hold others (`SequentialLR`, `ChainedScheduler`).
        factor: between 0 and 1.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name in RATES:
                if name in group:
                    group[name] = group[name] * factor
    for scheduler in schedulers:
        _scale_bases(scheduler, factor)


def _scale_bases(scheduler: Any, factor: float) -> None:
    for name in ("base_lrs", "_last_lr"):
        if name in vars(scheduler):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
    for inner in vars(scheduler).get("_schedulers", []):
        _scale_bases(inner, factor)

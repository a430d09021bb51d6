"""Something that happens to one rank at a chosen moment of its fit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import lightning as L

from lit_rlhf import PPOModule
from lit_rlhf.callbacks import ExportAtEnd, GracefulStop
from lit_rlhf.modules.base import PhaseModule

Moment: TypeAlias = Literal["start", "rollout", "update", "save", "export"]
"""Before networks are spread and read; a rollout's scores; a micro-batch; a checkpoint; the export."""

METHODS: dict[Moment, tuple[type, str]] = {
    "start": (PhaseModule, "configure_model"),
    "rollout": (PPOModule, "score"),
    "update": (GracefulStop, "on_train_batch_start"),
    "save": (L.Trainer, "save_checkpoint"),
    "export": (ExportAtEnd, "on_fit_end"),
}


def signalled(rank: int, number: int, moment: Moment, time: int) -> Callable[[int], None]:
    """What :func:`tests.ranks.runs.run` calls on each rank, so that one is sent a signal.

    Args:
        rank: which of them.
        number: the signal.
        moment: before what.
        time: the how-manieth of these, from 1.
    """

    def on_rank(this: int) -> None:
        if this == rank:
            before(moment, time, lambda: os.kill(os.getpid(), number))

    return on_rank


def killed(rank: int, moment: Moment, time: int) -> Callable[[int], None]:
    """The same, with SIGKILL."""
    return signalled(rank, signal.SIGKILL, moment, time)


def before(moment: Moment, time: int, act: Callable[[], Any]) -> None:
    """Have this process do something before a moment of its fit; it ends with its test."""
    owner, name = METHODS[moment]
    plain, count = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == time:
            act()
        return plain(*arguments, **named)

    setattr(owner, name, counted)

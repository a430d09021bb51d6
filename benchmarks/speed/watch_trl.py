"""What both runners of TRL's samplers share: its callback, and its silence."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import datasets
from transformers import TrainerCallback

from benchmarks.speed.iterations import Iterations


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Tells of the KL and of each iteration's end.

    Args:
        seen: told.
        kl: what the trainer logs the KL as.
    """

    def __init__(self, seen: Iterations, kl: str) -> None:
        self.seen, self.kl = seen, kl

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        if self.kl in logs:
            self.seen.kl(logs[self.kl])

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        self.seen.over()


def quiet() -> None:
    """No warnings, no bars: the one line of output is the result."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()

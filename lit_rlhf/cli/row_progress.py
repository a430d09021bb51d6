"""How far a pass over rows or responses is, on stderr: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_rlhf.cli.progress import SECONDS_BETWEEN, duration


class RowProgress:
    """Counts rows up to `total`, and says how long the others will take at the pace so far.

    Args:
        what: is being done, such as ``scoring``.
        total: rows in all.
        done: rows that an earlier run did, which tell nothing about the pace.
        unit: what is counted, where it is not rows.
    """

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "row") -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self._first = done
        self._start = self._spoke = monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> RowProgress:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.add_task(self.what, total=self.total, completed=self.done)
            self._bar.start()
        return self

    def advance(self, rows: int) -> None:
        """Count `rows` more."""
        self.done += rows
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], rows)
        elif monotonic() - self._spoke >= SECONDS_BETWEEN:
            self._spoke = monotonic()
            print(self.line(self._spoke - self._start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What there is to say `seconds` after the beginning."""
        left = seconds / max(self.done - self._first, 1) * (self.total - self.done)
        return f"{self.what}: {self.unit} {self.done}/{self.total}, about {duration(left)} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

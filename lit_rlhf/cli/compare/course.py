"""A comparison from first to last: every cell in its order, what is done passed over, the page drawn as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.compare.cells import START_FOLDER, Cell, Cells
from lit_rlhf.cli.compare.results import ResultsReader, done_mark, failure_file
from lit_rlhf.cli.progress import duration
from lit_rlhf.cli.steps.commands import write_command
from lit_rlhf.cli.steps.step import Step, StepFailed, Steps


class Runner(Protocol):
    """Runs commands, each into a log."""

    log: Path

    def run(self, argv: Sequence[str]) -> int:
        """Run one; returns its exit code."""

    def reason(self, code: int) -> str:
        """Why the last one ended with this exit code."""


class Course:
    """One comparison in one folder.

    Args:
        cells: what is done.
        runner: runs it.
        say: prints a line.
        draw: writes the page from the folder's ``results.json``.
        command: the words that asked for it, and
        notes: what was said of it, for ``results.json``.
    """

    def __init__(
        self, cells: Cells, runner: Runner, say: Callable[[str], None], draw: Callable[[Path], None],
        command: Sequence[str] = (), notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.cells, self.out, self.runner, self.say, self.draw = cells, cells.out, runner, say, draw
        self.results = ResultsReader(cells, command, notes)
        self.steps = Steps(self.out, runner.run, say)
        self.all_steps = [
            *cells.steps_of_start(),
            *(step for cell in cells.cells for step in cells.steps_of(cell)),
        ]
        self.given_up: set[str] = set()
        """Folders of cells that failed now, whose other steps are not waited for."""

    def run(self) -> bool:
        """Do what is not done; returns whether everything is, and nothing failed.

        Raises:
            Refusal: something was done with other settings; nothing is run then.
            StepFailed: the start cannot be measured.
        """
        self.check()
        settings = asdict(self.cells.comparison)
        write_beside_and_rename(self.out / "compare.json", json.dumps(settings, indent=1, default=str) + "\n")
        before = sum(done_mark(self.out, step.folder, step.name).exists() for step in self.all_steps)
        if before:
            self.say(f"{before} of {len(self.all_steps)} steps were done before")
        for step in self.cells.steps_of_start():
            self.do(step)
        for cell in self.cells.cells:
            self.run_cell(cell)
            self.write_page()
        return all(self.results.is_done(cell) for cell in self.cells.cells)

    def check(self) -> None:
        """Refuse, before any work, what was done or begun with other settings; up to each cell's first step to do.

        Raises:
            Refusal: with the first that was.
        """
        for steps in [self.cells.steps_of_start(), *map(self.cells.steps_of, self.cells.cells)]:
            for step in steps:
                if not self.steps.check(step):
                    break

    def run_cell(self, cell: Cell) -> None:
        """One method with one seed; where a step fails the reason is kept, and the next cell's turn comes."""
        failed = failure_file(self.out, cell)
        for step in self.cells.steps_of(cell):
            try:
                self.do(step)
            except StepFailed as stop:
                code = stop.code if isinstance(stop.code, int) else 1
                why = f"{step.name}: {self.runner.reason(code)}"
                found = {"step": step.name, "code": code, "why": why, "log": str(self.runner.log)}
                write_beside_and_rename(failed, json.dumps(found, ensure_ascii=False) + "\n")
                self.given_up.add(cell.folder)
                self.say(f"  {why}\n  all it said: {self.runner.log}; the other cells go on")
                return
        failed.unlink(missing_ok=True)

    def do(self, step: Step) -> None:
        """Run a step that is not done, and write its command down."""
        self.runner.log = self.out / step.folder / "logs" / f"{step.name}.log"
        write_command(self.out / "commands.sh", "# the steps of this comparison, in order", step)
        ran = len(self.steps.ran)
        self.steps.do(step)
        if len(self.steps.ran) > ran:
            self.say(f"  {self.progress()}")

    def progress(self) -> str:
        """``12 of 40 steps, about 20 min left``."""
        done = [step for step in self.all_steps if done_mark(self.out, step.folder, step.name).exists()]
        left = seconds_left(self.out, self.all_steps, self.given_up, self.cells.comparison.seconds)
        return f"{len(done)} of {len(self.all_steps)} steps" + (
            f", about {duration(left)} left" if left is not None else ""
        )

    def write_page(self) -> None:
        """``results.json``, and the page."""
        text = json.dumps(self.results.collect(), indent=1, ensure_ascii=False, default=str)
        write_beside_and_rename(self.out / "results.json", text + "\n")
        self.draw(self.out)


def seconds_left(out: Path, steps: Sequence[Step], given_up: set[str], budget: float | None) -> float | None:
    """How long the steps that are not done take, by the mean of those of their name that are; None if none is left.

    Args:
        out: the comparison's folder.
        steps: all of them.
        given_up: folders whose steps are not waited for.
        budget: seconds of a fit, which stand for it until one is done.
    """
    took: dict[str, list[float]] = {}
    left: list[str] = []
    for step in steps:
        name = step.name if step.folder != START_FOLDER else f"{START_FOLDER} {step.name}"
        mark = done_mark(out, step.folder, step.name)
        if mark.exists():
            said: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8"))
            took.setdefault(name, []).append(float(said["seconds"]))
        elif step.folder not in given_up:
            left.append(name)
    if not left:
        return None
    for name in {name for name in left if name not in took}:
        took[name] = took.get(f"{START_FOLDER} {name}") or ([budget] if name == "fit" and budget else [])
    known = [mean(took[name]) for name in left if took[name]]
    return sum(known) * len(left) / len(known) if known else None

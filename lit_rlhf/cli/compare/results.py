"""What came of a comparison so far, read from its folder: the numbers of ``results.json``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lit_rlhf.cli.compare.accuracy import accuracy_of
from lit_rlhf.cli.compare.cells import START_FOLDER, Cell, Cells
from lit_rlhf.cli.compare.settings_that_differ import differing
from lit_rlhf.cli.steps.rows import read_jsonl
from lit_rlhf.cli.steps.step import Step

Numbers = dict[str, Any]
UNEQUAL = 1.5
"""By how many times processor time may differ under the same updates without a word."""


class ResultsReader:
    """Reads the numbers of a comparison; those of a finished cell are read once.

    Args:
        cells: what was asked for.
        command: the words that asked for it.
        notes: what was said of it before anything was trained.
    """

    def __init__(self, cells: Cells, command: Sequence[str] = (), notes: Sequence[str] = ()) -> None:
        self.cells, self.out, self.command, self.notes = cells, cells.out, [*command], [*notes]
        self._settings = differing(cells.methods)
        self._done: dict[str, Numbers] = {}

    def collect(self) -> Numbers:
        """Everything that the folder holds by now, as ``results.json`` has it."""
        said = self.cells.comparison
        found: Numbers = {
            "command": self.command,
            "settings": {
                "model": self.cells.start, "data": self._file("comparisons"), "val": said.val,
                "prompts": self._file("prompts"), "evaluation": said.evaluation, "reward": self.cells.reward,
                "gold": said.gold, "budget": said.budget, "seeds": list(said.seeds),
                "samples": len(self._prompts() or []), "max_new_tokens": said.max_new_tokens,
            },
            "evaluation_prompts": self._prompts(),
            "start": self._start(),
            "methods": [
                {
                    "name": method.name, "config": str(method.config), "class": method.class_name,
                    "loss": method.arguments("model").get("loss"), "settings": self._settings[method.name],
                    "seeds": [self._cell(Cell(method, seed)) for seed in said.seeds],
                }
                for method in self.cells.methods
            ],
        }  # fmt: skip
        return {**found, "notes": [*self.notes, *unequal_work(found)]}

    def is_done(self, cell: Cell) -> bool:
        """Whether every step of a cell is."""
        return all(done_mark(self.out, cell.folder, step.name).exists() for step in self.cells.steps_of(cell))

    def failure(self, cell: Cell) -> str | None:
        """Why a cell has failed."""
        file = failure_file(self.out, cell)
        return str(json.loads(file.read_text(encoding="utf-8"))["why"]) if file.exists() else None

    def _cell(self, cell: Cell) -> Numbers:
        if self.is_done(cell):
            if cell.folder not in self._done:
                self._done[cell.folder] = measured_numbers(
                    self.out / cell.folder, names_of(self.cells.steps_of(cell))
                )
            return {"seed": cell.seed, "state": "done", **self._done[cell.folder]}
        why = self.failure(cell)
        if why is not None:
            return {"seed": cell.seed, "state": "failed", "why": why}
        return {"seed": cell.seed, "state": "missing", "why": "not yet trained and measured"}

    def _start(self) -> Numbers | None:
        asked = names_of(self.cells.steps_of_start())
        if not asked or not all(done_mark(self.out, START_FOLDER, name).exists() for name in asked):
            return None
        found = measured_numbers(self.out / START_FOLDER, asked)
        nothing = {"updates": 0, "seconds": 0.0, "wall_seconds": 0.0, "episodes": 0}
        return {**found, "kl": [0.0] * len(found["tokens"]), **nothing}

    def _prompts(self) -> list[str] | None:
        """A key for each evaluation prompt that is answered: rows of one prompt are resampled together."""
        file = self.out / START_FOLDER / "responses.jsonl"
        if self.cells.comparison.evaluation is None or not file.exists():
            return None
        return [json.dumps(row["prompt"], sort_keys=True) for row in read_jsonl(file)]

    def _file(self, kind: str) -> Any:
        """What methods of a kind learn from; None where there are none."""
        found = [one.arguments("data").get("path") for one in self.cells.methods if one.learns_from == kind]
        return found[0] if found else None


def done_mark(out: Path, folder: str, step: str) -> Path:
    """The file that says that a step is done."""
    return out / folder / "steps" / f"{step}.done.json"


def names_of(steps: Sequence[Step]) -> set[str]:
    """The steps' names."""
    return {step.name for step in steps}


def failure_file(out: Path, cell: Cell) -> Path:
    """What is known of a cell that failed."""
    return out / cell.folder / "failed.json"


def measured_numbers(here: Path, asked: Collection[str]) -> Numbers:
    """What was measured of a policy; what was not is None.

    Args:
        here: the folder of its cell.
        asked: names of its steps: what others left there, of an earlier asking, is not taken.
    """
    measures = read_json(here / "measures.json") if "measure" in asked else {}
    answers = read_jsonl(here / "responses.jsonl") if "answer" in asked else None
    reward = measures.get("reward")
    if "score" in asked:
        reward = [row["reward_scores"][0] for row in read_jsonl(here / "scored.jsonl")]
    trained = read_json(here / "run" / "metrics.json")
    return {
        "accuracy": accuracy_of(here / "comparisons.jsonl") if "comparisons" in asked else None,
        "gold": measures.get("gold"),
        "reward": reward,
        "kl": measures.get("kl"),
        "tokens": measures.get("tokens"),
        "finished": None if answers is None else [bool(row["finished"][0]) for row in answers],
        "updates": trained.get("step"),
        "seconds": trained.get("time/training_cpu_seconds"),
        "wall_seconds": trained.get("time/training_seconds"),
        "episodes": round(trained.get("episodes") or 0),
    }


def read_json(file: Path) -> Mapping[str, Any]:
    """A mapping, empty where there is no file."""
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def unequal_work(results: Mapping[str, Any]) -> list[str]:
    """A note where the same number of updates cost some methods far more processor time than others."""
    if "updates" not in results["settings"]["budget"]:
        return []
    seconds: dict[str, float] = {}
    for method in results["methods"]:
        if took := [cell["seconds"] for cell in method["seeds"] if cell.get("seconds")]:
            seconds[method["name"]] = mean(took)
    if len(seconds) < 2:
        return []
    (least, few), *_, (most, many) = sorted(seconds.items(), key=lambda one: one[1])
    if many <= UNEQUAL * few:
        return []
    return [
        f"the same updates are not the same work: {most} took {many:.3g} CPU seconds a fit, {least} "
        f"{few:.3g}; --seconds gives all the same"
    ]

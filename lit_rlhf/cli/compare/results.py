"""What came of a comparison so far, read from its folder: the numbers of ``results.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_rlhf.cli.compare.accuracy import accuracy_of
from lit_rlhf.cli.compare.cells import START, Cell, Cells
from lit_rlhf.cli.compare.methods import Method
from lit_rlhf.cli.steps.rows import read_jsonl

Numbers = dict[str, Any]

LEFT_OUT = {
    *("model.model", "model.reward", "model.reference", "model.seed", "model.tokenizer", "model.loss"),
    *(
        "data.path",
        "data.seed",
        "trainer.max_epochs",
        "trainer.max_steps",
        "trainer.max_time",
        "trainer.min_epochs",
    ),
    *(
        "trainer.min_steps",
        "trainer.log_every_n_steps",
        "trainer.check_val_every_n_epoch",
        "trainer.limit_val_batches",
    ),
    *("trainer.num_sanity_val_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
}
"""What the comparison decides, what stands elsewhere in the results, and what is only shown."""


class Results:
    """Reads the numbers of a comparison; those of a finished cell are read once.

    Args:
        cells: what was asked for.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells, self.out = cells, cells.out
        self._settings = differing(cells.methods)
        self._done: dict[str, Numbers] = {}

    def collect(self) -> Numbers:
        """Everything that the folder holds by now, as ``results.json`` has it."""
        said = self.cells.comparison
        return {
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
                self._done[cell.folder] = numbers_of(self.out / cell.folder)
            return {"seed": cell.seed, "state": "done", **self._done[cell.folder]}
        why = self.failure(cell)
        if why is not None:
            return {"seed": cell.seed, "state": "failed", "why": why}
        return {"seed": cell.seed, "state": "missing", "why": "not yet trained and measured"}

    def _start(self) -> Numbers | None:
        if not self.cells.steps_of_start():
            return None
        if not all(done_mark(self.out, START, step.name).exists() for step in self.cells.steps_of_start()):
            return None
        found = numbers_of(self.out / START)
        nothing = {"updates": 0, "seconds": 0.0, "wall_seconds": 0.0, "episodes": 0}
        return {**found, "kl": [0.0] * len(found["tokens"]), **nothing}

    def _prompts(self) -> list[str] | None:
        """A key for each evaluation prompt that is answered: rows of one prompt are resampled together."""
        file = self.out / START / "responses.jsonl"
        return (
            [json.dumps(row["prompt"], sort_keys=True) for row in read_jsonl(file)] if file.exists() else None
        )

    def _file(self, kind: str) -> Any:
        """What methods of a kind learn from; None where there are none."""
        found = [one.arguments("data").get("path") for one in self.cells.methods if one.learns_from == kind]
        return found[0] if found else None


def done_mark(out: Path, folder: str, step: str) -> Path:
    """The file that says that a step is done."""
    return out / folder / "steps" / f"{step}.done.json"


def failure_file(out: Path, cell: Cell) -> Path:
    """What is known of a cell that failed."""
    return out / cell.folder / "failed.json"


def numbers_of(here: Path) -> Numbers:
    """What was measured of a policy, from the folder of its cell; what was not is None."""
    measures = read_json(here / "measures.json")
    answers = read_jsonl(here / "responses.jsonl") if (here / "responses.jsonl").exists() else None
    scored = here / "scored.jsonl"
    comparisons = here / "comparisons.jsonl"
    reward = (
        [row["reward_scores"][0] for row in read_jsonl(scored)] if scored.exists() else measures.get("reward")
    )
    trained = read_json(here / "run" / "metrics.json")
    return {
        "accuracy": accuracy_of(comparisons) if comparisons.exists() else None,
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


# --- what differs between the configs


def differing(methods: list[Method]) -> dict[str, Numbers]:
    """Of each method the settings in which it may differ from the others, by their dotted names.

    Those are the ones that its config gives, and those in which it differs from another method that has them too;
    without those that all methods have alike.
    """
    flat = {one.name: flattened(one) for one in methods}
    given = {one.name: given_names(one.config) for one in methods}
    found: dict[str, Numbers] = {}
    for name, settings in flat.items():
        found[name] = {}
        for key, value in settings.items():
            others = [other[key] for other in flat.values() if key in other]
            differs = any(other != value for other in others)
            alike_in_all = len(others) == len(flat) and not differs
            if (differs or key in given[name]) and not (alike_in_all or key in LEFT_OUT):
                found[name][key.removeprefix("model.")] = value
    return found


def flattened(method: Method) -> Numbers:
    """A method's settings by dotted names, a class's arguments without the word ``init_args``."""
    found: Numbers = {}
    for part in ("model", "data"):
        flatten(method.arguments(part), part, found)
    flatten(
        {k: v for k, v in method.read["trainer"].items() if k not in ("callbacks", "logger")},
        "trainer",
        found,
    )
    return found


def flatten(value: Any, name: str, into: Numbers) -> None:
    """Put what a value holds under dotted names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            flatten(inner, name if key == "init_args" else f"{name}.{key}", into)
    else:
        into[name] = value


def given_names(config: Path) -> set[str]:
    """The dotted names that a config itself gives."""
    import yaml

    found: Numbers = {}
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    for part in ("model", "data", "trainer"):
        flatten(content.get(part), part, found)
    return set(found)

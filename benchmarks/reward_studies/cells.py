"""Cells of the studies: one arm of one study in one world under one condition with one seed, run once and kept."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_rlhf.callbacks import write_beside_and_rename

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """All arms of a study that share their data: what one worker takes at a time."""

    study: str
    world: str
    """``demo``, or the data folder's name."""
    condition: str
    """How the data was made."""
    seed: int

    @property
    def name(self) -> str:
        return f"{self.study}/{self.world}/{self.condition}/{self.seed}"


class Cells:
    """The cells of one job, a small JSON file each; those that stand already are not run again.

    Args:
        out: the studies' folder.
        job: whose cells they are.
    """

    def __init__(self, out: Path, job: Job) -> None:
        self.folder, self.job = out / "cells" / job.name, job
        self.folder.mkdir(parents=True, exist_ok=True)

    def once(self, arm: str, work: Callable[[], Result]) -> Result | None:
        """The arm's result, from its file or from `work`; None where it fails, which is written down."""
        file, failed = self.folder / f"{arm}.json", self.folder / f"{arm}.failed.txt"
        if file.exists():
            result: Result = json.loads(file.read_text())["result"]
            return result
        begun = time.process_time()
        try:
            result = work()
        except Exception as error:
            write_beside_and_rename(failed, traceback.format_exc())
            print(f"{self.job.name}/{arm}: FAILED: {type(error).__name__}: {error}", flush=True)
            return None
        seconds = time.process_time() - begun
        cell = {**asdict(self.job), "arm": arm, "cpu_seconds": round(seconds, 2), "result": result}
        write_beside_and_rename(file, json.dumps(cell) + "\n")
        failed.unlink(missing_ok=True)
        print(f"{self.job.name}/{arm}: {seconds:.1f} s", flush=True)
        return result


def read_cells(out: Path) -> list[dict[str, Any]]:
    """Every cell that is done, in order of its path."""
    return [json.loads(file.read_text()) for file in sorted((out / "cells").rglob("*.json"))]


def read_failures(out: Path) -> dict[str, str]:
    """The last line of what each failed cell said, by its path."""
    return {
        str(file.relative_to(out / "cells")).removesuffix(".failed.txt"): file.read_text()
        .strip()
        .splitlines()[-1]
        for file in sorted((out / "cells").rglob("*.failed.txt"))
    }

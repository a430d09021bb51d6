"""The data sets of the study, and what all fits of one of them with one seed share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.direct.judge import Judge, demo_outcomes, no_outcomes
from benchmarks.prepare import write
from benchmarks.reward_studies.fits import DataRow

FLIP_RATE = 0.25
"""Share of the training labels that are turned round under the condition ``flips``."""
TUNING_SEED = 100
"""Seeds from here on choose the settings and are no part of the results."""


@dataclass(frozen=True)
class World:
    """A data set: how its rows are cut, and what a fit may cost."""

    name: str
    kind: str
    """Whose policy it starts from: ``demo``, ``blimp`` or ``debates``."""
    budget: int
    """Of a fit, in updates of DPO; what those of the others cost is measured. PPO's reward model is in it."""
    learning_rate: float
    """Of every method's policy."""
    batch_size: int
    """Comparisons of an update."""
    pairs: int
    """Rows that are trained on, at the most."""
    max_prompt_tokens: int
    max_response_tokens: int


WORLDS = {
    world.name: world
    for world in (
        World("demo", "demo", 80, 5e-4, 32, 2000, 8, 20),
        World("pairs_blimp", "blimp", 60, 1e-3, 16, 800, 16, 32),
        World("pairs_ukp_convarg", "debates", 60, 1e-3, 16, 800, 48, 64),
        World("kwise_ukp_rank", "debates", 40, 1e-3, 16, 800, 32, 48),
        World("multi_ukp_convarg", "debates", 40, 1e-3, 16, 800, 32, 48),
    )
}


@dataclass
class Ground:
    """What all fits of one world and seed share."""

    world: World
    seed: int
    start: Path
    """Folder of the fine-tuned policy."""
    training: list[DataRow]
    """Comparisons as they were given."""
    held_out: list[DataRow]
    prompts: list[DataRow]
    """Of training; PPO and the online methods draw responses to them."""
    asked: list[DataRow]
    """Prompts that policies are measured on."""
    folder: Path
    """For files."""
    quick: bool

    @property
    def limits(self) -> dict[str, Any]:
        """As data modules take them."""
        return {
            "max_prompt_tokens": self.world.max_prompt_tokens,
            "max_response_tokens": self.world.max_response_tokens,
        }

    @property
    def budget(self) -> int:
        """A fit's, in updates of DPO."""
        return 4 if self.quick else self.world.budget

    @cached_property
    def judge(self) -> Judge:
        """Measures policies of this world."""
        outcomes = demo_outcomes if self.world.kind == "demo" else no_outcomes
        return Judge(self.start, self.held_out, self.asked, outcomes, self.world, few=self.quick)

    def file(self, name: str, rows: Sequence[DataRow]) -> str:
        """The rows as a file that data modules read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            write(path, rows)
        return str(path)

    def comparisons(self, condition: str) -> list[DataRow]:
        """The training pairs, a quarter of them turned round under ``flips``."""
        return flipped(self.training, self.seed) if condition == "flips" else self.training


def flipped(rows: Sequence[DataRow], seed: int) -> list[DataRow]:
    """The pairs with :data:`FLIP_RATE` of them turned round."""
    generator, turned = Random(f"flips {seed}"), []
    for row in rows:
        if generator.random() < FLIP_RATE:
            row = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
        turned.append(row)
    return turned

"""What an update costs, measured in turns; and how many of them so many seconds buy.

CPU seconds of one update swing by half with what else runs on a machine, so that fits that are stopped by their own
clock would get unequal shares. Costs are measured against each other instead: everything takes turns of a few updates,
and what counts is the ratio to an update of DPO in the same turn, its median over the turns.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L

from benchmarks.direct.worlds import Ground
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.callbacks.budget import TrainingBudget

TURNS = 4
WARM_UP = 3
"""Updates of a turn that do not count."""

Costs = Mapping[str, float]
"""Of one update (of ``ppo`` and its like one iteration), in updates of DPO; ``seconds`` is what such an update took."""


class Stopwatch(L.Callback):
    """CPU seconds of the updates or epochs of a fit behind the first few.

    Args:
        budget: that counts them.
        first: updates, or epochs, that do not count.
        epochs: whether epochs are counted.
    """

    def __init__(self, budget: TrainingBudget, first: int, epochs: bool) -> None:
        self.budget, self.first, self.epochs = budget, first, epochs
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, _: int) -> None:
        if not self.epochs:
            self.seen.append(self.budget.spent)

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        if self.epochs:
            self.seen.append(self.budget.spent)

    @property
    def each(self) -> float:
        """Seconds of one."""
        counted = self.seen[self.first - 1 :]
        return (counted[-1] - counted[0]) / (len(counted) - 1)


Turn = Callable[[], float]
"""A few updates of something; returns the CPU seconds of one."""


def measured(turns: Mapping[str, Turn], rounds: int = TURNS) -> dict[str, Any]:
    """The cost of each by name, in units of that of ``reference``, which is one of them.

    Example:
        >>> found = measured({"reference": lambda: 0.5, "other": lambda: 1.0}, rounds=2)
        >>> found["other"], found["seconds"]
        (2.0, 0.5)
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        order = list(turns)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            seconds[name].append(turns[name]())
    ratios = {
        name: [one / base for one, base in zip(found, seconds["reference"], strict=True)]
        for name, found in seconds.items()
    }
    return {
        **{name: round(median(found), 4) for name, found in ratios.items()},
        "seconds": round(median(seconds["reference"]), 5),
        "turns": rounds,
        "spread": {name: [round(min(found), 3), round(max(found), 3)] for name, found in ratios.items()},
    }


def costs_of(ground: Ground, folder: Path) -> Costs:
    """Those of a world, from the study's folder, or measured now and kept there."""
    path = folder / f"costs-{ground.world.name}.json"
    if not path.exists():
        from benchmarks.direct.turns import turns_of

        with tempfile.TemporaryDirectory() as temporary:
            found = measured(turns_of(ground, Path(temporary)), 1 if ground.quick else TURNS)
        write_beside_and_rename(path, json.dumps(found, indent=1))
        print(f"costs of {ground.world.name}: {found}", flush=True)
    costs: Costs = json.loads(path.read_text())
    return costs


def bought(costs: Costs, name: str, budget: float, before: float = 0.0) -> int:
    """How many updates (iterations) of something a budget buys, at least 1.

    Args:
        costs: of the world.
        name: of what is bought.
        budget: in updates of DPO.
        before: that is spent already, in the same unit.

    Example:
        >>> bought({"ppo": 10.0}, "ppo", 120, before=25.0)
        9
    """
    return max(1, int((budget - before) / costs[name]))

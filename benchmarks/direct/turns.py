"""A few updates of each kind of fit, for measuring what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.direct.costs import WARM_UP, Stopwatch, Turn
from benchmarks.direct.fits import (
    direct_module,
    expert_fit,
    learned_reward,
    online_fit,
    pair_data,
    ppo_fit,
    reward_module,
    trainer,
)
from benchmarks.direct.longer import EXPERTS
from benchmarks.direct.worlds import Ground
from benchmarks.reward_studies.fits import quieten
from lit_rlhf.callbacks.budget import TrainingBudget

UPDATES, ITERATIONS = 8, 2
"""That count, in a turn."""


def turns_of(ground: Ground, folder: Path) -> dict[str, Turn]:
    """By what is computed: losses with a reference cost alike, and so do those without."""
    quieten()
    torch.manual_seed(ground.seed)
    pairs = ground.file("pairs_clean", ground.training)
    reward = str(folder / "reward")
    learned_reward(ground, pairs, reward)

    def losses(**options: object) -> Turn:
        return lambda: _timed(direct_module(ground, options, 100), pair_data(ground, pairs), updates=True)

    turns: dict[str, Turn] = {"reference": losses(loss="sigmoid"), "no_reference": losses(loss="simpo")}
    if len({row["prompt"] for row in ground.training}) > 1:
        turns["kto"] = losses(loss="kto")
    turns["reward"] = lambda: _timed(reward_module(ground, 100), pair_data(ground, pairs), updates=True)
    turns["ppo"] = lambda: _timed(*ppo_fit(ground, {"kl_coef": 0.1, "rate": 1.0}, reward, 100), updates=False)
    if ground.world.kind == "demo":
        turns["online"] = lambda: _timed(*online_fit(ground, 0.2, None, 100), updates=False)
        turns["online_reward"] = lambda: _timed(*online_fit(ground, 0.2, reward, 100), updates=False)
        for method, settings in EXPERTS.items():
            turns[method] = _expert(ground, settings, reward)
    return turns


def _expert(ground: Ground, settings: Mapping[str, object], reward: str) -> Turn:
    return lambda: _timed(*expert_fit(ground, settings, reward, 100), updates=False)


def _timed(module: object, data: object, updates: bool) -> float:
    """CPU seconds of one update, or of one iteration."""
    budget = TrainingBudget()
    first, count = (WARM_UP, UPDATES) if updates else (1, ITERATIONS)
    watch = Stopwatch(budget, first, epochs=not updates)
    limits = {"max_steps": first + count} if updates else {"max_epochs": first + count}
    trainer(callbacks=(budget, watch), **limits).fit(module, datamodule=data)  # type: ignore[arg-type]
    return watch.each

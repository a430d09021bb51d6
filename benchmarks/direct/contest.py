"""The methods against each other and against PPO, on pairs, at equal CPU seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from benchmarks.direct.costs import Costs
from benchmarks.direct.fits import direct, finished, ppo_fit, with_reward
from benchmarks.direct.recipes import FLIPPED, ON_REAL_TEXT, RECIPES, TRIES, chosen
from benchmarks.direct.starts import Starts
from benchmarks.direct.worlds import WORLDS, Ground
from benchmarks.reward_studies.cells import Cells, Job, Result

NAME = "contest"
CONDITIONS = {"clean": "labels as they are", "flips": "25 % of the training labels turned round"}
PAIR_WORLDS = ("demo", "pairs_blimp", "pairs_ukp_convarg")


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a world, condition and seed."""
    return [
        Job(NAME, world, condition, seed)
        for seed in seeds
        for world in PAIR_WORLDS
        for condition in CONDITIONS
    ]


def methods(world: str, condition: str) -> Iterable[str]:
    """Those that are run in a world under a condition."""
    if condition == "flips":
        return FLIPPED[world]
    return RECIPES if world == "demo" else ON_REAL_TEXT[world]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every method, with the try that was chosen."""
    world = WORLDS[job.world]
    ground, costs = starts.ground(world, job.seed), starts.costs(world)
    if job.condition == "clean":
        cells.once("start", lambda: dict(ground.judge.measure(ground.judge.evaluator.reference, job.seed)))
    for method in methods(job.world, job.condition):
        cells.once(method, partial(fit, ground, costs, job.condition, method, chosen(method)))


def sweep(job: Job, starts: Starts, cells: Cells) -> None:
    """Every try of every method."""
    world = WORLDS[job.world]
    ground, costs = starts.ground(world, job.seed), starts.costs(world)
    for number in range(TRIES):
        for method in methods(job.world, "clean"):
            cells.once(f"{method}-{number}", partial(fit, ground, costs, "clean", method, number))


def fit(
    ground: Ground,
    costs: Costs,
    condition: str,
    method: str,
    number: int,
    times: float = 1.0,
    rate: float | None = None,
) -> Result:
    """One method with one of its tries, for so many budgets, measured; `rate` is PPO's, where not that of the try."""
    pairs = ground.file(f"pairs_{condition}", ground.comparisons(condition))
    settings = RECIPES[method].settings(number, condition)
    if method == "ppo":
        settings["rate"] = rate or settings["rate"]
        trained = with_reward(
            ground, costs, pairs, "ppo", lambda reward, count: ppo_fit(ground, settings, reward, count), times
        )
    else:
        trained = direct(ground, costs, pairs, settings, times)
    return finished(trained, ground, times > 1, settings=settings)

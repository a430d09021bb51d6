"""Online DPO against offline DPO in the demo world: gold at equal KL, at equal CPU seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.direct.costs import Costs, bought
from benchmarks.direct.fits import RESPONSES, direct, finished, online_fit, train, with_reward
from benchmarks.direct.starts import Starts
from benchmarks.direct.worlds import WORLDS, Ground
from benchmarks.reward_studies.cells import Cells, Job, Result

NAME = "online"
BETAS = (0.03, 0.1, 0.3, 1.0)
"""Of every family; what a family gains at a KL is read between them."""
FAMILIES: Mapping[str, str] = {
    "offline": "offline DPO on the given pairs",
    "online": "online DPO, its own pairs labelled as the given ones were",
}


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a seed."""
    return [Job(NAME, "demo", "clean", seed) for seed in seeds]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every family at every β."""
    ground, costs = starts.ground(WORLDS["demo"], job.seed), starts.costs(WORLDS["demo"])
    for beta in BETAS:
        for family in FAMILIES:
            cells.once(f"{family}-{beta:g}", partial(fit, ground, costs, family, beta))


def fit(ground: Ground, costs: Costs, family: str, beta: float, times: float = 1.0) -> Result:
    """One family at one β, measured; `labels` is how many comparisons somebody was asked for."""
    pairs, given = ground.file("pairs_clean", ground.training), len(ground.training)
    if family == "offline":
        trained = direct(ground, costs, pairs, {"loss": "sigmoid", "beta": beta}, times)
        return finished(
            trained, ground, times > 1, labels=min(given, trained.updates * ground.world.batch_size)
        )
    if family == "online_reward":
        trained = with_reward(
            ground, costs, pairs, family, lambda reward, count: online_fit(ground, beta, reward, count), times
        )
        return finished(trained, ground, times > 1, labels=given)
    iterations = bought(costs, family, times * ground.budget)
    trained = train(online_fit(ground, beta, None, iterations), 2 * iterations, iterations)
    return finished(trained, ground, times > 1, labels=iterations * RESPONSES["demo"] // 2)

"""Methods that draw samples against those that do not, with several times the seconds, in the demo world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.direct.contest import fit
from benchmarks.direct.costs import Costs
from benchmarks.direct.fits import expert_fit, finished, with_reward
from benchmarks.direct.online import fit as fit_online
from benchmarks.direct.recipes import chosen
from benchmarks.direct.starts import Starts
from benchmarks.direct.worlds import WORLDS, Ground
from benchmarks.reward_studies.cells import Cells, Job, Result

NAME = "longer"
BASELINE = "ppo"
WAY = "sigmoid-0.3"
"""Arm on whose way the others are held against DPO at the same KL."""
TIMES = 3
"""The contest's budget."""
ARMS: Mapping[str, str] = {
    "sigmoid": "DPO (sigmoid), β = 0.1",
    "sigmoid-0.3": "DPO (sigmoid), β = 0.3",
    "online-0.3": "online DPO with new labels, β = 0.3",
    "ppo": "PPO with a reward model",
    "online_reward": "online DPO judged by a reward model, β = 0.1",
    "orpo": "ORPO",
    "cpo": "CPO",
    "best_of_n": "best of 8, learnt",
    "raft": "expert iteration (RAFT), best of 4",
    "reward_weighted": "reward-weighted regression, 8 samples",
}
ON_PAIRS = ("sigmoid", "ppo", "orpo", "cpo")
"""Methods of the contest, with its settings."""
PPO_RATE = 1.0
"""Learning rate, in units of that of the direct methods; a higher one is for few iterations alone."""
BETAS = {"online_reward": 0.1, "online-0.3": 0.3, "sigmoid-0.3": 0.3}
"""Of online DPO, and of the second DPO, which is there since the first lost the language on some seeds."""
EXPERTS: Mapping[str, Mapping[str, Any]] = {
    "best_of_n": {"method": "best_of_n", "samples_per_prompt": 8},
    "raft": {"method": "raft", "samples_per_prompt": 4},
    "reward_weighted": {"method": "reward_weighted", "samples_per_prompt": 8, "beta": 0.5},
}
"""What learns from the reward alone; scores have unit variance."""


def reward_first(arm: str) -> bool:
    """Whether it learns a reward model before anything else."""
    return arm == "ppo" or arm in EXPERTS or arm.startswith("online_reward")


def way(result: Result, arm: str, start: float, costs: Costs) -> list[tuple[float, float]]:
    """CPU seconds and gold of a run, from its start on; the seconds of the reward model come first.

    Args:
        result: of the arm's cell.
        arm: which.
        start: gold of the policy that all began with.
        costs: of the demo world.
    """
    world = WORLDS["demo"]
    total = TIMES * world.budget
    before = -(-world.pairs // world.batch_size) * costs["reward"] if reward_first(arm) else 0.0
    points = [(before, start)]
    points += [(before + point["share"] * (total - before), point["gold"]) for point in result["curve"]]
    return [(costs["seconds"] * spent, gold) for spent, gold in [*points, (total, result["gold"])]]


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a seed."""
    return [Job(NAME, "demo", "clean", seed) for seed in seeds]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every method."""
    ground, costs = starts.ground(WORLDS["demo"], job.seed), starts.costs(WORLDS["demo"])
    for method in ARMS:
        work: Callable[[], Result]
        if method in ON_PAIRS:
            work = partial(fit, ground, costs, "clean", method, chosen(method), TIMES, PPO_RATE)
        elif method in EXPERTS:
            work = partial(fit_expert, ground, costs, method)
        else:
            family = "offline" if method.startswith("sigmoid") else method.removesuffix("-0.3")
            work = partial(fit_online, ground, costs, family, BETAS[method], TIMES)
        cells.once(method, work)


def fit_expert(ground: Ground, costs: Costs, method: str) -> Result:
    """From the reward alone; the reward model is learnt from the given pairs within the same budget."""
    settings, pairs = EXPERTS[method], ground.file("pairs_clean", ground.training)
    trained = with_reward(
        ground, costs, pairs, method, lambda reward, count: expert_fit(ground, settings, reward, count), TIMES
    )
    return finished(trained, ground, True, settings=dict(settings))

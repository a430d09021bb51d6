"""Whole rankings against their pairs, at equal CPU seconds: Plackett-Luce DPO, all strict pairs, best against worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.direct.fits import Trained, direct_module, finished, pair_data, train
from benchmarks.direct.recipes import RECIPES, chosen
from benchmarks.direct.starts import Starts
from benchmarks.direct.worlds import WORLDS, Ground
from benchmarks.reward_studies.cells import Cells, Job, Result
from benchmarks.reward_studies.fits import DataRow
from benchmarks.reward_studies.measures import kendall_tau, pair_accuracy, strict_differences
from benchmarks.reward_studies.rankings import split_rows
from lit_rlhf import PairDataModule, RankingDataModule

NAME = "rankings"
BASELINE = "all_pairs"
ARMS: Mapping[str, str] = {
    "all_pairs": "all strict pairs of a ranking in one batch element",
    "plackett_luce": "Plackett-Luce",
    "best_worst": "best against worst alone",
    "pair_rows": "all strict pairs, each a row of its own",
}
WORLD = "kwise_ukp_rank"


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a seed."""
    return [Job(NAME, WORLD, "clean", seed) for seed in seeds]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every arm."""
    ground = starts.ground(WORLDS[WORLD], job.seed)
    for arm in ARMS:
        cells.once(arm, partial(fit, ground, arm))


def best_against_worst(rankings: Sequence[DataRow]) -> list[DataRow]:
    """A pair of each ranking, the first of its best and of its worst; rankings that are all ties have none.

    Example:
        >>> best_against_worst([{"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 3]}])
        [{'prompt': 'p', 'chosen': 'b', 'rejected': 'c'}]
    """
    pairs = []
    for row in rankings:
        best, worst = min(row["ranks"]), max(row["ranks"])
        if best < worst:
            better, worse = (row["responses"][row["ranks"].index(rank)] for rank in (best, worst))
            pairs.append({"prompt": row["prompt"], "chosen": better, "rejected": worse})
    return pairs


def fit(ground: Ground, arm: str) -> Result:
    """One arm, with as many responses in an update as the pairs of the world's batches have."""
    rankings, size, name = ground.training, ground.world.batch_size, f"rankings_{arm}"
    data: RankingDataModule | PairDataModule
    if arm in ("all_pairs", "plackett_luce"):
        responses = sum(len(row["responses"]) for row in rankings)
        group = max(1, 2 * size * len(rankings) // responses)
        data = RankingDataModule(
            ground.file("rankings_all", rankings), batch_size=group, seed=ground.seed, **ground.limits
        )
    else:
        strict = [row for row in split_rows(rankings) if "tie" not in row]
        rows = strict if arm == "pair_rows" else best_against_worst(rankings)
        data = pair_data(ground, ground.file(name, rows))
    settings = RECIPES["sigmoid"].settings(chosen("sigmoid"), "clean")
    if arm == "plackett_luce":
        settings["loss"] = "plackett_luce"
    # an update of each has as many responses, and so costs about as much; what prompts cost is said beside
    trained = train((direct_module(ground, settings, ground.budget), data), ground.budget)
    return finished(trained, ground, settings=settings, **ranked(ground, trained))


def ranked(ground: Ground, trained: Trained) -> dict[str, Any]:
    """How the held-out rankings are ordered."""
    rewards = ground.judge.rewards(trained.policy)
    truths = [-torch.tensor(row["ranks"]).float() for row in ground.held_out]
    differences = strict_differences(rewards, truths)
    return {"accuracy": pair_accuracy(differences), "tau": kendall_tau(rewards, truths)}

"""Several people's votes on a pair: as soft targets, or their majority, with and without a guard against wrong ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import torch

from benchmarks.direct.fits import direct_module, finished, pair_data, train
from benchmarks.direct.recipes import RECIPES, chosen
from benchmarks.direct.starts import Starts
from benchmarks.direct.worlds import WORLDS, Ground
from benchmarks.reward_studies.cells import Cells, Job, Result
from benchmarks.reward_studies.measures import log_loss
from benchmarks.reward_studies.votes import _few_votes, share, spoiled, vote_accuracy

NAME = "votes"
BASELINE = "majority"
WRONG_MAJORITIES = 0.1
"""Told to ``robust`` and ``smoothed``: of five votes, each turned round one time in four, three or more are in 10 %."""
ARMS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "majority": ("majority", {"votes": "majority"}, {}),
    "soft": ("shares of votes as soft targets", {"votes": "share"}, {}),
    "smoothed": ("majority, label smoothing 0.1", {"votes": "majority"}, {"label_smoothing": WRONG_MAJORITIES}),
    "robust": ("majority, robust, flip_rate 0.1", {"votes": "majority"},
               {"loss": "robust", "flip_rate": WRONG_MAJORITIES}),
}  # fmt: skip
"""In words; options of the data; options of the module."""
CONDITIONS = {"as_is": "the votes as they are", "flips": "25 % of the single votes turned round"}
WORLD = "multi_ukp_convarg"


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a condition and seed."""
    return [Job(NAME, WORLD, condition, seed) for seed in seeds for condition in CONDITIONS]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every arm; noise is added to the training votes alone."""
    ground = starts.ground(WORLDS[WORLD], job.seed)
    generator = Random(f"votes {job.seed}")
    rows = [spoiled(_few_votes(row, generator), job.condition, generator) for row in ground.training]
    path = ground.file(f"votes_{job.condition}", rows)
    for arm in ARMS:
        cells.once(arm, partial(fit, ground, path, arm))


def fit(ground: Ground, path: str, arm: str) -> Result:
    """One arm, measured on the held-out votes as they were given."""
    _, reading, options = ARMS[arm]
    settings = RECIPES["sigmoid"].settings(chosen("sigmoid"), "clean") | options
    module = direct_module(ground, settings, ground.budget)  # an update costs the same in all arms
    trained = train((module, pair_data(ground, path, **reading)), ground.budget)
    rewards = torch.stack(ground.judge.rewards(trained.policy))
    differences = rewards[:, 0] - rewards[:, 1]
    shares = torch.tensor([share(row) for row in ground.held_out])
    return finished(
        trained,
        ground,
        settings=settings,
        accuracy=vote_accuracy(differences, ground.held_out),
        log_loss=log_loss(settings["beta"] * differences, shares),
    )

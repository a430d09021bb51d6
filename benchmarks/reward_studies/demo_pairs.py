"""Candidates of the demo world, parted once for training, development and test, and judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from benchmarks.reward_studies.fits import DataRow, responses_of
from lit_rlhf.world.gold import gold

TEST_PROMPTS, DEVELOPMENT_PROMPTS = 1000, 500
"""Of the end of the pool; training takes from its start."""


def split(pool: Sequence[DataRow]) -> dict[str, Sequence[DataRow]]:
    """The pool's prompts as ``train``, ``dev`` and ``test``."""
    held_out = min(TEST_PROMPTS, len(pool) // 4)
    cut = len(pool) - held_out - min(DEVELOPMENT_PROMPTS, len(pool) // 8)
    return {
        "train": pool[:cut],
        "dev": pool[cut : len(pool) - held_out],
        "test": pool[len(pool) - held_out :],
    }


def candidate_pairs(
    pool: Iterable[DataRow], count: int, domains: Sequence[str] | None = None
) -> list[DataRow]:
    """Candidates of two responses each, each response in one of them alone."""
    pairs = [
        {"prompt": row["prompt"], "responses": row["responses"][place : place + 2]}
        for row in pool
        if domains is None or row["prompt"].split()[0] in domains
        for place in range(0, len(row["responses"]) - 1, 2)
    ]
    return _first(pairs, count)


def candidate_lists(
    pool: Iterable[DataRow], count: int, generator: Random, sizes: Sequence[int]
) -> list[DataRow]:
    """Candidates of several responses each, as many as one of `sizes`, of two of the pool's rows to one prompt."""
    by_prompt: dict[str, list[DataRow]] = {}
    for row in pool:
        by_prompt.setdefault(row["prompt"], []).append(row)
    lists = []
    for prompt, rows in by_prompt.items():
        for one, other in list(pairwise(rows))[::2]:
            texts = list(dict.fromkeys([*one["responses"], *other["responses"]]))
            size = generator.choice(sizes)
            if len(texts) >= size:
                lists.append({"prompt": prompt, "responses": texts[:size]})
    generator.shuffle(lists)
    return _first(lists, count)


def golds(row: DataRow) -> Tensor:
    """The gold reward of each response of a row, ``[K]``."""
    responses = responses_of(row)
    return torch.tensor(gold([row["prompt"]] * len(responses), responses))


def _first(rows: list[DataRow], count: int) -> list[DataRow]:
    if len(rows) < count:
        raise ValueError(f"expected {count} candidates in the pool, found {len(rows)}")
    return rows[:count]

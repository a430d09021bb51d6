"""Reward functions that go wrong on one rank alone."""

from __future__ import annotations

import os
import time
from typing import Any

from tests.ranks.material import small_ids

BAD_RANK = 1


def _is_bad() -> bool:
    return int(os.environ.get("RANK", "0")) == BAD_RANK


def raises_on_one(**given: Any) -> list[float]:
    if _is_bad():
        raise ZeroDivisionError("the judge is out")
    return small_ids(**given)


def none_on_one(**given: Any) -> list[float | None]:
    scores: list[float | None] = list(small_ids(**given))
    return [None] * len(scores) if _is_bad() else scores


def none_anywhere(prompts: list[str], **given: Any) -> list[None]:
    return [None] * len(prompts)


def nan_on_one(**given: Any) -> list[float]:
    scores = small_ids(**given)
    return [float("nan"), *scores[1:]] if _is_bad() else scores


def too_few_on_one(**given: Any) -> list[float]:
    return small_ids(**given)[: -1 if _is_bad() else None]


def slow_on_one(**given: Any) -> list[float]:
    if _is_bad():
        time.sleep(20)
    return small_ids(**given)

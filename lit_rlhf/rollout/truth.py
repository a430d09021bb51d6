"""A truth, and what becomes of a run in which one does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Truth:
    """Something that holds of a run that is set up right."""

    name: str
    holds: bool
    explanation: str
    """What was found; where the truth does not hold, what is likely wrong and what to do."""


def require(truths: Sequence[Truth]) -> None:
    """Stop a run that would learn from wrong numbers.

    Raises:
        ValueError: some of `truths` do not hold; each with its explanation.
    """
    broken = [truth for truth in truths if not truth.holds]
    if broken:
        raise ValueError(
            "Stopped before the first update, because of what the first rollout shows:\n"
            + "\n".join(f"- expected that {truth.name}: {truth.explanation}" for truth in broken)
        )

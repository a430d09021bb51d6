"""Scores of which some may be missing: what failed, why, and who is to be told."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lit_rlhf.rewards.protocol import BrokenRewardError, Completions, RewardError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a response has no score."""

    why: str
    """Who failed and how, such as ``Reward f raised KeyError: 'gold'``."""
    cause: Exception | None = None


@dataclass
class Scoring:
    """What a reward made of N responses."""

    scores: Tensor
    """Float ``[N]`` on the CPU; NaN where the reward does not apply to a response, and where it failed."""
    failures: dict[int, Failure] = field(default_factory=dict)
    """By response, those that it failed on."""

    @classmethod
    def nothing(cls, count: int, failure: Failure) -> Scoring:
        """It failed on all of them, in one way."""
        return cls(torch.full((count,), torch.nan), dict.fromkeys(range(count), failure))


class PartialReward(ABC):
    """A reward that can score some responses and fail on others."""

    @abstractmethod
    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """Start to score, and return what waits for the scores.

        What can go on by itself is under way when this returns, so that several rewards can be waited for at once.

        Args:
            completions: the responses.
            thorough: score all that can be scored; else the first failure may be the end.
        """

    def score(self, completions: Completions) -> Tensor:
        """Scores ``[N]``; NaN where the reward does not apply.

        Raises:
            RewardError: it failed on a response; the message names its prompt.
        """
        scoring = self.begin(completions, thorough=False)()
        if scoring.failures:
            raise_failure(scoring, completions)
        return scoring.scores

    def to(self, device: torch.device | str) -> Any:
        """Move what it holds, if it holds anything."""
        return self

    def networks(self) -> list[nn.Module]:
        """The frozen networks that it holds, to be spread over ranks."""
        return []


def ask_in_halves(
    name: str, ask: Callable[[Completions], Scoring], completions: Completions, thorough: bool
) -> Scoring:
    """What `ask` says of all responses; where it raises, of each half, and so on down to single responses.

    So one response that a reward stumbles over costs no other its score, and is found in about 2·log2(N) calls.
    """
    try:
        return ask(completions)
    except BrokenRewardError:
        raise
    except Exception as error:
        failure = Failure(f"Reward {name} raised {type(error).__name__}: {error}", error)
    count = len(completions)
    if count == 1:
        return Scoring.nothing(1, failure)
    half = count // 2
    first = ask_in_halves(name, ask, completions.select(range(half)), thorough)
    if first.failures and not thorough:
        return Scoring(torch.cat([first.scores, torch.full((count - half,), torch.nan)]), first.failures)
    second = ask_in_halves(name, ask, completions.select(range(half, count)), thorough)
    failures = first.failures | {half + place: why for place, why in second.failures.items()}
    if not failures:
        at_once = f"{failure.why}, over {count} responses at once and not over either half of them"
        if thorough:
            log.warning("%s, whose scores are taken.", at_once)
        else:
            failures = {0: Failure(at_once, failure.cause)}
    return Scoring(torch.cat([first.scores, second.scores]), failures)


def join_parts(begun: Sequence[Callable[[], Scoring]]) -> tuple[Tensor, dict[int, Failure]]:
    """What several rewards made of the same N responses: scores ``[N, parts]``, and the failures of all of them."""
    scorings: list[Scoring] = []
    broken: RewardError | None = None
    for (
        wait
    ) in begun:  # all of them, also behind a failure: other ranks may be waiting in a part that is sharded
        try:
            scorings.append(wait())
        except RewardError as error:
            broken = broken or error
    if broken is not None:
        raise broken
    failures: dict[int, Failure] = {}
    for scoring in scorings:
        failures = scoring.failures | failures  # the first part that fails is the one to name
    return torch.stack([scoring.scores for scoring in scorings], -1), failures


def raise_failure(scoring: Scoring, completions: Completions) -> None:
    """Stop, with the first failure.

    Raises:
        RewardError: always.
    """
    first = min(scoring.failures)
    raise RewardError(
        f"{describe_failures(scoring, completions)} Mend the reward, or leave such responses out with "
        "model.failed_rewards: skip."
    ) from scoring.failures[first].cause


def describe_failures(scoring: Scoring, completions: Completions) -> str:
    """The first failure with its prompt, and how many there are."""
    first, count = min(scoring.failures), len(scoring.failures)
    others = f"; it is the first of {count} that failed, of {len(completions)}" if count > 1 else ""
    return (
        f"{scoring.failures[first].why} for prompt {completions.prompt_names[first]} "
        f"({str(completions.prompts[first])[-60:]!r}, response {completions.texts[first][:60]!r}){others}."
    )

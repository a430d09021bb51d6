"""Verdicts of a program that gives each response a score: a rule, a reward model, or either with an annotator's noise.

The scores come from a function that is handed in, so that nothing here knows what makes them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, TypeAlias

from lit_rlhf.labelling.annotators.opinions import Opinion, skipped
from lit_rlhf.labelling.items import Prompt, Task
from lit_rlhf.labelling.verdicts import Ranking, Verdict

CANNOT_WRITE = "a program that scores cannot write a correction"
NO_BOUNDS = "no bounds between ratings were given"


@dataclass(frozen=True)
class Asked:
    """One response that is to be scored, and all that may be known of it."""

    prompt: Prompt
    response: str
    finished: bool
    """Whether it came to its end; True where the row does not say."""
    columns: Mapping[str, Any]
    """The row's fields that were asked for by name."""
    name: str
    """Of the item, for errors."""


Scores: TypeAlias = Callable[[Sequence[Asked]], Sequence[float | str]]
"""A number for each response, or why there is none."""


@dataclass(frozen=True)
class Noise:
    """How an annotator's feeling departs from the scores, as :class:`lit_rlhf.world.labellers.Labeller` has it.

    Each score is felt with Gumbel noise, which makes two responses a Bradley-Terry comparison and K of them a
    Plackett-Luce ranking; then, now and then, the whole order is written down the wrong way round.
    """

    temperature: float = 0.0
    """Scale of the noise, in units of the score; 0 = none."""
    flips: float = 0.0
    """Probability, from 0 to 1, that a judgement is turned round."""
    seed: int = 0

    def felt(self, scores: Sequence[float], task: Task) -> list[float]:
        """The scores with noise, of the item's distinct responses in the item's order.

        The noise is drawn from the seed, the annotator and the item, so a judgement does not depend on what was judged
        before it, and an annotator who is asked anew says the same. Only an item that she is meant to see twice is
        felt anew the second time.
        """
        again = task.kind if task.kind in ("repeat", "swap") else ""
        drawn = hashlib.sha256(f"{self.seed}|{task.annotator}|{task.item.key}|{again}".encode()).digest()
        generator = Random(int.from_bytes(drawn))
        felt = [score + self.temperature * _gumbel(generator) for score in scores]
        return [-value for value in felt] if generator.random() < self.flips else felt


@dataclass(frozen=True)
class ScoreAnnotator:
    """Judges by scores.

    Responses whose felt scores, in order, differ by at most `tie_width` are tied, so a chain of close ones is one tie.
    """

    scores: Scores
    noise: Noise = field(default_factory=Noise)
    tie_width: float = 0.0
    """In units of the score."""
    slight_width: float = 0.0
    """Of two responses: one that is better by no more than this is slightly better."""
    bounds: Sequence[float] | None = None
    """Between neighbouring ratings, in units of the score, ascending; a score on a bound has the higher rating."""
    columns: Sequence[str] = ()
    """Fields of the row that the scores may depend on."""

    def opinions(self, tasks: Sequence[Task]) -> list[Opinion]:
        """One of each task; all their responses are scored in one call, but for those that scores say nothing of."""
        asked = {task.number: self._asked(task) for task in tasks if self._cannot(task) is None}
        given = iter(self.scores([one for of_task in asked.values() for one in of_task]) if asked else ())
        scored = {number: [next(given) for _ in of_task] for number, of_task in asked.items()}
        return [self._opinion(task, scored.get(task.number, [])) for task in tasks]

    def _cannot(self, task: Task) -> str | None:
        if task.item.mode == "rewrite":
            return CANNOT_WRITE
        return NO_BOUNDS if task.item.mode == "rating" and self.bounds is None else None

    def _asked(self, task: Task) -> list[Asked]:
        item = task.item
        columns = {name: item.columns[name] for name in self.columns}
        name = item.row_id or f"item {item.number}"
        finished = item.columns.get("finished")
        if not isinstance(finished, list) or len(finished) != len(item.responses):
            finished = [True] * len(item.responses)
        # in the item's order: what somebody is shown first must not change what a rule is asked
        return [
            Asked(item.prompt, item.responses[index], bool(finished[index]), columns, name)
            for index in sorted(task.shown)
        ]

    def _opinion(self, task: Task, scores: Sequence[float | str]) -> Opinion:
        why = self._cannot(task) or next((score for score in scores if isinstance(score, str)), None)
        if why is not None:
            return skipped(why)
        felt = self.noise.felt([float(score) for score in scores], task)
        by_index = dict(zip(sorted(task.shown), felt, strict=True))
        return Opinion(task.by_index(self._verdict(task, [by_index[index] for index in task.shown])))

    def _verdict(self, task: Task, felt: Sequence[float]) -> Verdict:
        """By position."""
        if task.item.mode == "rating":
            assert self.bounds is not None
            return Verdict(ratings=tuple(1 + sum(bound <= value for bound in self.bounds) for value in felt))
        ranking = ranking_of(felt, self.tie_width)
        if task.item.mode == "ranking" or len(ranking) == 1:
            return Verdict(ranking)
        slightly = max(felt) - min(felt) <= self.slight_width
        return Verdict(ranking, "slightly" if slightly else "better")


def ranking_of(values: Sequence[float], tie_width: float) -> Ranking:
    """Tie groups, highest value first.

    >>> ranking_of([0.0, 2.0, 0.5], tie_width=0.5)
    ((1,), (0, 2))
    """
    order = sorted(range(len(values)), key=lambda place: -values[place])
    groups = [[order[0]]]
    for above, below in pairwise(order):
        if values[above] - values[below] <= tie_width:
            groups[-1].append(below)
        else:
            groups.append([below])
    return tuple(tuple(sorted(group)) for group in groups)


def _gumbel(generator: Random) -> float:
    # a uniform draw may be exactly 0, where the logarithm is not defined; it is never 1
    return -math.log(-math.log(max(generator.random(), 2.0**-54)))

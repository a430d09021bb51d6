"""Labellers of the demo world: they compare responses by their gold reward, and err as people do.

A labeller feels each response's gold reward with Gumbel noise of scale `temperature`. The noise of
a difference is then logistic, which makes two responses a Bradley-Terry comparison and K of them a
Plackett-Luce ranking; with a width inside which nothing is decided, Rao and Kupper's ties.

Source:
    Bradley and Terry 1952; Plackett 1975; Rao and Kupper 1967, "Ties in paired-comparison
    experiments", equation 2.3 with its threshold ln(theta) = `tie_width` / `temperature`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

from lit_rlhf.world.gold import NOT_LANGUAGE, gold
from lit_rlhf.world.grammar import grammatical, parse_prompt
from lit_rlhf.world.tastes import Taste

DataRow = dict[str, Any]
"""One line of a data file."""


@dataclass(frozen=True)
class Labeller:
    """How somebody compares responses whose gold rewards are known."""

    temperature: float = 1.0
    """Scale of the noise, in units of the gold reward; 0 judges by the gold reward itself."""
    flip_rate: float = 0.0
    """Probability, from 0 to 1, that a judgement is written down the wrong way round."""
    tie_width: float = 0.0
    """Felt differences up to this, in units of the gold reward, are called a tie."""
    name: str | None = None
    """Written to the rows as `annotator` where given."""
    flip_width: float = math.inf
    """Only responses that differ by less than this, in units of the reward, are ever judged the wrong way round."""
    taste: Taste | Mapping[str, Taste] | None = None
    """What she likes, everywhere or by the prompt's domain; None, and in domains not named, the gold reward."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.tie_width < 0 or self.flip_width < 0 or not 0 <= self.flip_rate <= 1:
            raise ValueError(
                "a labeller needs temperature >= 0, tie_width >= 0, flip_width >= 0 and flip_rate from 0 to 1, "
                f"found {self.temperature}, {self.tie_width}, {self.flip_width} and {self.flip_rate}"
            )

    def rewards(self, candidate: DataRow) -> list[float]:
        """What she gives each response of a candidate, before any noise.

        Args:
            candidate: a row with `prompt`, `responses` and, where some were cut off, `finished`.
        """
        golds = _golds(candidate)
        domain, noun = parse_prompt(candidate["prompt"])
        taste = self.taste.get(domain) if isinstance(self.taste, Mapping) else self.taste
        if taste is None:
            return golds
        finished = candidate.get("finished") or [True] * len(golds)
        return [
            taste.reward(noun, text.split()) - (0.0 if end and grammatical(text.split()) else NOT_LANGUAGE)
            for text, end in zip(candidate["responses"], finished, strict=True)
        ]

    def ranks(self, golds: Sequence[float], generator: Random) -> list[int]:
        """The rank of each response, 1 = best, equal = tie, as in ``1, 2, 2, 4``.

        A tie reaches from one response to the next in order, so a chain of close ones is one tie.
        A flip turns the whole order round; with a `flip_width` only where best and worst are that close.
        """
        felt = [value + self.temperature * _gumbel(generator) for value in golds]
        if generator.random() < self.flip_rate and max(golds) - min(golds) < self.flip_width:
            felt = [-value for value in felt]
        order = sorted(range(len(felt)), key=lambda index: -felt[index])
        ranks = [1] * len(felt)
        for place, (above, below) in enumerate(pairwise(order), start=2):
            tied = felt[above] - felt[below] <= self.tie_width
            ranks[below] = ranks[above] if tied else place
        return ranks

    def probabilities(self, difference: float) -> tuple[float, float]:
        """How likely a response better by `difference` is written down as better, and as worse.

        What is left to 1 is a tie. Both are Rao and Kupper's, mixed by the flips.
        """
        right = self._felt_above_width(difference)
        wrong = self._felt_above_width(-difference)
        flips = self.flip_rate if abs(difference) < self.flip_width else 0.0
        return (1 - flips) * right + flips * wrong, (1 - flips) * wrong + flips * right

    def _felt_above_width(self, difference: float) -> float:
        if self.temperature == 0:
            return float(difference > self.tie_width)
        # The logistic function through tanh, which does not overflow at small temperatures.
        return 0.5 * (1 + math.tanh((difference - self.tie_width) / self.temperature / 2))


@dataclass
class Labels:
    """What a labeller made of candidates."""

    rows: list[DataRow] = field(default_factory=list)
    """Lines of a pairs or a rankings file."""
    identical: int = 0
    """Candidates left out because all their responses are the same text."""


def label_pairs(candidates: Iterable[DataRow], labeller: Labeller, generator: Random) -> Labels:
    """Pair rows, from candidates with two responses each.

    Beside `prompt`, `chosen` and `rejected` (and `tie` where it is one) a row keeps the gold rewards
    of the two as `gold_chosen` and `gold_rejected`, for measuring; nothing trains on them.

    Args:
        candidates: rows with `prompt`, `responses` and, where some were cut off, `finished`
            (a list of bools).
        labeller: who compares.
        generator: where the labeller's noise comes from.

    Raises:
        ValueError: a candidate has not exactly two responses.
    """
    labels = Labels()
    for candidate in candidates:
        responses = _two_responses(candidate, "; label_rankings takes any number")
        if responses[0] == responses[1]:
            labels.identical += 1
            continue
        golds = _golds(candidate)
        ranks = labeller.ranks(labeller.rewards(candidate), generator)
        better, worse = (0, 1) if ranks[0] <= ranks[1] else (1, 0)
        row = {"prompt": candidate["prompt"], "chosen": responses[better], "rejected": responses[worse]}
        if ranks[0] == ranks[1]:
            row["tie"] = True
        labels.rows.append(
            row
            | {"gold_chosen": golds[better], "gold_rejected": golds[worse]}
            | _about(candidate, labeller.name)
        )
    return labels


def label_rankings(candidates: Iterable[DataRow], labeller: Labeller, generator: Random) -> Labels:
    """Ranking rows: `prompt`, `responses`, `ranks` (1 = best, equal = tie), and `gold` for measuring.

    Arguments as for :func:`label_pairs`, with two or more responses in each candidate.
    """
    labels = Labels()
    for candidate in candidates:
        if len(set(candidate["responses"])) < 2:
            labels.identical += 1
            continue
        golds = _golds(candidate)
        row = {
            "prompt": candidate["prompt"],
            "responses": list(candidate["responses"]),
            "ranks": labeller.ranks(labeller.rewards(candidate), generator),
            "gold": golds,
        }
        labels.rows.append(row | _about(candidate, labeller.name))
    return labels


def label_votes(
    candidates: Iterable[DataRow], labellers: Sequence[Labeller], votes: int, generator: Random
) -> Labels:
    """Votes rows, from candidates with two responses each: several labellers, drawn anew for each, judge them.

    A row has `prompt`, `response_a`, `response_b` and `labels`, a list of ``{labeler, choice}`` with
    ``a``, ``b`` or ``tie``; for measuring it keeps the gold rewards as `gold_a` and `gold_b`.

    Args:
        candidates: as for :func:`label_pairs`.
        labellers: those who may be asked, each with a name of her own.
        votes: how many different ones are asked of each candidate.
        generator: decides who is asked, and is where their noise comes from.

    Raises:
        ValueError: a candidate has not exactly two responses, there are fewer labellers than votes, or
            two have one name, or none.
    """
    names = [labeller.name for labeller in labellers]
    if None in names or len(set(names)) < len(names) or not 1 <= votes <= len(names):
        raise ValueError(
            f"expected at least as many labellers as votes ({votes}), each with a name of her own, found {names}"
        )
    labels = Labels()
    for candidate in candidates:
        first, second = _two_responses(candidate, "")
        if first == second:
            labels.identical += 1
            continue
        asked = generator.sample(list(labellers), votes)
        said = [labeller.ranks(labeller.rewards(candidate), generator) for labeller in asked]
        choices = ["tie" if a == b else "a" if a < b else "b" for a, b in said]
        golds = _golds(candidate)
        row = {
            "prompt": candidate["prompt"],
            "response_a": first,
            "response_b": second,
            "labels": [
                {"labeler": labeller.name, "choice": choice}
                for labeller, choice in zip(asked, choices, strict=True)
            ],
            "gold_a": golds[0],
            "gold_b": golds[1],
        }
        labels.rows.append(row | _about(candidate, None))
    return labels


def bayes_accuracy(differences: Iterable[float], labeller: Labeller) -> float:
    """How often a judge who goes by the gold rewards agrees with this labeller, ties left out.

    The expectation over the labeller's noise, not a count on the labels that were drawn. While fewer
    than half of the labels are flipped, nobody can expect to reach more on these comparisons.

    Args:
        differences: the gold difference of each compared pair; the sign does not matter.
        labeller: who compared them.

    Returns:
        The share, from 0 to 1; NaN where the labeller decides nothing.

    Example:
        >>> round(bayes_accuracy([1.0, -1.0], Labeller()), 3)  # 1 / (1 + exp(-1))
        0.731
    """
    agreed = decided = 0.0
    for difference in differences:
        better, worse = labeller.probabilities(abs(difference))
        agreed += better
        decided += better + worse
    return agreed / decided if decided else math.nan


def _gumbel(generator: Random) -> float:
    # A uniform draw may be exactly 0, where the logarithm is not defined; it is never 1.
    return -math.log(-math.log(max(generator.random(), 2.0**-54)))


def _golds(candidate: DataRow) -> list[float]:
    responses = candidate["responses"]
    return gold([candidate["prompt"]] * len(responses), responses, finished=candidate.get("finished"))


def _two_responses(candidate: DataRow, hint: str) -> list[str]:
    responses: list[str] = candidate["responses"]
    if len(responses) != 2:
        raise ValueError(
            f"{candidate['prompt']!r}: expected 2 responses to compare, found {len(responses)}{hint}"
        )
    return responses


def _about(candidate: DataRow, annotator: str | None) -> DataRow:
    """Where the row came from: its domain, the candidate's id, the labeller's name."""
    about: DataRow = {"domain": candidate["prompt"].split()[0]}
    if "id" in candidate:
        about["id"] = candidate["id"]
    if annotator is not None:
        about["annotator"] = annotator
    return about

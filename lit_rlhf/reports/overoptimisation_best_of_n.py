"""Best-of-n from K scored responses a prompt, without sampling again: what the best of a random n of them is worth.

Over all subsets of n of the K, the response of rank i by score (1 = lowest) is the best of C(i − 1, n − 1) of
C(K, n). Where scores tie, each of the tied is as likely to be taken.

Source:
    Nakano et al. 2021, "WebGPT", https://arxiv.org/abs/2112.09332, appendix I; the KL bound log n − (n − 1)/n:
    Stiennon et al. 2020, appendix G.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_rlhf.metrics.best_of_n import best_of_n_kl

SCORES, GOLD_SCORES = "reward_scores", "gold_scores"


class CandidatesError(ValueError):
    """A row of the candidates file that cannot be read: where, what was expected, what was found."""


@dataclass(frozen=True)
class BestOfN:
    """One n, means over the prompts."""

    n: int
    kl: float
    """An upper bound of KL(best of n ‖ sampled once), nats a response; it is near where responses are many."""
    score: float
    gold: float | None
    """None where the rows have no gold scores."""


@dataclass(frozen=True)
class Candidates:
    """Scored responses, all of one policy."""

    scores: list[list[float]]
    """Per prompt."""
    gold: list[list[float]] | None
    unscored: int
    """Responses left out because one of their scores is null."""


def read_candidates(rows: Iterable[tuple[str, Any]]) -> Candidates:
    """Candidates as ``lit-rlhf score`` writes them, with `gold_scores` added by whoever has a gold reward.

    Args:
        rows: place (``file:line``) and fields: ``responses``, ``reward_scores``, and in all rows or in none
            ``gold_scores``, each with a number or null a response.

    Raises:
        CandidatesError: no row, a row without scores, or with another number of them than of responses.
    """
    scores: list[list[float]] = []
    gold: list[list[float]] = []
    unscored, first = 0, ""
    for place, fields in rows:
        if isinstance(fields, Exception):
            raise CandidatesError(str(fields)) from None
        if not isinstance(fields, Mapping):
            raise CandidatesError(f"{place}: expected a JSON object, found {type(fields).__name__}")
        said = _numbers(place, fields, SCORES)
        has_gold = GOLD_SCORES in fields
        if not first:
            first, with_gold = place, has_gold
        elif has_gold != with_gold:
            raise CandidatesError(
                f"{place}: expected {GOLD_SCORES} in all rows or in none, found "
                f"{'them here and not' if has_gold else 'none here, but'} in {first}"
            )
        known = _numbers(place, fields, GOLD_SCORES) if has_gold else said
        if len(known) != len(said):
            raise CandidatesError(
                f"{place}: expected as many {GOLD_SCORES} as {SCORES} ({len(said)}), found {len(known)}"
            )
        whole = [(s, g) for s, g in zip(said, known) if s is not None and g is not None]
        unscored += len(said) - len(whole)
        scores.append([s for s, _ in whole])
        gold.append([g for _, g in whole])
    if not first:
        raise CandidatesError("best-of-n: expected rows of scored responses, found none")
    return Candidates(scores, gold if with_gold else None, unscored)


def best_of_n(candidates: Candidates) -> list[BestOfN]:
    """Best-of-n for n = 1, 2, 4, ... and K, as far as every prompt has n scored responses.

    Raises:
        CandidatesError: a prompt has fewer than two.
    """
    most = min(map(len, candidates.scores))
    if most < 2:
        short = sum(len(scores) < 2 for scores in candidates.scores)
        raise CandidatesError(
            f"best-of-n: expected two scored responses or more to each prompt, found fewer to {short} of "
            f"{len(candidates.scores)}"
        )
    sizes = sorted({2**power for power in range(most.bit_length())} | {most})
    found = []
    for n in sizes:
        score = _mean(_expected_best(s, s, n) for s in candidates.scores)
        gold = None
        if candidates.gold is not None:
            gold = _mean(_expected_best(s, g, n) for s, g in zip(candidates.scores, candidates.gold))
        found.append(BestOfN(n, best_of_n_kl(n), score, gold))
    return found


def _expected_best(scores: Sequence[float], worth: Sequence[float], n: int) -> float:
    """The mean worth of the best by score over all subsets of n."""
    total = math.comb(len(scores), n)
    expected, below = 0.0, 0
    for value in sorted(set(scores)):
        tied = [w for s, w in zip(scores, worth) if s == value]
        # The best of a subset is among the tied where the subset fits in up to them, but not in what is below.
        chance = (math.comb(below + len(tied), n) - math.comb(below, n)) / total
        expected += chance * sum(tied) / len(tied)
        below += len(tied)
    return expected


def _numbers(place: str, fields: Mapping[str, Any], name: str) -> list[float | None]:
    """A field with a finite number or null a response.

    Raises:
        CandidatesError: it is missing, or is none.
    """
    values = fields.get(name)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise CandidatesError(
            f"{place}: expected {name}, a list with a number or null a response, found "
            f"{'none' if name not in fields else type(values).__name__} (the row has {', '.join(map(str, fields))})"
        )
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise CandidatesError(f"{place}: {name}: expected a finite number or null, found {value!r}")
    responses = fields.get("responses")
    if isinstance(responses, Sequence) and not isinstance(responses, str) and len(responses) != len(values):
        raise CandidatesError(
            f"{place}: expected as many {name} as responses ({len(responses)}), found {len(values)}"
        )
    return [None if value is None else float(value) for value in values]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

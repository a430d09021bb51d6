"""What people said of a prompt's responses, as comparisons whose better side has a target of 1/2 or more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_rlhf.data.conversations import Mismatch, show
from lit_rlhf.records import Comparison, Response, Row


def compare(
    first: int, second: int, target: float, tie: float = 0.0, margin: float = 0.0, weight: float = 1.0
) -> Comparison:
    """The comparison of two responses, turned round where the second one is the likelier better.

    Args:
        first: Index of a response.
        second: Index of the other.
        target: Probability that `first` is better, half of the ties among it.
        tie: Share of the judgements that were ties.
        margin: By how much the better one is better, in units of the score.
        weight: How much it counts.
    """
    if target < 0.5:
        first, second, target = second, first, 1.0 - target
    return Comparison(first, second, target, margin, weight, tie)


def stated_comparison(fields: Mapping[str, Any]) -> Comparison:
    """What a pair row says of `chosen` (0) and `rejected` (1): `tie`, `target`, `margin`, `weight`.

    Raises:
        Mismatch: a field is not what its name says, or two of them contradict each other.
    """
    tie = fields.get("tie", False)
    if not isinstance(tie, bool):
        raise Mismatch("`tie` to be true or false", show(tie))
    target = number(fields, "target", 0.5 if tie else 1.0)
    if not 0 <= target <= 1:
        raise Mismatch("`target` to be a probability, from 0 to 1", show(target))
    if tie and target != 0.5:
        raise Mismatch("`target` 0.5 or none in a tie", show(target))
    margin = number(fields, "margin", 0.0)
    if tie and margin:
        raise Mismatch("no `margin` in a tie", str(margin))
    if target < 0.5 and margin:
        raise Mismatch(
            "no `margin` where `target` takes `rejected` for the better one", f"{margin} with {target}"
        )
    return compare(0, 1, target, float(tie), margin, stated_weight(fields))


def stated_weight(fields: Mapping[str, Any]) -> float:
    """`weight`, 1 where it is not given.

    Raises:
        Mismatch: it is no number, or below 0.
    """
    weight = number(fields, "weight", 1.0)
    if weight < 0:
        raise Mismatch("`weight` of 0 or more", str(weight))
    return weight


def compare_ranks(ranks: Sequence[float | None], weight: float = 1.0) -> list[Comparison]:
    """All comparisons of the judged responses, of one weight; those of equal rank as ties: target 1/2, tie 1."""
    judged = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
    strict = [Comparison(i, j, weight=weight) for a, i in judged for b, j in judged if a < b]
    tied = [
        Comparison(i, j, target=0.5, tie=1.0, weight=weight)
        for place, (a, i) in enumerate(judged)
        for b, j in judged[place + 1 :]
        if a == b
    ]
    return strict + tied


def without_ties(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons as they are when a tie says nothing.

    One that is nothing but a tie goes. Of one that is a tie in part (votes) the rest stays and weighs as much as
    it did: target (p − t/2)/(1 − t), weight w·(1 − t), for target p and tie t.
    """
    rest = []
    for comparison in comparisons:
        target, tie = comparison.target, comparison.tie
        if tie >= 1:
            continue
        if tie:
            target = min(1.0, (target - tie / 2) / (1 - tie))
            comparison = replace(comparison, target=target, weight=comparison.weight * (1 - tie), tie=0.0)
        rest.append(comparison)
    return rest


def is_all_ties(row: Row) -> bool:
    """Whether responses of the row are compared, and all of them tied."""
    return bool(row.comparisons) and all(comparison.tie >= 1 for comparison in row.comparisons)


def require_different(responses: Sequence[Response], names: tuple[str, str]) -> None:
    """Refuse a pair of one and the same response.

    Raises:
        Mismatch: with what to do.
    """
    if responses[0] == responses[1]:
        raise Mismatch(
            "two different responses",
            f"`{names[0]}` and `{names[1]}` both {show(responses[0])}: take the row out, or --data.bad_rows skip",
        )


def number(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A field that holds a finite number.

    Raises:
        Mismatch: it does not.
    """
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Mismatch(f"`{name}` to be a number", show(value))
    return float(value)


def label(fields: Mapping[str, Any], name: str) -> str | None:
    """A field that holds a name, whole numbers among them; None where it is not given.

    Raises:
        Mismatch: it holds something else.
    """
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    raise Mismatch(f"`{name}` to be text", show(value))

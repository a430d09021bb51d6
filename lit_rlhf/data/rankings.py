"""Three ways to write down a ranking, read as one: ranks, 1 = best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

Ranks: TypeAlias = list[float | None]


def judged_ranks(fields: Mapping[str, Any], count: int) -> Ranks | None:
    """Ranks from `ranking`, else `ranks`, else `scores`; None where a row has none of them.

    They contradict each other when one puts a response before another and a second puts it behind; where
    one ties what another tells apart, the first in this order counts.

    Args:
        fields: A row.
        count: K, its number of responses.

    Raises:
        ValueError: with two arguments, what was expected and what was found.

    Example:
        >>> judged_ranks({"ranking": [[2], [0, 1]]}, 4)
        [2.0, 2.0, 1.0, None]
    """
    readers = {"ranking": _from_groups, "ranks": _from_ranks, "scores": _from_scores}
    given = {name: readers[name](fields[name], count) for name in readers if fields.get(name) is not None}
    for one, other in combinations(given, 2):
        for i, j in strict_pairs(given[one]):
            first, second = given[other][i], given[other][j]
            if first is not None and second is not None and first > second:
                raise ValueError(
                    f"`{one}` and `{other}` to agree",
                    f"response {i} before {j}, then behind it",
                )
    return next(iter(given.values()), None)


def given_ratings(fields: Mapping[str, Any], count: int) -> list[float | None] | None:
    """`scores` as they are, higher = better; None where a row has none.

    Raises:
        ValueError: as :func:`judged_ranks`.
    """
    return None if fields.get("scores") is None else _numbers(fields["scores"], "scores", count)


def ranks_of_scores(scores: Sequence[float | None]) -> Ranks:
    """1 = the highest score, equal scores tie."""
    judged = [score for score in scores if score is not None]
    return [None if score is None else 1.0 + sum(other > score for other in judged) for score in scores]


def strict_pairs(ranks: Ranks) -> list[tuple[int, int]]:
    """All (better, worse) among the judged responses; ties give none."""
    judged = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
    return [(i, j) for a, i in judged for b, j in judged if a < b]


def _from_groups(ranking: Any, count: int) -> Ranks:
    wanted = f"`ranking` to be tie groups of response indices from 0 to {count - 1}, each once"
    if not isinstance(ranking, list):
        raise ValueError(wanted, repr(ranking))
    ranks: Ranks = [None] * count
    before = 0
    for group in ranking:
        members = group if isinstance(group, list) else [group]
        for index in members:
            fits = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < count
            if not fits or ranks[index] is not None:
                raise ValueError(wanted, repr(ranking))
            ranks[index] = before + 1.0
        before += len(members)
    return ranks


def _from_ranks(ranks: Any, count: int) -> Ranks:
    return _numbers(ranks, "ranks", count)


def _from_scores(scores: Any, count: int) -> Ranks:
    return ranks_of_scores(_numbers(scores, "scores", count))


def _numbers(values: Any, name: str, count: int) -> Ranks:
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise ValueError(f"`{name}` with {count} values, one a response", found)
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not is_number:
            raise ValueError(f"`{name}` to hold numbers or null", repr(value))
    return [None if value is None else float(value) for value in values]

"""What somebody said of an item's responses, in the item's own order: never in the order that was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Mode: TypeAlias = Literal["pairwise", "ranking", "rating", "rewrite"]
MODES: tuple[Mode, ...] = ("pairwise", "ranking", "rating", "rewrite")
Strength: TypeAlias = Literal["better", "slightly"]
Ranking: TypeAlias = tuple[tuple[int, ...], ...]
"""Tie groups of responses' indices, best first; every response once."""

MOST_RANKED = 9
"""Responses of a ranking: one a digit key."""
HIGHEST_RATING = 5
"""Ratings are whole numbers from 1, the worst, to this."""
LONGEST_REMARK = 4_000
"""Characters of a comment, a flag or a reason."""
LONGEST_REWRITE = 200_000
"""Characters of a correction."""


class VerdictError(ValueError):
    """A verdict that says nothing, or something that its item cannot be told; the message has what was expected."""


@dataclass(frozen=True)
class Verdict:
    """One of: a ranking (of two responses too), ratings, a rewrite, or a reason to skip."""

    ranking: Ranking | None = None
    strength: Strength | None = None
    """Of two responses that are not tied: by how much the first of the ranking is better."""
    both_bad: bool = False
    """All are tied and none is acceptable."""
    ratings: tuple[int, ...] | None = None
    """One a response, 1 to `HIGHEST_RATING`."""
    rewrite: str | None = None
    """What the response should have been."""
    rewrite_of: int | None = None
    """The response that it was made from."""
    skip: str | None = None
    """Why nothing is said."""

    def to_json(self) -> dict[str, Any]:
        """The parts that are said, as JSON has them.

        >>> Verdict(ranking=((1,), (0,)), strength="slightly").to_json()
        {'ranking': [[1], [0]], 'strength': 'slightly'}
        """
        said: dict[str, Any] = {}
        if self.ranking is not None:
            said["ranking"] = [list(group) for group in self.ranking]
        if self.ratings is not None:
            said["ratings"] = list(self.ratings)
        for name in ("strength", "both_bad", "rewrite", "rewrite_of", "skip"):
            value = getattr(self, name)
            if value is not None and value is not False:
                said[name] = value
        return said

    def choice(self) -> float | None:
        """Of two ranked responses: 1 = the first is better, 0 = the second, 1/2 = a tie; else None."""
        if self.ranking is None or sum(map(len, self.ranking)) != 2:
            return None
        return 0.5 if len(self.ranking) == 1 else float(self.ranking[0][0] == 0)

    def ranks(self) -> list[int] | None:
        """The rank of each response, 1 = best, equal = tie, as in ``1, 2, 2, 4``; by the ratings where they are given.

        >>> Verdict(ranking=((2,), (0, 1))).ranks()
        [2, 2, 1]
        """
        if self.ranking is not None:
            ranks = [0] * sum(map(len, self.ranking))
            place = 1
            for group in self.ranking:
                for response in group:
                    ranks[response] = place
                place += len(group)
            return ranks
        if self.ratings is not None:
            return [1 + sum(other > rating for other in self.ratings) for rating in self.ratings]
        return None


def parse_verdict(content: Any, mode: Mode, responses: int) -> Verdict:
    """The verdict that JSON spells.

    Args:
        content: as :meth:`Verdict.to_json` writes it; ``{"skip": reason}`` in every mode.
        mode: of the item.
        responses: how many there are to be told apart.

    Raises:
        VerdictError: what was expected and what was found.
    """
    if not isinstance(content, Mapping):
        raise VerdictError(f"verdict: expected an object, found {type(content).__name__}")
    known = {
        "pairwise": {"ranking", "strength", "both_bad"},
        "ranking": {"ranking", "both_bad"},
        "rating": {"ratings"},
        "rewrite": {"rewrite", "rewrite_of"},
    }[mode] | {"skip"}
    if unknown := set(content) - known:
        raise VerdictError(
            f"verdict: expected {', '.join(sorted(known))} in this mode, found {min(unknown)!r}"
        )
    if "skip" in content:
        if len(content) > 1:
            raise VerdictError("verdict: expected nothing beside a reason to skip")
        return Verdict(skip=_text(content["skip"], "skip", LONGEST_REMARK))
    if mode == "rating":
        return Verdict(ratings=_ratings(content.get("ratings"), responses))
    if mode == "rewrite":
        of = content.get("rewrite_of", 0)
        if type(of) is not int or not 0 <= of < responses:
            raise VerdictError(f"rewrite_of: expected a response from 0 to {responses - 1}, found {of!r}")
        return Verdict(rewrite=_text(content.get("rewrite"), "rewrite", LONGEST_REWRITE), rewrite_of=of)
    ranking = parse_ranking(content.get("ranking"), responses)
    both_bad, strength = content.get("both_bad", False), content.get("strength")
    if not isinstance(both_bad, bool) or (both_bad and len(ranking) > 1):
        raise VerdictError("both_bad: expected true beside one tie of all responses, or false")
    if mode == "ranking":
        return Verdict(ranking, both_bad=both_bad)
    if strength not in ((None,) if len(ranking) == 1 else ("better", "slightly")):
        raise VerdictError(f"strength: expected better or slightly, and none in a tie, found {strength!r}")
    return Verdict(ranking, strength, both_bad)


def parse_ranking(value: Any, responses: int) -> Ranking:
    """Tie groups that hold every response once.

    Raises:
        VerdictError: they do not.
    """
    groups: list[Any] = value if isinstance(value, list) else [None]
    listed = all(isinstance(group, list) and group for group in groups)
    flat: list[Any] = [response for group in groups for response in group] if listed else []
    if not all(type(response) is int for response in flat) or sorted(flat) != list(range(responses)):
        raise VerdictError(
            f"ranking: expected groups of the numbers 0 to {responses - 1}, each once, found {str(value)[:200]}"
        )
    return tuple(tuple(sorted(group)) for group in groups)


def renumbered(verdict: Verdict, new: Mapping[int, Sequence[int]]) -> Verdict:
    """The same said of responses that have other numbers.

    Args:
        verdict: of some numbering.
        new: the new numbers of each old one: several where responses that were one are told apart, and the same one
            for several where they become one.

    >>> renumbered(Verdict(ranking=((1,), (0,))), {0: [2], 1: [0, 1]}).ranking
    ((0, 1), (2,))
    >>> renumbered(Verdict(ranking=((0, 1), (2,))), {0: [1], 1: [1], 2: [0]}).ranking
    ((1,), (0,))
    """
    ranking = ratings = None
    if verdict.ranking is not None:
        ranking = tuple(
            tuple(sorted({one for old in group for one in new[old]})) for group in verdict.ranking
        )
    if verdict.ratings is not None:
        of_new = {one: rating for old, rating in enumerate(verdict.ratings) for one in new[old]}
        ratings = tuple(of_new[one] for one in sorted(of_new))
    of = None if verdict.rewrite_of is None else new[verdict.rewrite_of][0]
    return replace(verdict, ranking=ranking, ratings=ratings, rewrite_of=of)


def _ratings(value: Any, responses: int) -> tuple[int, ...]:
    given: list[Any] = value if isinstance(value, list) else []
    if len(given) != responses or not all(type(one) is int and 1 <= one <= HIGHEST_RATING for one in given):
        raise VerdictError(
            f"ratings: expected {responses} numbers from 1 to {HIGHEST_RATING}, found {str(value)[:200]}"
        )
    return tuple(given)


def _text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise VerdictError(f"{name}: expected some text, found {str(value)[:200]!r}")
    if len(value) > longest:
        raise VerdictError(f"{name}: expected at most {longest:,} characters, found {len(value):,}")
    check_encodable(value)
    return value


def check_encodable(*texts: str) -> None:
    """Refuse what no file can hold: half of a surrogate pair, which JSON can spell.

    Raises:
        VerdictError: a text has one.
    """
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise VerdictError("expected text that UTF-8 can hold, found half of a surrogate pair") from None

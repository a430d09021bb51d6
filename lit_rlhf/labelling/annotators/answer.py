"""What a language model answered, read strictly."""

from __future__ import annotations

import json
import re
from typing import Any

from lit_rlhf.labelling.annotators.opinions import Opinion, shortened
from lit_rlhf.labelling.annotators.question import LETTERS
from lit_rlhf.labelling.items import Task
from lit_rlhf.labelling.verdicts import Verdict, VerdictError, parse_verdict

THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""What a reasoning model thought first, where its server leaves that in the answer."""
CODE_BLOCK = re.compile(r".*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL | re.IGNORECASE)
"""Markdown around the answer, which many models cannot leave off; the last block, behind whatever sentences."""

FIELDS = {
    "pairwise": {"verdict", "slightly"},
    "ranking": {"ranking"},
    "rating": {"ratings"},
    "rewrite": {"rewrite", "of"},
}


def read_answer(text: str, task: Task) -> Opinion:
    """The verdict by the item's indices, and the reason that was given, as the comment.

    Fields that were not asked for say nothing here.

    Args:
        text: of the model's message: one JSON object, as :mod:`lit_rlhf.labelling.annotators.question` asks for it.
        task: what was asked.

    Raises:
        VerdictError: it is something else; the message has what was expected and what was found.
    """
    said = _object(text)
    reason = said.pop("reason", "") or ""
    if not isinstance(reason, str):
        raise VerdictError(f"reason: expected text, found {_shown(reason)}")
    if said.get("skip") in (None, False, ""):
        said.pop("skip", None)
    judged = said.keys() & FIELDS[task.item.mode]
    if "skip" in said and judged:
        raise VerdictError(f"expected skip, found {_shown(min(judged))} too")
    verdict = parse_verdict(_by_position(said, task), task.item.mode, len(task.shown))
    return Opinion(verdict if verdict.skip else task.by_index(verdict), shortened(reason))


def _object(text: str) -> dict[str, Any]:
    text = THOUGHT.sub("", text).strip()
    block = CODE_BLOCK.fullmatch(text)
    try:
        said = json.loads(block[1] if block else text)
        json.dumps(said, ensure_ascii=False).encode()  # half of a surrogate pair cannot be stored
    except (ValueError, RecursionError):
        raise VerdictError(f"expected one JSON object, found {_shown(text)}") from None
    if not isinstance(said, dict):
        raise VerdictError(f"expected one JSON object, found {_shown(said)}")
    return said


def _by_position(said: dict[str, Any], task: Task) -> dict[str, Any]:
    """The same as :func:`parse_verdict` takes it, with numbers for letters."""
    if "skip" in said:
        return {"skip": shortened(said["skip"]) if isinstance(said["skip"], str) else said["skip"]}
    count = len(task.shown)
    if task.item.mode == "ranking":
        groups = said.get("ranking")
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            raise VerdictError(f"ranking: expected a list of lists of letters, found {_shown(groups)}")
        return {"ranking": [[_place(letter, count, "ranking") for letter in group] for group in groups]}
    if task.item.mode == "rating":
        ratings = said.get("ratings")
        given = ratings.items() if isinstance(ratings, dict) else ()
        by_letter = {str(letter).upper(): rating for letter, rating in given}
        if sorted(by_letter) != list(LETTERS[:count]):
            raise VerdictError(f"ratings: expected one of each of {LETTERS[:count]}, found {_shown(ratings)}")
        return {"ratings": [by_letter[letter] for letter in LETTERS[:count]]}
    if task.item.mode == "rewrite":
        return {"rewrite": said.get("rewrite"), "rewrite_of": _place(said.get("of", "A"), count, "of")}
    return _pair(said, count)


def _pair(said: dict[str, Any], count: int) -> dict[str, Any]:
    verdict, slightly = said.get("verdict"), said.get("slightly", False)
    if not isinstance(slightly, bool):
        raise VerdictError(f"slightly: expected true or false, found {_shown(slightly)}")
    tie = [list(range(count))]
    if verdict in ("tie", "both_bad"):
        return {"ranking": tie, "both_bad": verdict == "both_bad"}
    better = _place(verdict, count, "verdict", ", tie or both_bad")
    others = [place for place in range(count) if place != better]
    return {"ranking": [[better], others], "strength": "slightly" if slightly else "better"}


def _place(letter: Any, count: int, name: str, or_else: str = "") -> int:
    letters = LETTERS[:count]
    if not isinstance(letter, str) or len(letter) != 1 or letter.upper() not in letters:
        raise VerdictError(f"{name}: expected one of {', '.join(letters)}{or_else}, found {_shown(letter)}")
    return letters.index(letter.upper())


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text[:120] + ("…" if len(text) > 120 else ""))


def agreed(one: Verdict, other: Verdict) -> Verdict:
    """What two verdicts of one item have in common, that of each order of its responses.

    A response stands above another only where both orders put it above; responses that are not told apart so, or that
    are linked by such, are tied. So of two responses that are judged differently in the two orders, which is what a
    preference for a position does, the verdict is a tie. A pair is `better`, not `slightly`, where both say so, and
    both are bad where both orders say so. Ratings are the mean of the two, halves rounded down. What is skipped in one
    order is skipped.

    Source:
        Zheng et al. 2023, "Judging LLM-as-a-judge", section 3.4: a win only where both orders have it, else a tie.

    >>> agreed(Verdict(((0,), (1,), (2,))), Verdict(((1,), (0,), (2,)))).ranking
    ((0, 1), (2,))
    """
    if one.skip is not None or other.skip is not None:
        return one if one.skip is not None else other
    if one.ratings is not None and other.ratings is not None:
        return Verdict(ratings=tuple((a + b) // 2 for a, b in zip(one.ratings, other.ratings, strict=True)))
    first, second = one.ranks(), other.ranks()
    assert first is not None and second is not None
    groups = [{place} for place in range(len(first))]
    for a in range(len(first)):
        for b in range(a):
            if (first[a] - first[b]) * (
                second[a] - second[b]
            ) <= 0:  # not above in both, or not below in both
                joined = [group for group in groups if group & {a, b}]
                groups = [group for group in groups if not group & {a, b}] + [set().union(*joined)]
    # both orders have any two groups the same way round, or a pair of them would have joined the two
    groups.sort(key=lambda group: min(first[place] for place in group))
    ranking = tuple(tuple(sorted(group)) for group in groups)
    both_bad = one.both_bad and other.both_bad
    if len(ranking) == 1 or one.strength is None or other.strength is None:
        return Verdict(ranking, both_bad=both_bad)
    return Verdict(ranking, "better" if one.strength == other.strength == "better" else "slightly")

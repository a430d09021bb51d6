"""One line of a data file as a :class:`~lit_rlhf.records.Row`, or a reason why it is none.

Kinds and fields:

* demonstrations: ``prompt`` and ``response`` (or ``completion``), or ``messages``, or ``text``
* pairs: ``prompt``, ``chosen``, ``rejected``; optional ``margin``, ``tie``, ``weight``, ``target`` (probability that
  ``chosen`` is better)
* labels, among the pairs: ``prompt``, ``response`` (or ``completion``) and ``label``, true where the response is
  desirable and false where it is not; optional ``weight``. As in TRL
* votes, among the pairs: ``prompt``, ``response_a``, ``response_b`` and ``labels`` of ``{labeler, choice: a|b|tie}``;
  optional ``weight``
* rankings: ``prompt``, ``responses``, and ``ranking`` (tie groups of indices, best first), ``ranks``
  (1 = best, equal = tie, null = not judged) or ``scores`` (higher = better; they are ratings too); optional
  ``weight``
* prompts: ``prompt``; every other field is kept for the reward function
* candidates: ``prompt`` with any number of responses, judged or not

All take ``annotator``, ``domain`` and ``id``. Other people's layouts are read too: see ``layouts.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from lit_rlhf.data.conversations import (
    SIDES,
    Mismatch,
    implicit_prompt,
    parse_messages,
    parse_response,
    settle_branches,
    show,
)
from lit_rlhf.data.judgements import compare_ranks, label, require_different, stated_comparison, stated_weight
from lit_rlhf.data.labels import is_label_row, read_label
from lit_rlhf.data.layouts import native_fields, pair_ratings
from lit_rlhf.data.rankings import given_ratings, judged_ranks
from lit_rlhf.data.votes import is_votes_row, read_votes
from lit_rlhf.records import Prompt, Row

Kind: TypeAlias = Literal["demonstrations", "pairs", "rankings", "prompts", "candidates"]

FIELDS: dict[str, str] = {
    "demonstrations": "`prompt` and `response`, or `messages`, or `text`",
    "pairs": "`prompt`, `chosen` and `rejected`, or `prompt`, `response` and `label`",
    "rankings": "`prompt`, `responses` and one of `ranking`, `ranks`, `scores`",
    "prompts": "`prompt`",
    "candidates": "`prompt` and `responses`",
}
"""What a row of each kind has to hold, for messages."""


class RowError(ValueError):
    """A row that cannot be read.

    Args:
        place: ``file:line``.
        expected: What should have stood there.
        found: What stood there.
    """

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place}: expected {expected}, found {found}")
        self.place, self.expected, self.found = place, expected, found


def parse_row(fields: Any, kind: Kind, place: str) -> Row:
    """The row that `fields` spell.

    Args:
        fields: The decoded line.
        kind: What the file is said to hold.
        place: ``file:line``, kept in the row and named in errors.

    Raises:
        RowError: what was expected and what was found.

    Example:
        >>> parse_row({"prompt": "2+2=", "chosen": "4", "rejected": "5"}, "pairs", "p.jsonl:1").comparisons
        [Comparison(better=0, worse=1, target=1.0, margin=0.0, weight=1.0, tie=0.0)]
    """
    if not isinstance(fields, Mapping):
        raise RowError(place, "an object with named fields", show(fields))
    try:
        native = native_fields(fields)
    except (TypeError, ValueError) as error:  # a field of a foreign layout that is not what its name says
        raise RowError(place, FIELDS[kind], f"a layout that cannot be read ({error})") from None
    try:
        row = _READERS[kind](native)
        row.annotator = label(native, "annotator")
        row.domain = label(native, "domain")
        row.id = label(native, "id")
    except Mismatch as mismatch:
        raise RowError(place, *mismatch.args) from None
    row.columns = {name: value for name, value in fields.items() if name != "prompt"}
    row.place = place
    return row


def _demonstration(fields: dict[str, Any]) -> Row:
    if "prompt" in fields and "response" in fields:
        prompt, (response,) = settle_branches(_prompt(fields), [fields["response"]], ["response"])
        return Row(prompt, [response])
    if "messages" in fields:
        turns = parse_messages(fields["messages"], "messages")
        first = next((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), None)
        if first is None:
            raise Mismatch("an assistant turn in `messages`", f"roles {[turn['role'] for turn in turns]}")
        return Row(turns[:first], [turns[first:]])
    if "text" in fields:
        beside = [f"`{name}`" for name in ("prompt", "response") if fields.get(name)]
        if beside:  # which of them to train on is not ours to guess, and none is dropped
            raise Mismatch(
                "`prompt` with `response`, or `text` alone", f"`text` beside {beside[0]}: rename one of them"
            )
        text = _text(fields["text"], "text")
        if not text:
            raise Mismatch("some `text`", "an empty string")
        return Row("", [text], is_text=True)
    raise _missing(fields, "demonstrations")


def _pair(fields: dict[str, Any]) -> Row:
    if is_votes_row(fields):
        return read_votes(_prompt(fields), fields)
    if is_label_row(fields):
        return _labelled(fields)
    if not {"chosen", "rejected"} <= fields.keys():
        raise _missing(fields, "pairs")
    both = [fields["chosen"], fields["rejected"]]
    if "prompt" in fields or "messages" in fields:
        prompt, responses = settle_branches(_prompt(fields), both, ["chosen", "rejected"])
    else:
        prompt, responses = implicit_prompt([parse_response(side, name) for side, name in zip(both, SIDES)])
    require_different(responses, SIDES)
    return Row(prompt, responses, [stated_comparison(fields)], ratings=pair_ratings(fields))


def _labelled(fields: dict[str, Any]) -> Row:
    if not ({"prompt", "response"} <= fields.keys() or "messages" in fields):
        raise _missing(fields, "pairs")
    row = _demonstration(fields)
    row.labels = [read_label(fields, row.responses[0])]
    return row


def _ranking(fields: dict[str, Any]) -> Row:
    if not fields.keys() & {"ranking", "ranks", "scores"}:
        raise _missing(fields, "rankings")
    return _judged(fields)


def _judged(fields: dict[str, Any]) -> Row:
    """Prompt and responses, with what is said of them where something is said."""
    given = fields.get("responses")
    if not isinstance(given, list) or not given:
        raise Mismatch("`responses` to be a list of responses", show(given))
    names = [f"responses[{place}]" for place in range(len(given))]
    prompt, responses = settle_branches(_prompt(fields), given, names)
    try:
        ranks, ratings = judged_ranks(fields, len(responses)), given_ratings(fields, len(responses))
    except ValueError as error:
        raise Mismatch(*error.args) from None
    if ranks is None:
        return Row(prompt, responses)
    weight = stated_weight(fields)
    if len(responses) < 2 and ratings is None:  # a rating says something of one response alone
        raise Mismatch("two or more responses", "one")
    if len(responses) < 2 and weight != 1:  # it is of comparisons, which one response has none of
        raise Mismatch("no `weight` on one rated response", show(weight))
    return Row(prompt, responses, compare_ranks(ranks, weight), ranks, ratings)


def _prompt_row(fields: dict[str, Any]) -> Row:
    return Row(_prompt(fields, kind="prompts"))


def _candidates(fields: dict[str, Any]) -> Row:
    if "responses" in fields:
        return _judged(fields)
    if {"chosen", "rejected"} <= fields.keys() or is_votes_row(fields):
        return _pair(fields)
    if "response" in fields:
        return _demonstration(fields)
    return Row(_prompt(fields, kind="candidates"))


_READERS = {
    "demonstrations": _demonstration,
    "pairs": _pair,
    "rankings": _ranking,
    "prompts": _prompt_row,
    "candidates": _candidates,
}


def _prompt(fields: dict[str, Any], kind: str = "pairs") -> Prompt:
    """The prompt, or the turns before the first answer of `messages` where only those are given."""
    if "prompt" in fields:
        value = fields["prompt"]
        return value if isinstance(value, str) else parse_messages(value, "prompt")
    if "messages" not in fields:
        raise _missing(fields, kind)
    turns = parse_messages(fields["messages"], "messages")
    if kind in ("pairs", "rankings"):
        return turns
    first = next((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    return turns[:first]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Mismatch(f"`{name}` to be text", show(value))
    return value


def _missing(fields: dict[str, Any], kind: str) -> Mismatch:
    return Mismatch(FIELDS[kind], "fields " + (", ".join(f"`{name}`" for name in fields) or "none"))

"""Votes: several people's answers to which of two responses is better, and the comparisons made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from lit_rlhf.data.conversations import Mismatch, settle_branches, show
from lit_rlhf.data.judgements import compare, label, require_different, stated_weight
from lit_rlhf.data.reliability import Reliability
from lit_rlhf.records import Comparison, Prompt, Row, Vote

VoteUse: TypeAlias = Literal["share", "majority", "each", "posterior"]

SIDES = ("response_a", "response_b")
CHOICES = {"a": 1.0, "b": 0.0, "tie": 0.5}
ANONYMOUS = ""
"""Annotator of a vote that nobody has signed."""


def is_votes_row(fields: Mapping[str, Any]) -> bool:
    """Whether a row of pairs is laid out as votes."""
    return any(name in fields for name in SIDES)


def read_votes(prompt: Prompt, fields: Mapping[str, Any]) -> Row:
    """The row of `response_a`, `response_b` and `labels`; until more is known its comparison is the share of votes.

    An annotator has one vote on a row: two, as a join gone wrong leaves them, would pass for agreement.

    Raises:
        Mismatch: a field is missing or is not what its name says.
    """
    missing = [name for name in (*SIDES, "labels") if name not in fields]
    if missing:
        raise Mismatch("`response_a`, `response_b` and `labels`", f"no `{missing[0]}`")
    for name in ("tie", "target", "margin"):
        if name in fields:
            raise Mismatch(f"no `{name}` beside `labels`", show(fields[name]))
    prompt, responses = settle_branches(prompt, [fields[side] for side in SIDES], list(SIDES))
    require_different(responses, SIDES)
    votes = _parse_labels(fields["labels"])
    return Row(prompt, responses, compare_votes(votes, weight=stated_weight(fields)), votes=votes)


def _parse_labels(labels: Any) -> list[Vote]:
    if not isinstance(labels, list) or not labels:
        raise Mismatch("`labels` to be a list of {labeler, choice}, one or more", show(labels))
    votes: list[Vote] = []
    for place, entry in enumerate(labels):
        choice = entry.get("choice") if isinstance(entry, Mapping) else None
        if not isinstance(choice, str) or choice not in CHOICES:
            found = entry if choice is None else choice
            raise Mismatch(f"`labels[{place}]` to have a `choice` of a, b or tie", show(found))
        name = label(entry, "labeler")
        if name and any(vote.annotator == name for vote in votes):
            raise Mismatch("one vote of each labeler in `labels`", f"two of {show(name)}")
        votes.append(Vote(name or ANONYMOUS, CHOICES[choice]))
    return votes


def compare_votes(
    votes: Sequence[Vote],
    use: VoteUse = "share",
    prior: float = 0.0,
    reliability: Reliability | None = None,
    weight: float = 1.0,
) -> list[Comparison]:
    """What a row's votes say of its two responses.

    With `reliability` a vote counts w, which averages 1 over the votes that it was estimated on, and the row counts
    as the mean w of its votes: what an unreliable annotator says alone moves little.

    Args:
        votes: At least one.
        use: ``share``: one comparison, its target the share of votes, a tie half a vote for either. ``majority``:
            the answer that most gave, a tie where two share the lead. ``each``: one comparison a vote. ``posterior``:
            P(first better) + P(tie)/2 given who voted how, which needs `reliability`.
        prior: Votes that each side is given beforehand; ``share`` only.
        reliability: Of the annotators; None = all alike.
        weight: Of the row.
    """
    if use == "posterior":
        assert reliability is not None
        first, _, tied = reliability.posterior(votes)
        return [compare(0, 1, first + tied / 2, tied, weight=weight)]
    counts = [1.0 if reliability is None else reliability.weight(vote.annotator) for vote in votes]
    if use == "each":
        return [
            compare(0, 1, vote.choice, float(vote.choice == 0.5), weight=weight * count)
            for vote, count in zip(votes, counts, strict=True)
        ]
    weight *= sum(counts) / len(votes)
    first, second, tied = (
        sum(count for vote, count in zip(votes, counts, strict=True) if vote.choice == choice)
        for choice in (1.0, 0.0, 0.5)
    )
    if use == "majority":
        most = max(first, second, tied)
        leading = [
            answer for answer, given in ((1.0, first), (0.0, second), (0.5, tied)) if given >= most - 1e-9
        ]
        target = leading[0] if len(leading) == 1 else 0.5
        return [compare(0, 1, target, float(target == 0.5), weight=weight)]
    whole = first + second + tied + 2 * prior
    return [compare(0, 1, (first + tied / 2 + prior) / whole, tied / whole, weight=weight)]

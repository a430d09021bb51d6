"""The comparisons that a reward model gets most wrong, as they are shown to a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_rlhf.metrics.judged import Judged
from lit_rlhf.records import Row, Vote
from lit_rlhf.reports.foreign_text import ShownText, as_text, one_line, shown

SHOWN_CHARACTERS = 2000
"""Of each text; a reader of the page who needs more goes to the data."""
_SUMMARY_CHARACTERS = 90


@dataclass(frozen=True)
class Side:
    """One of the two responses."""

    kind: str
    """``people`` or ``model``: whose choice it was."""
    title: str
    score: str
    length: str
    text: ShownText | None


@dataclass(frozen=True)
class WrongPair:
    """One comparison, the response that people preferred first."""

    summary: str
    prompt_start: str
    prompt: ShownText | None
    sides: list[Side]
    judged: str
    """What people said, and where the row stands."""


def describe_wrong_pair(judged: Judged, place: int, rows: Sequence[Row]) -> WrongPair:
    """A comparison of `judged` with its texts.

    Args:
        judged: what the model said of the data.
        place: of the comparison in it.
        rows: the data, to which `judged.row` points; texts are left out where it does not reach.
    """
    number = int(judged.row[place])
    row = rows[number] if 0 <= number < len(rows) else None
    responses = [int(judged.better[place]), int(judged.worse[place])]
    scores = [float(judged.better_scores[place]), float(judged.worse_scores[place])]
    lengths = [int(judged.better_lengths[place]), int(judged.worse_lengths[place])]
    agreed, target = float(judged.probability[place]), float(judged.target[place])
    if target < 0.5:  # the share of votes is on the side that the comparison calls worse
        responses, scores, lengths = responses[::-1], scores[::-1], lengths[::-1]
        agreed, target = 1 - agreed, 1 - target
    titles = (("people", "people preferred"), ("model", "the model scores higher"))
    sides = [
        Side(kind, title, f"{score:.3f}".replace("-", "−"), f"{length:,}", _text_of(row, response))
        for (kind, title), score, length, response in zip(titles, scores, lengths, responses, strict=True)
    ]
    prompt = None if row is None else as_text(row.prompt)
    return WrongPair(
        summary=f"says {agreed:.1%} for what people preferred",
        prompt_start=one_line(prompt, _SUMMARY_CHARACTERS) if prompt else "",
        prompt=shown(prompt, SHOWN_CHARACTERS) if prompt else None,
        sides=sides,
        judged=_what_was_said(row, number, responses[0], target),
    )


def _text_of(row: Row | None, response: int) -> ShownText | None:
    if row is None or response >= len(row.responses):
        return None
    return shown(as_text(row.responses[response]), SHOWN_CHARACTERS)


def _what_was_said(row: Row | None, number: int, preferred: int, target: float) -> str:
    said = []
    if row is not None and row.votes:
        said.append(_count_votes(row.votes, preferred))
    elif target < 1:
        said.append(f"{target:.0%} of the judgement is for it")
    if row is not None and row.domain is not None:
        said.append(f"domain {one_line(row.domain, 60)}")
    name = (row.id or row.place) if row is not None else None
    said.append(f"row {number}" + (f" ({one_line(name, 120)})" if name else ""))
    return " · ".join(said)


def _count_votes(votes: Sequence[Vote], preferred: int) -> str:
    """A vote's 1 is for the row's first response."""
    with_it = sum(vote.choice == (1 if preferred == 0 else 0) for vote in votes)
    ties = sum(vote.choice == 0.5 for vote in votes)
    against = len(votes) - with_it - ties
    return f"votes: {with_it} for it, {against} against" + (f", {ties} for a tie" if ties else "")

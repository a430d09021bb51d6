"""Judgements of one prompt that a file spreads over several rows, put together before anything is split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from lit_rlhf.data.files import RowSet, count_duplicates
from lit_rlhf.data.judgements import compare_ranks
from lit_rlhf.data.rankings import ranks_of_scores
from lit_rlhf.data.votes import ANONYMOUS, compare_votes
from lit_rlhf.records import Response, Row, Vote


def merge_annotated_pairs(read: RowSet) -> RowSet:
    """Pairs that name their annotator as votes: those on the same two responses, either way round, in one row.

    A pair with a margin, weight or target of its own stays as it is, since a vote has none. Where an annotator comes
    twice on the same two responses the later row counts; an empty name is nobody's, and each of its votes counts. The
    first row lends the others its id, columns and place. Which response is the first of a merged row does not depend
    on the votes: the one that somebody chose would have the first vote, and chance agreement would be overrated.
    """
    groups = _grouped(read, lambda row: _pair_key(row) if _is_vote(row) else None)
    rows: list[Row] = []
    merged = repeated = 0
    first_repeated = ""
    for group in groups:
        first = read.rows[group[0]]
        if not _is_vote(first):
            rows.append(first)
            continue
        if len(group) > 1:
            first = _with_settled_sides(first)
        votes: dict[Hashable, Vote] = {}
        for place in group:
            row = read.rows[place]
            name = row.annotator or ANONYMOUS
            key = name or place
            if key in votes:
                repeated += 1
                first_repeated = first_repeated or row.place
            votes[key] = Vote(name, _choice(row, first))
        merged += len(group) if len(group) > 1 else 0
        given = list(votes.values())
        rows.append(
            replace(
                first,
                votes=given,
                comparisons=compare_votes(given),
                annotator=given[0].annotator or None if len(given) == 1 else None,
            )
        )
    pairs = sum(len(group) > 1 for group in groups)
    notes = [f"{merged} rows were votes on {pairs} pairs, one row each now"] if merged else []
    if repeated:
        notes.append(
            f"{repeated} of them said again what their annotator had judged; the last word counts "
            f"(first: {first_repeated})"
        )
    return _regrouped(read, groups, rows, notes)


def group_ratings(read: RowSet) -> RowSet:
    """Rows of one rated response as rankings: all those of the same prompt in one row, wherever they stand.

    Fields other than `prompt` become lists, a value a response. The first row lends the others its id and place.
    """
    groups = _grouped(read, lambda row: _rating_key(row) if _is_rating(row) else None)
    rows = []
    for group in groups:
        members = [read.rows[place] for place in group]
        if len(members) == 1:
            rows.append(members[0])
            continue
        ratings = [rating for row in members for rating in row.ratings or []]
        ranks = ranks_of_scores(ratings)
        rows.append(replace(_joined(members), comparisons=compare_ranks(ranks), ranks=ranks, ratings=ratings))
    sizes = [len(group) for group in groups if _is_rating(read.rows[group[0]])]
    notes = []
    if sizes:
        note = f"{sum(sizes)} rows of one rated response became {sum(size > 1 for size in sizes)} rankings"
        if alone := sizes.count(1):
            note += f" and {alone} rows whose prompt has no other response"
        notes.append(note)
    return _regrouped(read, groups, rows, notes)


def group_labels(read: RowSet) -> RowSet:
    """Rows of one labelled response as one row a prompt with all its responses, wherever they stand.

    Fields other than `prompt` become lists, a value a response. The first row lends the others its id and place; the
    annotator stays where all have the same. Nothing is dropped: a response that comes again has a label a time.
    """
    if not any(row.labels for row in read.rows):
        return read
    groups = _grouped(read, lambda row: _label_key(row) if row.labels else None)
    rows = []
    for group in groups:
        members = [read.rows[place] for place in group]
        if len(members) == 1:
            rows.append(members[0])
            continue
        annotators = {row.annotator for row in members}
        rows.append(
            replace(
                _joined(members),
                labels=[label for row in members for label in row.labels],
                annotator=annotators.pop() if len(annotators) == 1 else None,
            )
        )
    sizes = [len(group) for group in groups if read.rows[group[0]].labels]
    notes = []
    if several := [size for size in sizes if size > 1]:
        notes.append(
            f"{sum(several)} of {sum(sizes)} labelled responses share {len(several)} prompts, one row each now"
        )
    regrouped = _regrouped(read, groups, rows, notes)
    # Responses that came again are no rows of their own any more, and are to be counted all the same.
    return replace(regrouped, duplicates=read.duplicates, first_duplicate=read.first_duplicate)


def _joined(members: Sequence[Row]) -> Row:
    """The first row with the responses of all; its columns are lists, a value a row."""
    names = dict.fromkeys(name for row in members for name in row.columns)
    return replace(
        members[0],
        responses=[response for row in members for response in row.responses],
        columns={name: [row.columns.get(name) for row in members] for name in names},
    )


def _grouped(read: RowSet, key: Callable[[Row], Hashable | None]) -> list[list[int]]:
    """Indices of the rows that belong together, in the order of their first; None as the key is alone.

    Files that are drawn with different weights stay apart.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, (row, weight) in enumerate(zip(read.rows, read.weights, strict=True)):
        name = key(row)
        groups.setdefault(("alone", place) if name is None else (name, weight), []).append(place)
    return list(groups.values())


def _regrouped(read: RowSet, groups: list[list[int]], rows: list[Row], notes: list[str]) -> RowSet:
    regrouped = RowSet(
        rows, [read.weights[group[0]] for group in groups], read.bad, notes=[*read.notes, *notes]
    )
    count_duplicates(regrouped)
    return regrouped


def _is_vote(row: Row) -> bool:
    """A pair of which an annotator said which is better, or that neither is, and nothing else."""
    if row.annotator is None or row.votes or len(row.comparisons) != 1:
        return False
    (said,) = row.comparisons
    return (said.target, said.tie) in ((1.0, 0.0), (0.5, 1.0)) and (said.margin, said.weight) == (0.0, 1.0)


def _is_rating(row: Row) -> bool:
    return len(row.responses) == 1 and row.ratings is not None


def _pair_key(row: Row) -> str:
    sides = sorted(json.dumps(response, sort_keys=True) for response in row.responses)
    return json.dumps([row.prompt, sides, row.domain], sort_keys=True)


def _rating_key(row: Row) -> str:
    return json.dumps([row.prompt, row.annotator, row.domain], sort_keys=True)


def _label_key(row: Row) -> str:
    return json.dumps([row.prompt, row.domain], sort_keys=True)


def _with_settled_sides(row: Row) -> Row:
    """The pair with its responses in the order of their hashes; its comparison is to be made anew."""
    responses, ratings = row.responses, row.ratings
    if _digest(responses[1]) < _digest(responses[0]):
        responses, ratings = responses[::-1], ratings and ratings[::-1]
    return replace(row, responses=responses, ratings=ratings)


def _digest(response: Response) -> bytes:
    return hashlib.blake2b(json.dumps(response, sort_keys=True).encode()).digest()


def _choice(row: Row, first: Row) -> float:
    """The row's vote, seen from the two responses as `first` has them."""
    (said,) = row.comparisons
    if said.tie:
        return 0.5
    return 1.0 if row.responses[said.better] == first.responses[0] else 0.0

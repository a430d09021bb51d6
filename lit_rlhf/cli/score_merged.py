"""Rows of a file put together the way that the data modules do it, scored once, and their scores given back to each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from lit_rlhf.cli.score_lines import RowScores
from lit_rlhf.data.files import RowSet
from lit_rlhf.data.formats import Kind
from lit_rlhf.data.grouping import group_ratings, merge_annotated_pairs
from lit_rlhf.records import Response, Row


def merge_rows(rows: Sequence[Row], kinds: Sequence[Kind]) -> tuple[list[Row], list[str]]:
    """The rows that ``validate`` would judge, and what is to be said of it.

    Pairs that name their annotator become one row of votes a pair, as in
    :class:`~lit_rlhf.data.datamodules.PairDataModule`; rows of one rated response one ranking a prompt, as in
    :class:`~lit_rlhf.data.datamodules.RankingDataModule`. Other rows stay. Every response of the rows is in one of
    the merged rows with the same prompt.

    Args:
        rows: as they stand in the file.
        kinds: of each, what it was read as.
    """
    pairs = [row for row, kind in zip(rows, kinds, strict=True) if kind == "pairs"]
    others = [row for row, kind in zip(rows, kinds, strict=True) if kind != "pairs"]
    merged = merge_annotated_pairs(RowSet(pairs, [1.0] * len(pairs)))
    grouped = group_ratings(RowSet(others, [1.0] * len(others)))
    place = {row.place: number for number, row in enumerate(rows)}  # the first row lends the others its place
    together = sorted([*merged.rows, *grouped.rows], key=lambda row: place[row.place])
    return together, [*merged.notes, *grouped.notes]


def scores_of_each(rows: Sequence[Row], merged: Sequence[Row], found: Sequence[RowScores]) -> list[RowScores]:
    """The scores of the rows of the file, from those of the merged rows; without probabilities.

    Args:
        rows: as they stand in the file.
        merged: of :func:`merge_rows`.
        found: what the model says of the merged rows.
    """
    at = {
        _key(row, response): (number, place)
        for number, row in enumerate(merged)
        for place, response in enumerate(row.responses)
    }
    each = []
    for row in rows:
        places = [at[_key(row, response)] for response in row.responses]
        each.append(
            RowScores(
                [found[number].scores[place] for number, place in places],
                [found[number].disagreement[place] for number, place in places],
                [],
            )
        )
    return each


def _key(row: Row, response: Response) -> bytes:
    """What a score depends on."""
    text = json.dumps([row.prompt, response, row.is_text], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

"""Data files to rows: JSONL, JSON, CSV, Parquet, Arrow, folders of them, `datasets` folders, the hub.

JSON lines are read here and not through `datasets`, so that a bad line has its exact number; lines end
at ``\\n`` only, whatever other line separators a string holds. A path that looks local never touches the
network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lit_rlhf.data.formats import Kind, RowError, parse_row
from lit_rlhf.data.sources import Split, find_sources
from lit_rlhf.records import Row

DataPath: TypeAlias = str | list[str] | list[dict[str, Any]]
"""A file, folder or hub name; several of them; several ``{path, weight}``; or rows as dicts."""
BadRows: TypeAlias = Literal["error", "skip"]

_SHOWN = 3


@dataclass
class RowSet:
    """What was read."""

    rows: list[Row] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    """Per row, how often it is drawn an epoch."""
    bad: list[RowError] = field(default_factory=list)
    """Rows that could not be read and were left out."""
    duplicates: int = 0
    """Rows whose prompt and responses stood in an earlier row too; they are kept."""
    first_duplicate: str = ""
    """Its place."""
    notes: list[str] = field(default_factory=list)
    """What else ought to be said, a line each."""


class BadRowsError(ValueError):
    """Rows that could not be read, the first ones spelled out."""


def read_rows(
    path: DataPath | Sequence[Mapping[str, Any]],
    kind: Kind,
    bad_rows: BadRows = "error",
    split: Split = "train",
) -> RowSet:
    """All rows of a file, folder, hub data set, of several of them, or of a list of dicts.

    Args:
        path: See :data:`DataPath`. In a list of ``{path, weight}``, a weight says how often a row of
            that file is drawn, where 1 is once an epoch.
        kind: What the rows are to be.
        bad_rows: Whether a row that cannot be read stops everything, or is left out and counted.
        split: Which part to take from a folder or hub data set that has several.

    Raises:
        FileNotFoundError: a local path that is not there, with names that come near.
        BadRowsError: there are bad rows, and `bad_rows` is ``"error"``; or no good one is left.
    """
    out = RowSet()
    sources = find_sources(path, split)
    for source in sources:
        out.notes += source.notes
        for place, fields in source.read():
            try:
                if isinstance(fields, RowError):
                    raise fields
                out.rows.append(parse_row(fields, kind, place))
                out.weights.append(source.weight)
            except RowError as error:
                out.bad.append(error)
    if out.bad and (bad_rows == "error" or not out.rows):
        raise BadRowsError(describe_bad(out.bad, len(out.rows)))
    if not out.rows:
        names = ", ".join(source.name for source in sources) or "an empty list"
        raise BadRowsError(f"no rows in {names}")
    count_duplicates(out)
    return out


def describe_bad(bad: Sequence[RowError], good: int) -> str:
    """The first bad rows, how many more there are, and what to do."""
    return describe_bad_rows([str(error) for error in bad[:_SHOWN]], len(bad), good)


def describe_bad_rows(first: Sequence[str], bad: int, good: int) -> str:
    """The first bad rows in words, how many more there are, and what to do."""
    lines = [f"{bad} bad of {bad + good} rows:"]
    lines += [f"  {text}" for text in first[:_SHOWN]]
    if bad > _SHOWN:
        lines.append(f"  ... and {bad - _SHOWN} more")
    lines.append("Mend or remove them, or leave them out with --data.bad_rows skip.")
    return "\n".join(lines)


def prompt_key(row: Row) -> str:
    """What makes two rows have the same prompt; the text itself where there is no prompt."""
    return json.dumps(row.responses if row.is_text else row.prompt, sort_keys=True)


def count_duplicates(out: RowSet) -> None:
    """Count the rows of a set whose prompt and responses stood in an earlier row too."""
    seen: set[str] = set()
    for row in out.rows:
        key = json.dumps([row.prompt, row.responses], sort_keys=True)
        if key in seen:
            out.duplicates += 1
            out.first_duplicate = out.first_duplicate or row.place
        seen.add(key)

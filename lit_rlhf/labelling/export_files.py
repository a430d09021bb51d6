"""Rows written as a file: all of them or none, and the same bytes for the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv")


def rows_as_bytes(path: Path, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """What a file of this name holds: JSON lines, gzipped ones, or CSV with JSON in the cells of lists.

    Raises:
        ValueError: another suffix.
    """
    if path.name.endswith(".jsonl"):
        return json_lines(rows)
    if path.name.endswith(".jsonl.gz"):
        return gzip.compress(json_lines(rows), mtime=0)  # a time in it would make every export another
    if path.name.endswith(".csv"):
        return csv_lines(rows, dict.fromkeys(name for row in rows for name in row))
    raise ValueError(
        f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, found {path.suffix or 'none'}"
    )


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A row a line, in UTF-8.

    Raises:
        ValueError: a number that JSON cannot spell, or text that UTF-8 cannot hold; `plain_fields` has neither.
    """
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)


def csv_lines(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> bytes:
    """A header and a row a line; an empty cell for a field that a row does not have."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    names = list(columns)
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue().encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside and put it in place once it is on the disk: a crash leaves the old one or the new one.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)

"""Raw fields of a file's rows, each with its place; one function a format."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from lit_rlhf.data.formats import RowError

RawRows: TypeAlias = Iterator[tuple[str, Any]]
"""(place, fields), the fields a RowError where a line could not even be decoded."""

_JSON_CELLS = {
    *("messages", "conversations", "responses", "ranking", "ranks", "scores", "labels"),
    *("margin", "weight", "tie", "target"),
}

_LONGEST_CELL = 2**31 - 1
"""Characters; the most that every platform takes."""


def _read_json(path: Path, name: str) -> RawRows:
    """JSON lines, or one array; told apart by the first character."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        stream.seek(0)
        if head.startswith(b"["):
            yield from _read_json_array(stream.read(), name)
            return
        for number, line in enumerate(stream, start=1):  # bytes: lines end at \n alone
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                place = f"{name}:{number}"
                yield place, decode_line(line, place)


def decode_line(line: bytes, place: str) -> Any:
    """The value that a JSON line spells, or a RowError."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError(place, "UTF-8", f"byte {line[error.start]:#04x} at column {error.start + 1}")
    except json.JSONDecodeError as error:
        return RowError(place, "a JSON object", f"{error.msg} at column {error.colno}")


def _read_json_array(content: bytes, name: str) -> RawRows:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{name}:{content.count(bytes([10]), 0, error.start) + 1}"
        yield place, RowError(place, "UTF-8", f"byte {content[error.start]:#04x}")
        return
    decoder = json.JSONDecoder()
    blank_or_comma = re.compile(r"[\s,]*")
    at, line, counted = text.index("[") + 1, 1, 0
    while True:
        at = blank_or_comma.match(text, at).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, at), at
        place = f"{name}:{line}"
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip():
                yield place, RowError(place, "the end of the file behind the array", "more text")
            return
        try:
            fields, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield place, RowError(place, "an array of JSON objects", error.msg)
            return
        yield place, fields


def _read_csv(path: Path, name: str) -> RawRows:
    """Cells of columns that hold lists or numbers are read as JSON, and empty ones of these are no value.

    An empty cell of any other column is empty text.
    """
    csv.field_size_limit(_LONGEST_CELL)  # the reader's own, one for the process, would refuse long texts
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.DictReader(stream)
        start = 1
        try:
            columns = lines.fieldnames or []
            start = lines.line_num + 1
            for cells in lines:
                place = f"{name}:{start}"
                start = lines.line_num + 1
                if None in cells or None in cells.values():  # csv's marks for a line too long or too short
                    yield place, RowError(place, f"{len(columns)} cells", "more or fewer")
                    continue
                yield place, {column: _cell(column, value) for column, value in cells.items()}
        except csv.Error as error:
            place = f"{name}:{start}"
            yield place, RowError(place, "cells of CSV", f"{error}; nothing from here on can be read")


def _cell(column: str, value: str) -> Any:
    if column in _JSON_CELLS:
        if not value:
            return None
        try:
            return json.loads(value.lower() if column == "tie" else value)
        except json.JSONDecodeError:
            return value
    if value.startswith('[{"'):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _read_parquet(path: Path, name: str) -> RawRows:
    import pyarrow.parquet

    return _number_batches(name, pyarrow.parquet.ParquetFile(path).iter_batches())


def _read_arrow(path: Path, name: str) -> RawRows:
    import pyarrow

    try:
        reader = pyarrow.ipc.open_stream(path)
    except pyarrow.ArrowInvalid:
        opened = pyarrow.ipc.open_file(path)
        return _number_batches(name, (opened.get_batch(k) for k in range(opened.num_record_batches)))
    return _number_batches(name, reader)


def _number_batches(name: str, batches: Any) -> RawRows:
    return number_rows(name, (row for batch in batches for row in batch.to_pylist()))


def number_rows(name: str, rows: Any) -> RawRows:
    """Rows with their number, from 1, in place of a line."""
    for number, fields in enumerate(rows, start=1):
        yield f"{name}:{number}", fields


READERS: dict[str, Callable[[Path, str], RawRows]] = {
    ".jsonl": _read_json,
    ".jsonl.gz": _read_json,
    ".json": _read_json,
    ".json.gz": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
"""By suffix."""


def reader_of(path: Path) -> Callable[[Path, str], RawRows] | None:
    """What reads a file of this name; None where the suffix is not known."""
    return next((reader for suffix, reader in READERS.items() if path.name.endswith(suffix)), None)

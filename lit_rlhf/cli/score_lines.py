"""JSON lines on disk: written whole whatever text they hold, and read back as far as they are whole."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

Line = TypeVar("Line")


@dataclass(frozen=True)
class RowScores:
    """What a reward model says of one row."""

    scores: list[float | None]
    """One a response; None where the model has too few positions for it."""
    disagreement: list[float | None]
    """Standard deviation over the model's components, one a response; zeros for a model with one."""
    probability: list[float | None]
    """P(better ≻ worse), one a comparison of the row; None where a response of it has no score."""


def json_line(row: Mapping[str, Any]) -> str:
    r"""A row as one line that UTF-8 can hold, its characters as they are where that is possible.

    Half of a surrogate pair is legal in JSON, as ``"\ud83d"``, and no text that could be written: such a row is
    written in escapes.
    """
    line = json.dumps(row, ensure_ascii=False, default=str)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(row, default=str)
    return line + "\n"


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON lines, whole or not at all: nothing is left beside where it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json_line(row))
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def part_of(out: Path, key: str, other: str) -> Path:
    """Where a pass that writes `out` keeps what it has; parts of other passes are named, and left.

    Args:
        out: the file that is to be written.
        key: hex digits that change with whatever the lines depend on.
        other: what another key means, such as ``model or other rows``.
    """
    part = out.with_name(f"{out.name}.{key[:16]}.part")
    others = [str(file) for file in sorted(out.parent.glob(f"{escape(out.name)}.*.part")) if file != part]
    if others:
        print(f"unfinished, of another {other}, yours to delete: {', '.join(others)}", flush=True)
    return part


def read_part(part: Path, rows: int) -> list[RowScores]:
    """The scores that an interrupted pass has left; see :func:`read_lines`."""
    return read_lines(part, rows, _parse, "scored")


def read_lines(part: Path, rows: int, parse: Callable[[bytes], Line | None], done: str) -> list[Line]:
    """What an interrupted pass has left, up to the first line that is not whole.

    From there on the file is cut off, so that the next line is written behind a whole one, and that is said.

    Args:
        part: the file; where there is none, its folder is made.
        rows: lines that are wanted at the most.
        parse: what a line says; None where it is no such line.
        done: what is done again to the rows behind, for the message.
    """
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        return []
    content = part.read_bytes()
    known: list[Line] = []
    start = 0
    while start < len(content) and len(known) < rows:
        end = content.find(b"\n", start)
        found = parse(content[start:end]) if end >= 0 else None
        if found is None:
            os.truncate(part, start)
            lost = max(content.count(b"\n", start), 1)
            print(
                f"{part}: line {len(known) + 1} is not whole; the rows from there on ({lost} in the file) are "
                f"{done} again",
                file=sys.stderr,
                flush=True,
            )
            break
        known.append(found)
        start = end + 1
    return known


def _parse(line: bytes) -> RowScores | None:
    """What a line says of its row; None where it is no such line."""
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    names = {field.name for field in fields(RowScores)}
    if not isinstance(values, dict) or values.keys() != names:
        return None
    for value in values.values():
        if not isinstance(value, list) or not all(
            each is None or isinstance(each, int | float) for each in value
        ):
            return None
    return RowScores(**values)

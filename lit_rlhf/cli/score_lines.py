"""JSON lines on disk: written whole whatever text they hold, and read back as far as they are whole."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from glob import escape
from pathlib import Path
from typing import Any, TextIO, TypeVar

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


@contextmanager
def appending(part: Path, done: str) -> Iterator[TextIO]:
    """The file of a pass, open to write behind what it holds, by one process at a time; none is left if it is empty.

    Args:
        part: the file; its folder is made.
        done: what is done to the rows, such as ``sampled``: an interrupt then says what of it is kept.

    Raises:
        ValueError: another process has it.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "a", encoding="utf-8") as file:
        hold(file, part)
        try:
            yield file
        except KeyboardInterrupt:
            file.flush()
            kept = os.fstat(file.fileno()).st_size
            said = f"what was {done} so far is kept in {part}" if kept else f"nothing was {done} yet"
            raise KeyboardInterrupt(said) from None
        finally:
            file.flush()
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)


def hold(file: TextIO, part: Path) -> None:
    """Keep other processes from writing `file` too, until it is closed.

    Raises:
        ValueError: another one has it, or has just finished it.
    """
    busy = f"{part}: another run of the same command is writing it. Wait for it, or give another --out."
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(busy) from None
    except OSError:
        return  # a file system without locks
    if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
        raise ValueError(busy)  # renamed or removed between the opening and the lock


def read_part(part: Path, rows: int) -> list[RowScores]:
    """The scores that an interrupted pass has left; see :func:`read_lines`."""
    return read_lines(part, rows, _parse, "scored")


def read_lines(part: Path, rows: int, parse: Callable[[bytes], Line | None], done: str) -> list[Line]:
    """What an interrupted pass has left, up to the first line that is not whole.

    From there on the file is cut off, so that the next line is written behind a whole one, and that is said.

    Args:
        part: the file; where there is none, nothing is left.
        rows: lines that are wanted at the most.
        parse: what a line says; None where it is no such line.
        done: what is done again to the rows behind, for the message.
    """
    if not part.exists():
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

"""Rows by their place in a file, so that any of them can be read when its turn comes and none is held.

A file is cut into chunks, which several processes can go through at once. A row is found again by three numbers: where
it begins (a byte, or its number in a table), its length in bytes, and its line.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lit_rlhf.data.readers import decode_line
from lit_rlhf.data.sources import Source

_CHUNK_BYTES = 1 << 18
_CHUNK_ROWS = 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Found(NamedTuple):
    """A row and where it stands."""

    at: int
    length: int
    line: int
    fields: Any
    """A RowError where the line cannot be decoded."""


class RowAccess(Protocol):
    """The rows of one file or table, at random."""

    name: str
    identity: str | None
    """Changes with the content; None where nothing vouches for that."""
    folder: Path | None
    """Where files about it may lie."""
    chunks: int

    def lines(self, chunk: int) -> int:
        """Lines that begin in a chunk, blank ones among them."""

    def rows(self, chunk: int, first_line: int) -> Iterator[Found]:
        """The rows of a chunk, whose first line is the `first_line`-th of the file, from 1."""

    def read(self, at: int, length: int, line: int) -> Any:
        """The fields of one row, or a RowError."""


class LineFile:
    """JSON lines, found by their bytes; safe to share with forked processes, since nothing is ever sought."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.folder: Path | None = path.parent
        self.size = path.stat().st_size
        self.identity: str | None = _identity(path)
        self.chunks = max(1, -(-self.size // _CHUNK_BYTES))
        self._descriptor: int | None = None
        if self._bytes(0, 4096).removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"["):
            raise ValueError(_no_way_in(name, "one JSON array", "write a JSON object a line (.jsonl)"))

    def lines(self, chunk: int) -> int:
        # A line begins behind each line end, so those of the byte before the chunk count, and the last byte does not.
        start, stop = chunk * _CHUNK_BYTES, min((chunk + 1) * _CHUNK_BYTES, self.size)
        return self._bytes(max(0, start - 1), stop - 1).count(b"\n") + (chunk == 0)

    def rows(self, chunk: int, first_line: int) -> Iterator[Found]:
        start, stop = chunk * _CHUNK_BYTES, min((chunk + 1) * _CHUNK_BYTES, self.size)
        with self.path.open("rb") as stream:
            if start:
                stream.seek(start - 1)
                stream.readline()  # the rest of a line that began before
            at, line = stream.tell(), first_line
            while at < stop:
                text = stream.readline()
                if self._bare(text, at).strip():
                    yield Found(at, len(text), line, self._decode(text, at, line))
                at += len(text)
                line += 1

    def read(self, at: int, length: int, line: int) -> Any:
        return self._decode(self._bytes(at, at + length), at, line)

    def _decode(self, text: bytes, at: int, line: int) -> Any:
        return decode_line(self._bare(text, at), f"{self.name}:{line}")

    def _bare(self, text: bytes, at: int) -> bytes:
        return text if at else text.removeprefix(_BYTE_ORDER_MARK)

    def _bytes(self, start: int, stop: int) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        return os.pread(self._descriptor, max(0, stop - start), start)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}


class Table:
    """Rows by number: a list of them, or a data set of `datasets`, which are memory-mapped."""

    def __init__(self, rows: Sequence[Any], name: str, identity: str | None, folder: Path | None) -> None:
        self.table, self.name, self.identity, self.folder = rows, name, identity, folder
        self.chunks = max(1, -(-len(rows) // _CHUNK_ROWS))

    def lines(self, chunk: int) -> int:
        return min(_CHUNK_ROWS, len(self.table) - chunk * _CHUNK_ROWS)

    def rows(self, chunk: int, first_line: int) -> Iterator[Found]:
        first = chunk * _CHUNK_ROWS
        for number in range(first, first + self.lines(chunk)):
            yield Found(number, 0, number + 1, self.table[number])

    def read(self, at: int, length: int, line: int) -> Any:
        return self.table[at]


def open_at_random(source: Source) -> RowAccess:
    """A source whose rows can be read in any order.

    Parquet is converted by `datasets`, once, to Arrow files in its cache folder (``HF_DATASETS_CACHE``).

    Raises:
        ValueError: a format without a way to its rows other than from the start.
    """
    if source.table is not None:
        table = source.table()
        return Table(table, source.name, getattr(table, "_fingerprint", None), None)
    assert source.file is not None
    path = source.file
    if path.suffix in (".jsonl", ".json"):
        return LineFile(path, source.name)
    if path.suffix not in (".parquet", ".arrow"):
        what = "compressed" if path.suffix == ".gz" else f"{path.suffix.removeprefix('.').upper()}"
        todo = f"decompress it (gunzip -k {source.name})" if path.suffix == ".gz" else "convert it to .jsonl"
        raise ValueError(_no_way_in(source.name, what, todo))
    import datasets

    table = datasets.Dataset.from_parquet(str(path)) if path.suffix == ".parquet" else _arrow_table(path)
    return Table(table, source.name, _identity(path), path.parent)


def _arrow_table(path: Path) -> Any:
    """Rows of an Arrow file, memory-mapped, in either of the two formats."""
    import datasets
    import pyarrow

    try:
        return datasets.Dataset.from_file(str(path))
    except pyarrow.ArrowInvalid:
        mapped = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
        return datasets.Dataset(datasets.table.InMemoryTable(mapped))


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


def _no_way_in(name: str, what: str, todo: str) -> str:
    return (
        f"data.streaming: {name} is {what}, whose rows cannot be read in any order. Either {todo}, or leave "
        "data.streaming false"
    )

"""What one pass over a file finds out: where each row of use begins, how many tokens it has, and what is wrong."""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.formats import RowError
from lit_rlhf.data.lengths import sequence_tokens
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.streaming.row_access import RowAccess
from lit_rlhf.data.streaming.row_reader import RowReader
from lit_rlhf.records import Row

TREE = np.dtype([("at", "<i8"), ("length", "<u4"), ("line", "<u4"), ("tokens", "<u4"), ("window", "<u4")])
"""Where a tree's row is found, how many tokens it has, and which window of its row it is: 24 bytes."""
SAID = np.dtype([("hash", "<u8"), ("line", "<u4")])
"""What tells a row's prompt and responses from another's, and its line."""

_SHOWN = 3
_LONGEST = 5


@dataclass
class Measured:
    """What is known of a file, or of so many of its chunks."""

    report: SplitReport = field(default_factory=lambda: SplitReport("train"))
    trees: int = 0
    good: int = 0
    """Rows that can be read, those of no use among them."""
    bad: list[str] = field(default_factory=list)
    """The first rows that cannot be read: place, what was expected, and what was found."""
    content: int = 0
    """A checksum of all tokens."""
    longest: list[tuple[int, int]] = field(default_factory=list)
    """Tokens of the longest sequences, and the trees they are in; the longest first."""
    tells_apart: bool = False
    """Whether some row says of two responses that one is better, or has labels that are of use."""

    def merge(self, other: Measured) -> None:
        """Add what is known of the chunk that follows."""
        longest = [(tokens, self.trees + number) for tokens, number in other.longest]
        self.longest = sorted([*self.longest, *longest], key=lambda found: -found[0])[:_LONGEST]
        self.report.merge(other.report)
        self.trees += other.trees
        self.good += other.good
        self.bad = [*self.bad, *other.bad][:_SHOWN]
        self.content = zlib.crc32(other.content.to_bytes(4, "little"), self.content)
        self.tells_apart |= other.tells_apart


@dataclass
class Chunk:
    """What was found in one chunk of a file."""

    measured: Measured
    trees: NDArray[np.void]
    """Of :data:`TREE`."""
    said: NDArray[np.void]
    """Of :data:`SAID`, a row each."""


def measure_chunk(access: RowAccess, reader: RowReader, chunk: int, first_line: int) -> Chunk:
    """Go through one chunk of a file.

    Args:
        access: The file.
        reader: Makes trees of rows.
        chunk: Its number.
        first_line: Of the chunk, from 1.
    """
    measured = Measured()
    rows: list[Row] = []
    found = {}
    for entry in access.rows(chunk, first_line):
        place = f"{access.name}:{entry.line}"
        try:
            rows.append(reader.row(entry.fields, place))
            found[place] = (entry.at, entry.length, entry.line)
        except RowError as error:
            measured.bad.append(str(error))
    report = measured.report
    report.bad, report.first_bad = len(measured.bad), (measured.bad or [""])[0]
    planted = reader.plant(rows, report)
    measured.trees, measured.good, measured.bad = len(planted.trees), len(rows), measured.bad[:_SHOWN]
    trees = np.empty(len(planted.trees), dtype=TREE)
    lengths = []
    window = 0
    for number, (tree, place) in enumerate(zip(planted.trees, planted.places, strict=True)):
        window = window + 1 if number and place == planted.places[number - 1] else 0
        trees[number] = (*found[place], tree.num_tokens, window)
        lengths.append(sequence_tokens(tree))
        for ids in (tree.prompt_ids, *tree.response_ids):
            measured.content = zlib.crc32(array("q", ids).tobytes(), measured.content)
    measured.longest = [(lengths[place], place) for place in np.argsort(lengths)[::-1][:_LONGEST].tolist()]
    measured.tells_apart = any(
        tree.labels or any(c.target != 0.5 for c in tree.comparisons) for tree in planted.trees
    )
    said = np.array([(_hash(row), found[row.place][2]) for row in rows], dtype=SAID)
    return Chunk(measured, trees, said)


def count_duplicates(said: NDArray[np.void]) -> tuple[int, int]:
    """How many rows say what an earlier one said, and the line of the first of them (0 = none).

    Args:
        said: Of :data:`SAID`, in the file's order; may be memory-mapped, and is gone through by sixteenths.
    """
    count, first = 0, len(said)
    for part in range(16):
        here = np.flatnonzero((said["hash"] >> np.uint64(60)) == part)
        again = np.ones(len(here), dtype=bool)
        again[np.unique(said["hash"][here], return_index=True)[1]] = False
        if again.any():
            count += int(again.sum())
            first = min(first, int(here[again][0]))
    return count, int(said["line"][first]) if count else 0


def _hash(row: Row) -> int:
    text = json.dumps([row.prompt, row.responses], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

"""Trees and rows that stay in their files: read, and made, when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.streaming.row_index import RowIndex
from lit_rlhf.data.streaming.row_reader import RowReader
from lit_rlhf.records import Row, Tree

Item = TypeVar("Item")

LOOKED_AT = 4096
"""Rows of a streamed split that something looks at which looks at all rows of one in memory."""
_READ_AT_ONCE = 512


class Stream:
    """The trees of several files, numbered one after another, of which only the places are held.

    Args:
        indices: Of the files.
        reader: Makes trees of a row; the one that the indices were made with.
    """

    def __init__(self, indices: Sequence[RowIndex], reader: RowReader) -> None:
        self.indices, self.reader = indices, reader
        self._starts = [0, *accumulate(len(index.trees) for index in indices)]

    def __len__(self) -> int:
        return self._starts[-1]

    def sizes(self) -> NDArray[np.int32]:
        """Tokens of each tree, ``[n]``."""
        if not self.indices:
            return np.empty(0, dtype=np.int32)
        return np.concatenate([index.trees["tokens"].astype(np.int32) for index in self.indices])

    def first_windows(self) -> NDArray[np.int64] | None:
        """The trees that are not a further window of a long text, one a row; None where all are."""
        windows = [index.trees["window"] for index in self.indices]
        if not any(numbers.any() for numbers in windows):
            return None
        return np.concatenate([start + np.flatnonzero(n == 0) for start, n in zip(self._starts, windows)])

    def place(self, number: int) -> str:
        """``file:line`` of a tree."""
        index, entry = self._find(number)
        return f"{index.access.name}:{entry['line']}"

    def row(self, number: int) -> Row:
        """The row that a tree was made of."""
        index, entry = self._find(number)
        fields = index.access.read(int(entry["at"]), int(entry["length"]), int(entry["line"]))
        return self.reader.row(fields, f"{index.access.name}:{entry['line']}")

    def planted(self, numbers: Sequence[int]) -> tuple[list[Row], list[Tree]]:
        """Rows, as they are used, and trees, side by side.

        Raises:
            ValueError: a row is not the one that was there when its file was measured.
        """
        rows, trees = [], []
        found = [self._find(number)[1] for number in numbers]
        read = [self._row_as_measured(number) for number in numbers]
        once = list(
            {row.place: row for row in read}.values()
        )  # of a long text several windows may be asked for
        planted = self.reader.plant(once, SplitReport("train"))
        places: dict[str, list[Tree]] = {}
        for tree, place in zip(planted.trees, planted.places, strict=True):
            places.setdefault(place, []).append(tree)
        used = {row.place: row for row in planted.rows}
        for row, entry in zip(read, found, strict=True):
            windows = places.get(row.place, [])
            if len(windows) <= entry["window"] or windows[entry["window"]].num_tokens != entry["tokens"]:
                raise _changed(row.place)
            rows.append(used[row.place])
            trees.append(windows[entry["window"]])
        return rows, trees

    def _row_as_measured(self, number: int) -> Row:
        try:
            return self.row(number)
        except (ValueError, IndexError) as error:
            raise _changed(self.place(number)) from error

    def _find(self, number: int) -> tuple[RowIndex, np.void]:
        if not 0 <= number < len(self):
            raise IndexError(f"expected a tree below {len(self)}, found {number}")
        part = bisect_right(self._starts, number) - 1
        return self.indices[part], self.indices[part].trees[number - self._starts[part]]


class Streamed(Sequence[Item], Generic[Item]):
    """What is read of a stream when it is asked for: its trees, its rows, or their places.

    Args:
        read: Reads items by their numbers.
        length: How many there are.
    """

    def __init__(self, read: Callable[[Sequence[int]], list[Item]], length: int) -> None:
        self.read = read
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return self.read(range(self._length)[place])
        return self.read([range(self._length)[place]])[0]

    def __iter__(self):  # type: ignore[no-untyped-def]  # an iterator of items
        for start in range(0, self._length, _READ_AT_ONCE):
            yield from self.read(range(start, min(start + _READ_AT_ONCE, self._length)))


def looked_at(items: Sequence[Item], most: int = LOOKED_AT) -> Sequence[Item]:
    """All items of a sequence in memory; of a streamed one so many at the most, evenly over its order."""
    if not isinstance(items, Streamed):
        return items
    count = min(most, len(items))
    return items.read([number * len(items) // count for number in range(count)])


def _changed(place: str) -> ValueError:
    return ValueError(
        f"{place}: the row is not what it was when the file was measured. A file must not change while it is "
        "trained on; start again, and it is measured anew"
    )

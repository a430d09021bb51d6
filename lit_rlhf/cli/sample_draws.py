"""Different responses to each of some prompts: what is drawn, what is drawn again, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import torch

from lit_rlhf.cli.sample_policy import Policy
from lit_rlhf.ops.noise import counter_key

FIRST_RESPONSES = 64
"""Drawn together at first; then as many as take the seconds below."""
SECONDS = 20.0
"""Between two writes to the disk, about; the more is drawn together, the fewer rows wait for a window's longest."""


@dataclass(frozen=True)
class Drawn:
    """One response."""

    text: str
    finished: bool
    """An end was drawn before the limit."""


def draw_different(
    policy: Policy,
    prompts: Sequence[list[int]],
    rows: Sequence[int],
    wanted: int,
    tries: int,
    seed: int,
    progress: Callable[[int], None],
) -> list[list[Drawn]]:
    """The first `wanted` different texts among the samples 0, 1, ... of each row, in that order.

    Sample j of row i is drawn with the key (seed, i, j), so it does not depend on the other rows.

    Args:
        policy: what draws.
        prompts: of all rows, in ids.
        rows: the numbers of those that are meant.
        wanted: responses of a row.
        tries: samples of a row at the most; one that runs out of them has fewer responses.
        seed: the first counter.
        progress: told how many more responses are there, of those that are not drawn again.
    """
    found: dict[int, dict[str, Drawn]] = {row: {} for row in rows}
    drawn = dict.fromkeys(rows, 0)
    again = False
    while asked := [
        (row, sample)
        for row in rows
        for sample in range(drawn[row], min(drawn[row] + wanted - len(found[row]), tries))
    ]:
        keys = counter_key(seed, *torch.tensor(asked).unbind(1))
        report = None if again else Increments(progress)
        sampled = policy.draw([prompts[row] for row, _ in asked], keys, report)
        for (row, sample), ids, cut_off in zip(
            asked, sampled.response_ids, sampled.truncated.tolist(), strict=True
        ):
            text = policy.encoder.decode(ids)
            found[row].setdefault(text, Drawn(text, not cut_off))
            drawn[row] = sample + 1
        again = True
    return [list(found[row].values()) for row in rows]


class Increments:
    """Turns "so many of so many" into "so many more"."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress, self._done = progress, 0

    def __call__(self, done: int, _: int) -> None:
        if done > self._done:
            self._progress(done - self._done)
            self._done = done


def windows(first: int, behind: int, responses: int) -> Iterator[range]:
    """Rows from `first` to before `behind` in runs that take about :data:`SECONDS` each, by the pace of the last.

    Args:
        first: a row's number.
        behind: the number after the last.
        responses: of a row.
    """
    size = max(1, FIRST_RESPONSES // responses)
    while first < behind:
        start = monotonic()
        yield range(first, min(first + size, behind))
        first += size
        took = monotonic() - start
        if took < SECONDS / 2:
            size *= 2
        elif took > SECONDS * 2:
            size = max(1, size // 2)

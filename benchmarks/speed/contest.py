"""Who runs against whom, and what a row of the results says of it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.speed.greedy import parted_at_ties
from benchmarks.speed.job import JSON, Job, Measured

Runs = Mapping[str, Sequence[Measured]]
"""By side, one measured process a repeat."""
Key = tuple[str, str, str]
"""Of a row: work, against, size."""
SAME_FACTS = ("prompts", "updates", "response_lengths")
"""What sides say of themselves and have to agree on, where they say it."""


@dataclass(frozen=True)
class Quantity:
    """What is compared.

    Args:
        unit: of both numbers.
        ours: the number out of our side's process.
        theirs: the number out of the other side's.
        more_is_better: whether the ratio is ours over theirs, or theirs over ours.
    """

    unit: str
    ours: Callable[[Measured], float]
    theirs: Callable[[Measured], float]
    more_is_better: bool = True

    def ratio(self, ours: float, theirs: float) -> float:
        """More than 1 where we are better."""
        return ours / theirs if self.more_is_better else theirs / ours


RESPONSE_SPEED = Quantity(
    "response tokens/s", lambda run: run.tokens_per_second, lambda run: run.tokens_per_second
)
SPEED = Quantity("tokens/s", lambda run: run.tokens_per_second, lambda run: run.tokens_per_second)
MEMORY = Quantity("MB", lambda run: run.peak_mb, lambda run: run.peak_mb, more_is_better=False)
STEP = Quantity("ms/step", lambda run: run.ms_per_step, lambda run: run.ms_per_step, more_is_better=False)
PEAK_SHARE = Quantity(
    "GFLOP/s",
    lambda run: float(run.facts["useful_flops_per_second"]) / 1e9,
    lambda run: float(run.facts["peak_flops_per_second"]) / 1e9,
)


BANDWIDTH_SHARE = Quantity(
    "GB/s",
    lambda run: float(run.facts["decode_bytes_per_second"]) / 1e9,
    lambda run: float(run.facts["copy_bytes_per_second"]) / 1e9,
)
ROW_TOKENS = (
    "real tokens per second: a prompt counts for each of its responses on both sides, as in padded rows, and padding "
    "does not count"
)
"""How to read :data:`SPEED`."""


@dataclass(frozen=True)
class Line:
    """One row of the results to be.

    Args:
        work: what is done.
        against: what ours is compared with.
        ours: our side of the contest.
        theirs: the other side.
        quantity: what is compared.
        note: how to read it, for the conditions.
        extra: more for the conditions, from the runs.
    """

    work: str
    against: str
    ours: str
    theirs: str
    quantity: Quantity = SPEED
    note: str = ""
    extra: Callable[[Runs], JSON] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.work, self.against


@dataclass(frozen=True)
class Contest:
    """Sides that take turns on one machine, and the rows that come out.

    Args:
        sides: the process of each side, without its seed: each repeat has rows and weights of its own.
        lines: the rows.
        lengths: of prompts and responses, in words, for the conditions.
        same_batches: the sides see the same rows in every step, so that tokens must be the same number.
        loss_within: how far apart the first losses of the sides may be.
        kl_within: nats a response that a policy may seem to be from where it started, before its first update.
        unchecked: sides whose first step sees other rows than the others', so that their loss may be another.
    """

    sides: Mapping[str, Job]
    lines: Sequence[Line]
    lengths: str
    same_batches: bool = True
    loss_within: float = 1e-3
    kl_within: float = 1e-3
    unchecked: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.lines[0].work

    @property
    def label(self) -> str:
        """No other contest has the same."""
        return f"{self.name}, size {self.sides[self.lines[0].ours].size}"

    @property
    def keys(self) -> list[Key]:
        """Of the rows."""
        return [(*line.key, self.sides[line.ours].size) for line in self.lines]

    def check(self, runs: Mapping[str, Measured]) -> None:
        """Hold one repeat's sides to have trained the same model on the same rows.

        Raises:
            RuntimeError: they have not, so that the numbers would compare different things.
        """
        tokens = {side: run.tokens for side, run in runs.items()}
        if self.same_batches and len(set(tokens.values())) > 1:
            raise RuntimeError(f"{self.label}: expected the same tokens on all sides, found {tokens}")
        losses = {
            side: run.first_loss
            for side, run in runs.items()
            if side not in self.unchecked and run.first_loss is not None
        }
        if losses and max(losses.values()) - min(losses.values()) > self.loss_within:
            raise RuntimeError(
                f"{self.label}: expected first losses within {self.loss_within} of each other, found {losses}; "
                "the sides do not compute the same thing"
            )
        for name in SAME_FACTS:
            said = {side: run.facts[name] for side, run in runs.items() if name in run.facts}
            if any(each != next(iter(said.values())) for each in said.values()):
                raise RuntimeError(f"{self.label}: expected the same {name} on all sides, found {said}")
        for side, other in itertools.combinations(
            [side for side in runs if "greedy_tokens" in runs[side].facts], 2
        ):
            try:
                parted_at_ties(runs[side], runs[other])
            except ValueError as error:
                raise RuntimeError(f"{self.label}, {side} and {other}: {error}") from error
        for side, run in runs.items():
            if abs(run.facts.get("first_kl") or 0.0) > self.kl_within:
                raise RuntimeError(
                    f"{self.label}: expected no KL before the first update, found {run.facts['first_kl']} ({side})"
                )


def result_row(line: Line, size: str, runs: Runs, conditions: JSON) -> JSON:
    """A row of the results: medians over the repeats, and the least and largest ratio of a repeat.

    The ratio is that of the medians; it always lies within the spread.
    """
    quantity = line.quantity
    ours = [quantity.ours(run) for run in runs[line.ours]]
    theirs = [quantity.theirs(run) for run in runs[line.theirs]]
    ratios = [quantity.ratio(*both) for both in zip(ours, theirs, strict=True)]
    middle = statistics.median(ours), statistics.median(theirs)
    return {
        "work": line.work,
        "size": size,
        "against": line.against,
        "ours": _rounded(middle[0]),
        "theirs": _rounded(middle[1]),
        "ratio": _rounded(quantity.ratio(*middle)),
        "unit": quantity.unit,
        "repeats": len(ratios),
        "spread": [_rounded(min(ratios)), _rounded(max(ratios))],
        "conditions": {
            **conditions,
            **({"note": line.note} if line.note else {}),
            **(line.extra(runs) if line.extra else {}),
            "each_repeat": {"ours": list(map(_rounded, ours)), "theirs": list(map(_rounded, theirs))},
        },
    }


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")

"""Time and memory as the work grows, measured point by point on one thread, and the exponent of each line."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from benchmarks.scale import networks
from benchmarks.scale.launch import run_ranks
from benchmarks.scale.runs import prompts
from benchmarks.speed import rows as random_rows
from benchmarks.speed import run_ours, run_ours_ppo
from benchmarks.speed.iterations import Iterations
from benchmarks.speed.job import Job
from benchmarks.speed.meter import Meter

LADDER = {
    f"{hidden}x{layers}": {
        **{"hidden": hidden, "layers": layers, "heads": hidden // 32},
        **{"intermediate": hidden * 11 // 4, "vocabulary": 512},
    }
    for hidden, layers in ((64, 2), (128, 3), (192, 4), (256, 6), (384, 8), (512, 10))
}
"""Llamas from 0.2 to 33 million parameters."""


@dataclass(frozen=True)
class Axis:
    """What grows, and what the work is then.

    Args:
        name: of the work.
        grows: what the numbers count.
        jobs: by number.
        floor: next to nothing of the same, whose memory is taken off that of the others: what every step needs.
        largest_quick: numbers above are left out with ``--quick``.
        expected: the exponent of time that the arithmetic tends to, in words.
    """

    name: str
    grows: str
    jobs: dict[int, Job]
    floor: Job
    largest_quick: int
    expected: str

    def points(self, quick: bool) -> dict[int, Job]:
        """Those to measure."""
        return {number: job for number, job in self.jobs.items() if not quick or number <= self.largest_quick}


LEAST: dict[str, Any] = {"batch": 1, "prompt": 4, "response": 4}
LEAST_DRAWN: dict[str, Any] = {"batch": 1, "prompt": 4, "lengths": (4, 4)}


def _comparisons(**changes: Any) -> Job:
    job = Job("dpo", "ours", "A", 128, 32, batch=2, jitter=0.0, warm=1, steps=2)
    return replace(job, **changes)


def _iteration(**changes: Any) -> Job:
    job = Job("ppo", "ours", "A", 32, responses=1, lengths=(32, 32), batch=8, epochs=1, jitter=0.0, steps=1)
    job = replace(job, **changes)
    return replace(job, microbatch=job.batch * job.responses)


def parameters(size: str) -> int:
    """Of a language model of that size."""
    return networks.policy({**random_rows.SIZES, **LADDER}[size]).numel


AXES = (
    Axis(
        "dpo rows",
        "pairs of a step",
        {n: _comparisons(batch=n) for n in (1, 2, 4, 8, 16, 32, 64)},
        _comparisons(**LEAST),
        8,
        "1",
    ),
    Axis(
        "dpo length",
        "tokens of a prompt with two responses of a quarter of it",
        {6 * n: _comparisons(batch=1, prompt=4 * n, response=n) for n in (16, 32, 64, 128, 256, 512, 1024)},
        _comparisons(**LEAST),
        400,
        "1, and 2 where attention is most of it",
    ),
    Axis(
        "reward K",
        "responses to a prompt",
        {
            n: _comparisons(phase="reward", batch=1, prompt=256, responses=n)
            for n in (2, 4, 8, 16, 32, 64, 128)
        },
        _comparisons(phase="reward", **LEAST),
        8,
        "less than 1: the prompt is computed once",
    ),
    Axis(
        "dpo size",
        "parameters",
        {parameters(size): _comparisons(size=size) for size in LADDER},
        _comparisons(size="tiny", **LEAST),
        4_000_000,
        "1",
    ),
    Axis(
        "ppo rows",
        "prompts of an iteration",
        {n: _iteration(batch=n) for n in (2, 4, 8, 16, 32, 64)},
        _iteration(**LEAST_DRAWN),
        8,
        "1; decoding less, whose steps are the same number",
    ),
    Axis(
        "ppo length",
        "new tokens of a response",
        {n: _iteration(lengths=(n, n)) for n in (16, 32, 64, 128, 256, 512)},
        _iteration(**LEAST_DRAWN),
        64,
        "1, and 2 where attention is most of it",
    ),
    Axis(
        "ppo K",
        "samples of a prompt",
        {n: _iteration(prompt=128, batch=4, responses=n) for n in (1, 2, 4, 8, 16, 32)},
        _iteration(**LEAST_DRAWN),
        4,
        "less than 1: the prompt is computed once",
    ),
)


@dataclass(frozen=True)
class Point:
    """One measured size."""

    number: int
    seconds: float
    """CPU seconds of a step, or of an iteration."""
    megabytes: float
    """Most memory above that of the imports, of 2^20 bytes."""


def measure(number: int, job: Job) -> Point:
    """Run it in a process of its own, forked from this one, which holds nothing but what it has imported."""
    (found,) = run_ranks(_measure_here, 1, job)
    return Point(number, *found)


def _measure_here(job: Job) -> tuple[float, float]:
    run_ours.quiet()
    transformers.utils.logging.disable_progress_bar()
    random_rows.SIZES.update(LADDER)  # of this process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        meter = _ppo(job, folder) if job.phase == "ppo" else _fit(job, folder)
        measured = meter.measured()
    return measured.seconds / measured.steps, measured.peak_mb


def _fit(job: Job, folder: Path) -> Meter:
    meter = Meter(job)
    module = run_ours.make_module(job, folder)
    trainer = run_ours.make_trainer(job, meter, folder)
    trainer.fit(module, run_ours.make_loader(job, meter))
    return meter


def _ppo(job: Job, folder: Path) -> Meter:
    seen = Iterations(job)
    module = run_ours_ppo.make_module(job, folder)
    watch = run_ours_ppo.Watch(seen)
    run_ours_ppo.watch_parts(module, watch)
    trainer = run_ours_ppo.make_trainer(job, watch, folder)
    trainer.fit(module, module.rollout_loader(prompts(job), batch_size=job.batch))
    return seen.meter


@dataclass(frozen=True)
class Line:
    """log y = exponent · log x + constant, by least squares."""

    exponent: float
    error: float
    """Standard error of the exponent."""
    last: float
    """The exponent between the two largest points."""


def fit(numbers: Sequence[float], values: Sequence[float]) -> Line:
    """The line through the points.

    Raises:
        ValueError: fewer than three points, or one that has no logarithm.
    """
    if len(numbers) < 3 or min(*numbers, *values) <= 0:
        raise ValueError(
            f"expected three points or more, all above 0, found {list(zip(numbers, values, strict=True))}"
        )
    x, y = [math.log(number) for number in numbers], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / spread
    left = sum((other - mean_y - slope * (one - mean_x)) ** 2 for one, other in zip(x, y, strict=True))
    error = math.sqrt(left / (len(x) - 2) / spread)
    return Line(slope, error, (y[-1] - y[-2]) / (x[-1] - x[-2]))


def quantities(points: Sequence[Point], floor: Point) -> dict[str, tuple[str, list[float]]]:
    """By quantity: its unit, and a value for each point. Memory is without that of next to nothing."""
    return {
        "time": ("CPU s a step", [point.seconds for point in points]),
        "memory": ("MB", [point.megabytes - floor.megabytes for point in points]),
    }

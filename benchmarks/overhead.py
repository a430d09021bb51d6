"""What a training step costs beside network, loss and optimizer: ``python -m benchmarks.overhead --out FILE.json``."""

from __future__ import annotations

import statistics
from dataclasses import replace

from benchmarks.speed.compare import main
from benchmarks.speed.contest import STEP, Contest, Line, Runs
from benchmarks.speed.job import JSON, Job

STEPS, WARM = 600, 100
LOG_EVERY = 10
"""Steps, as in the shipped configs."""
NOTE = (
    "a reward model's step in Lightning's trainer with its TensorBoard logger, train/loss and four rewards/* logged "
    f"every {LOG_EVERY} steps, against a bare loop of the same network, loss, clipping and optimizer on the same loader"
)


def contests(size: str) -> list[Contest]:
    """A network that costs next to nothing; its size is the same for every `size`."""
    del size
    ours = Job("reward", "ours", "tiny", prompt=8, response=8, jitter=0.0, batch=1, warm=WARM, steps=STEPS)
    return [
        Contest(
            {
                "ours": replace(ours, log_every=LOG_EVERY),
                "raw loop": replace(ours, program="raw"),
                "ours, every step logged": replace(ours, log_every=1),
            },
            [Line("overhead", "raw loop", "ours", "raw loop", STEP, note=NOTE, extra=differences)],
            lengths="one pair a step: two rows of 16 tokens",
        )
    ]


def differences(runs: Runs) -> JSON:
    """Milliseconds a step over the raw loop, of the medians and repeat by repeat."""
    raw, ours, every = (
        [run.ms_per_step for run in runs[side]] for side in ("raw loop", "ours", "ours, every step logged")
    )
    return {
        "overhead_ms": round(statistics.median(ours) - statistics.median(raw), 3),
        "overhead_ms_each_repeat": [round(one - other, 3) for one, other in zip(ours, raw, strict=True)],
        "overhead_ms_every_step_logged": round(statistics.median(every) - statistics.median(raw), 3),
        "logged": runs["ours"][0].facts["logged"],
    }


if __name__ == "__main__":
    main("overhead", contests, "Milliseconds that a trainer adds to a bare step.")

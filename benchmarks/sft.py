"""Supervised fine-tuning against TRL's SFTTrainer, packed and padded: ``python -m benchmarks.sft --out FILE.json``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.speed.compare import main
from benchmarks.speed.contest import Contest, Line
from benchmarks.speed.job import Job

BATCH, MEAN, LARGEST = 8, 160, 512
NOTE = (
    "tokens/s of real tokens; both sides go through the same rows once, ours packed to about as many tokens a step as "
    "the other side's. The first loss is that of the padded side's first step"
)


def contests(size: str) -> list[Contest]:
    """Lengths that fill padded batches of eight to about a third."""
    trl = Job("sft", "trl", size, lengths=(MEAN, LARGEST), batch=BATCH, steps=5)
    ours = replace(trl, program="ours")
    return [
        Contest(
            {
                "packed to trl's packed step": replace(ours, max_tokens=BATCH * MEAN // LARGEST * LARGEST),
                "packed to trl's padded step": replace(ours, max_tokens=BATCH * MEAN),
                "trl packed": replace(trl, packed=True),
                "trl padded": trl,
            },
            [
                Line("sft third full", "trl packed", "packed to trl's packed step", "trl packed", note=NOTE),
                Line("sft third full", "trl padded", "packed to trl's padded step", "trl padded", note=NOTE),
            ],
            lengths=f"lognormal, mean {MEAN}, sigma 0.8, 16 to {LARGEST} tokens; a third prompt, the rest response",
            same_batches=False,
            unchecked=("trl packed",),
        )
    ]


if __name__ == "__main__":
    main("sft", contests, "Supervised fine-tuning on short and long rows: tokens per second against TRL.")

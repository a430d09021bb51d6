"""Sampling against transformers' `generate`: ``python -m benchmarks.rollout --out FILE.json``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.speed.compare import main
from benchmarks.speed.contest import RESPONSE_SPEED, Contest, Line
from benchmarks.speed.job import Job

HEAVY_TAIL = {"A": 64, "B": 32}
"""By size: prompts."""
TAIL = (32, 128)
"""Mean and largest number of new tokens."""
EQUAL = {"A": (32, 64), "B": (16, 48)}
"""By size: prompts and new tokens."""
SAMPLES = {"A": 6, "B": 3}
"""By size: prompts of 8 responses each."""
PROMPT, SAMPLED_PROMPT, SAMPLED_RESPONSE = 64, 256, 32
NOTE = (
    "new tokens per second, prefill included; `generate` has all rows in one batch, padded on the left, and runs until "
    "the longest is done; ours gives the log-probability of each token too"
)
GREEDY = (
    f"{NOTE}. Greedy on both sides, each response to a length of its own; the tokens of both are the same"
)
SAMPLED = (
    f"{NOTE}. Drawn at temperature 1, all responses of the same length; the greedy tokens of the warm-up, which both "
    "sides make first, are the same"
)


def contests(size: str) -> list[Contest]:
    """Both sizes; A alone where that is the largest."""
    sizes = ["A"] if size == "A" else ["A", "B"]
    return [make(each) for make in (heavy_tail, equal_lengths, samples) for each in sizes]


def heavy_tail(size: str) -> Contest:
    """Lognormal lengths whose mean is a quarter of the longest; prompt lengths differ too."""
    prompts, (mean, largest) = HEAVY_TAIL[size], TAIL
    job = Job(
        "rollout", "ours", size, PROMPT, responses=1, batch=prompts, lengths=TAIL, jitter=0.5, greedy=True
    )
    return against_generate(
        "heavy tail",
        job,
        GREEDY,
        f"{prompts} prompts of {PROMPT} tokens ± 50 %; responses lognormal, σ 1, mean {mean}, 4 to {largest}",
    )


def equal_lengths(size: str) -> Contest:
    """Every prompt as long as every other, and every response: nothing to compact."""
    prompts, length = EQUAL[size]
    job = Job(
        "rollout",
        "ours",
        size,
        PROMPT,
        responses=1,
        batch=prompts,
        lengths=(length, length),
        jitter=0.0,
        greedy=True,
    )
    return against_generate(
        "equal lengths", job, GREEDY, f"{prompts} prompts of {PROMPT} tokens; responses of {length}"
    )


def samples(size: str) -> Contest:
    """Eight samples of each prompt, which is eight times as long as they are."""
    prompts, length = SAMPLES[size], SAMPLED_RESPONSE
    job = Job(
        "rollout",
        "ours",
        size,
        SAMPLED_PROMPT,
        responses=8,
        batch=prompts,
        lengths=(length, length),
        jitter=0.0,
    )
    return against_generate(
        "n=8",
        job,
        SAMPLED,
        f"{prompts} prompts of {SAMPLED_PROMPT} tokens; 8 responses of {length} to each",
    )


def against_generate(work: str, job: Job, note: str, lengths: str) -> Contest:
    return Contest(
        {"ours": job, "generate": replace(job, program="generate")},
        [Line(work, "generate", "ours", "generate", RESPONSE_SPEED, note=note)],
        lengths=lengths,
    )


if __name__ == "__main__":
    main("rollout", contests, "Sampling: new tokens per second against transformers' generate.")

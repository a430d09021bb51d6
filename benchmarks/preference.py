"""DPO against TRL's DPOTrainer: ``python -m benchmarks.preference --out FILE.json``."""

from __future__ import annotations

from benchmarks.speed.compare import main
from benchmarks.speed.contest import MEMORY, PEAK_SHARE, ROW_TOKENS, Contest, Line
from benchmarks.speed.job import Job

RESPONSE = 128
RESIDENT = (
    "peak resident memory above what the imports hold, each side in a process of its own; MB of 2^20 bytes"
)
USEFUL = (
    "useful FLOP: each distinct token once, the head at response positions; policy forward and backward 3, reference "
    "forward 1. Against the best rate of several large multiplications behind the timed steps in the same process"
)


def contests(size: str) -> list[Contest]:
    """Prompt to response 1:1, 4:1 and 8:1, two pairs a step."""
    return [dpo(size, 1, steps=5), dpo(size, 4, steps=3), dpo(size, 8, steps=2)]


def dpo(size: str, times: int, steps: int) -> Contest:
    """Prompts `times` as long as responses; both sides see the same pairs in the same steps."""
    work = f"dpo {times}:1"
    job = Job("dpo", "ours", size, times * RESPONSE, RESPONSE, steps=steps, with_peak=times == 4)
    lines = [Line(work, "trl", "ours", "trl", note=ROW_TOKENS)]
    if times == 4:
        lines += [
            Line(f"{work} memory", "trl", "ours", "trl", MEMORY, note=RESIDENT),
            Line(f"{work} peak share", "gemm peak", "ours", "ours", PEAK_SHARE, note=USEFUL),
        ]
    return Contest(
        {"ours": job, "trl": Job("dpo", "trl", size, times * RESPONSE, RESPONSE, steps=steps)},
        lines,
        lengths=f"prompts {times * RESPONSE}, responses {RESPONSE} tokens on average, ± 30 %",
    )


if __name__ == "__main__":
    main("preference", contests, "DPO: tokens per second, peak memory and share of the peak, against TRL.")

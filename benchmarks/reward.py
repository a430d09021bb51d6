"""Reward models against TRL's RewardTrainer and padded rows: ``python -m benchmarks.reward --out FILE.json``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.speed.compare import main
from benchmarks.speed.contest import ROW_TOKENS, STEP, Contest, Line
from benchmarks.speed.job import Job

PAIR_RESPONSE, RANKING_RESPONSE = 128, 64
SAME_WORK = "both sides train on the same comparisons in the same steps through the same module"


def contests(size: str) -> list[Contest]:
    """Pairs against TRL; rankings of 4 and 8 against our own padded rows."""
    return [
        pairs(size, 1, steps=6),
        pairs(size, 4, steps=4),
        rankings(size, responses=4, times=4, steps=2, pair_rows=True),
        rankings(size, responses=8, times=8, steps=2),
    ]


def pairs(size: str, times: int, steps: int) -> Contest:
    """Two pairs a step, the same on both sides."""
    ours = Job("reward", "ours", size, times * PAIR_RESPONSE, PAIR_RESPONSE, steps=steps)
    return Contest(
        {"ours": ours, "trl": replace(ours, program="trl")},
        [Line(f"reward pairs {times}:1", "trl", "ours", "trl", note=ROW_TOKENS)],
        lengths=f"prompts {times * PAIR_RESPONSE}, responses {PAIR_RESPONSE} tokens on average, ± 30 %",
    )


def rankings(size: str, responses: int, times: int, steps: int, pair_rows: bool = False) -> Contest:
    """Two prompts a step, all comparisons of their K responses.

    `k rows` computes K padded rows a prompt, `pair rows` two for each of the K(K-1)/2 comparisons; a prompt weighs
    the same in all three, so they have the same loss.
    """
    work = f"reward k={responses} {times}:1"
    prompt = times * RANKING_RESPONSE
    ours = Job("reward", "ours", size, prompt, RANKING_RESPONSE, responses=responses, steps=steps)
    sides = {"ours": ours, "k rows": replace(ours, attention="padded")}
    lines = [Line(work, "k rows", "ours", "k rows", STEP, note=SAME_WORK)]
    if pair_rows:
        sides["pair rows"] = replace(ours, attention="padded", as_pairs=True)
        lines.insert(0, Line(work, "pair rows", "ours", "pair rows", STEP, note=SAME_WORK))
    return Contest(
        sides,
        lines,
        lengths=f"prompts {prompt}, responses {RANKING_RESPONSE} tokens on average, ± 30 %; 2 prompts a step",
        same_batches=False,
    )


if __name__ == "__main__":
    main("reward", contests, "Reward models: pairs against TRL, rankings against padded rows.")

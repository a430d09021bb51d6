"""Whether two sides came to the same greedy tokens, but for a tie that rounding may break either way."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.job import Measured

MARGIN = 1e-4
"""Logits this close are a tie."""
ROWS_A_TIE = 64
"""One response of so many may part from its twin at a tie."""
Tie = tuple[int, int, int, int]
"""Response, step, and the two tokens."""


def near_ties(model: Any, prompts: list[list[int]], responses: list[list[int]]) -> list[Tie]:
    """Where the two likeliest tokens of a fresh forward are nearly as likely as each other."""
    import torch

    ties = []
    with torch.no_grad():
        for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            ids = torch.tensor([prompt + response[:-1]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()
            values, tokens = logits.topk(2)
            for step in (values[:, 0] - values[:, 1] < MARGIN).nonzero().flatten().tolist():
                ties.append((number, step, *tokens[step].tolist()))
    return ties


def parted_at_ties(one: Measured, other: Measured) -> list[int]:
    """Numbers of the greedy responses that differ between two sides, each from a tie on.

    Raises:
        ValueError: a response differs where there is no tie, or too many do.
    """
    ties = {
        (tie[0], tie[1], frozenset(tie[2:])) for run in (one, other) for tie in run.facts.get("near_ties", [])
    }
    both = list(zip(one.facts["greedy_tokens"], other.facts["greedy_tokens"], strict=True))
    parted = []
    for number, (first, second) in enumerate(both):
        if first == second:
            continue
        step = next((at for at, pair in enumerate(zip(first, second)) if pair[0] != pair[1]), None)
        if step is None or (number, step, frozenset((first[step], second[step]))) not in ties:
            raise ValueError(
                f"greedy response {number} parts at step {step}, where no two logits are within {MARGIN:g}"
            )
        parted.append(number)
    # the same response to the same prompt, given several times, parts once
    distinct = {(tuple(both[number][0]), tuple(both[number][1])) for number in parted}
    if len(distinct) * ROWS_A_TIE > max(len(both), ROWS_A_TIE):
        raise ValueError(f"{len(distinct)} of {len(both)} greedy responses part, though each at a tie")
    return parted

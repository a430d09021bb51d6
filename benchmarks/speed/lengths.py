"""How long sampled responses are: drawn once, and kept to by the samplers of every side."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.speed.job import Job

SIGMA = 1.0
"""Of the logarithm of a rollout's lengths."""
LEAST = 4
"""Tokens of a rollout's shortest responses."""


def response_limits(job: Job) -> list[list[int]]:
    """New tokens of every response, for each iteration, the warm-up's among them.

    Rollouts have a heavy tail, PPO and GRPO the lengths of a policy that ends with the same probability at every step;
    where mean and largest length are the same, every response has it.
    """
    draw, count = random.Random(job.seed), job.batch * job.responses
    mean, largest = job.lengths
    kind = heavy_tail if job.phase == "rollout" else geometric
    return [
        [largest] * count if mean == largest else kind(draw, count, mean, largest)
        for _ in range(job.warm + job.steps)
    ]


def heavy_tail(draw: random.Random, count: int, mean: int, largest: int) -> list[int]:
    """Lognormal lengths, the first of them the largest, the others scaled until the mean is this."""
    shape = [draw.lognormvariate(0.0, SIGMA) for _ in range(count - 1)]
    wanted = count * mean - largest

    def scaled(scale: float) -> list[int]:
        return [int(min(largest, max(LEAST, scale * each))) for each in shape]

    low, high = 0.0, 100.0 * largest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(scaled(middle)) <= wanted else (low, middle)
    return [largest, *scaled(low)]


def geometric(draw: random.Random, count: int, mean: int, largest: int) -> list[int]:
    """Lengths of responses that end with probability 1 / `mean` at every step, cut at the largest."""
    stay = math.log1p(-1 / mean)
    return [min(largest, 1 + int(math.log(1 - draw.random()) / stay)) for _ in range(count)]


class Limits(StoppingCriteria):
    """Ends each row of `generate` at a length of its own.

    Args:
        limits: new tokens of each row.
        width: of the padded prompts.
    """

    def __init__(self, limits: list[int], width: int) -> None:
        self.limits, self.width = torch.tensor(limits), width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> Any:
        limits = self.limits.to(input_ids.device)
        return input_ids.shape[1] - self.width >= limits


def keep_to(model: Any, job: Job) -> None:
    """Let each call of the model's `generate` end its rows at the job's next limits, and run as training does."""
    generate: Callable[..., Any] = model.generate
    each = iter(response_limits(job))

    def limited(input_ids: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        stops = StoppingCriteriaList([Limits(next(each), input_ids.shape[1])])
        # a trainer's autocast is around its forward, and this is another way in
        with torch.autocast(job.device, torch.bfloat16, enabled=job.bf16):
            return generate(input_ids, *arguments, stopping_criteria=stops, **more)

    model.generate = limited

"""Every phase gives on several ranks what one process gives: rows, lengths and last batches uneven, clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.ranks.conftest import Fit
from tests.ranks.phases import ADAMW, PHASES, SGD
from tests.ranks.same import TOLERANCE, losses_differ, moved, numbers_that_differ, weights_differ

Alone = Callable[..., Any]

ALWAYS = {
    ("sft", "fsdp2"), ("sft", "ddp"), ("reward on rankings", "fsdp2"), ("dpo", "fsdp2"),
    ("ppo, critic from reward", "fsdp2"), ("ppo", "ddp"), ("online dpo, annotator", "ddp"),
}  # fmt: skip
"""What runs with every `make test`."""
SMALLER_STEPS = {
    phase: ["--model.optimizer.lr", "0.02"] for phase in ("grpo", "raft", "best of n", "reward-weighted")
}
"""Unclipped, larger ones run away through the exponential of k3, or with losses that are sums over whole responses, and
rounding with them."""


def combinations(ranks: int) -> list[Any]:
    return [
        pytest.param(
            phase,
            ranks,
            strategy,
            marks=[] if ranks == 2 and (phase, strategy) in ALWAYS else pytest.mark.slow,
        )
        for phase in PHASES
        for strategy in ("ddp", "fsdp2")
    ]


@pytest.mark.parametrize(("phase", "ranks", "strategy"), combinations(2) + combinations(4))
def test_weights_under_gradient_descent(
    fit: Fit, alone: Alone, phase: str, ranks: int, strategy: str
) -> None:
    # clipped gradients have one size, whatever they were divided by
    words = [*PHASES[phase], *SGD, *SMALLER_STEPS.get(phase, []), "--trainer.gradient_clip_val", "null"]
    single, several = alone(words), fit(words, ranks, strategy)
    assert moved(single) > 100 * TOLERANCE
    assert weights_differ(several, single) < TOLERANCE
    assert losses_differ(several, single) < TOLERANCE
    assert numbers_that_differ(several, single) == {}


@pytest.mark.parametrize(
    ("phase", "strategy", "algorithm"),
    [
        ("sft", "fsdp2", "norm"),
        *(
            pytest.param(phase, strategy, algorithm, marks=pytest.mark.slow)
            for phase, strategy, algorithm in (
                ("sft", "ddp", "norm"),
                ("sft", "fsdp2", "value"),
                ("reward on rankings", "fsdp2", "norm"),
                ("dpo", "fsdp2", "norm"),
                ("ppo, critic from reward", "fsdp2", "norm"),
                ("ppo, shared critic", "ddp", "norm"),
            )
        ),
    ],
)
def test_clipping_goes_by_the_gradient_of_all_ranks(
    fit: Fit, alone: Alone, phase: str, strategy: str, algorithm: str
) -> None:
    words = [*PHASES[phase], *SGD, "--trainer.gradient_clip_algorithm", algorithm]
    limit = "0.1" if algorithm == "norm" else "0.001"
    single, several = (
        begin([*words, "--trainer.gradient_clip_val", limit], *place)
        for begin, place in ((alone, ()), (fit, (2, strategy)))
    )
    free = alone([*PHASES[phase], *SGD, "--trainer.gradient_clip_val", "null"])
    assert weights_differ(single, free) > 10 * TOLERANCE
    assert weights_differ(several, single) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "ranks", "strategy"),
    [(phase, 2, strategy) for phase in PHASES for strategy in ("ddp", "fsdp2")],
)
def test_losses_under_adamw(fit: Fit, alone: Alone, phase: str, ranks: int, strategy: str) -> None:
    words = [*PHASES[phase], *ADAMW]
    assert losses_differ(fit(words, ranks, strategy), alone(words)) < TOLERANCE

"""Kill -9 a real fit of PPO at any moment, continue it, and nobody can tell."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from benchmarks.kills import Kill
from benchmarks.resume import VARIANTS, draw_kills
from tests.resume.conftest import Undisturbed

Make = Callable[[str, int], Undisturbed]
BY_ITERATION, BY_UPDATE = VARIANTS


def test_the_run_leaves_what_is_compared(undisturbed: Make) -> None:
    """Else two runs would be equal for want of anything that could differ."""
    run = undisturbed(BY_UPDATE, 1)
    assert [step for step, _ in run.outcome.series["train/loss"]] == list(range(16))
    assert [step for step, _ in run.outcome.series["objective/kl"]] == [3, 7, 11, 15]
    assert [step for step, _ in run.outcome.series["samples/text_summary"]] == [3, 7, 11, 15]
    for name in ("export/model.safetensors", "last.ckpt/ppo/kl_coef", "last.ckpt/ppo/score_moments/0"):
        assert name in run.outcome.weights
    assert run.outcome.metrics["step"] == 16
    assert run.ended.counts["save"] > 0 and run.ended.counts["rollout"] > 0


def test_two_kills_of_one_run(undisturbed: Make) -> None:
    """Within the writing of a checkpoint that is not the first, and, going on from there, within an update."""
    run = undisturbed(BY_UPDATE, 1)
    tried = run.killed(Kill("save", run.ended.counts["save"] // 3), Kill("update", 5))
    assert tried.hit == ["save", "update"]
    assert tried.differences == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", [BY_ITERATION, BY_UPDATE])
def test_ten_kills_at_random(undisturbed: Make, variant: str) -> None:
    run = undisturbed(variant, 1)
    generator, hits = random.Random(5), 0
    while hits < 10:
        tried = run.killed(*draw_kills(generator, run.ended))
        assert tried.differences == [], tried
        hits += len(tried.hit)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [BY_ITERATION, BY_UPDATE])
def test_two_processes(undisturbed: Make, variant: str) -> None:
    """One of the two is killed, and then the other; each time both end, and both go on together."""
    run = undisturbed(variant, 2)
    tried = run.killed(Kill("save", run.ended.counts["save"] // 2), Kill("rollout", 8))
    assert tried.hit == ["save", "rollout"]
    assert tried.differences == []

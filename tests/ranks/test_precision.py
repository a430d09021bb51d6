"""Every precision runs on several ranks, and learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ranks.conftest import Fit
from tests.ranks.phases import ADAMW, DPO, PAIRS, PPO, REWARD, SFT
from tests.ranks.same import losses_differ

ALL = {
    "sft": SFT,
    "reward": [*REWARD, *PAIRS],
    "dpo": DPO,
    "ppo": [*PPO, "--model.reward", "reward", "--model.critic", "reward"],
}
NEAR = {"bf16-mixed": 0.1, "16-mixed": 0.1, "bf16-true": 0.2}
"""How far a loss may be from that of one process in the same precision; gradients are summed in another order."""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
@pytest.mark.parametrize("phase", ALL)
def test_runs_and_learns(here: Path, fit: Fit, phase: str, precision: str, strategy: str) -> None:
    words = [*ALL[phase], *ADAMW, "--trainer.precision", precision]
    several = fit(words, 2, strategy)
    if phase != "ppo":  # whose responses are others in another rounding
        assert losses_differ(several, fit(words)) < NEAR[precision]
    if precision == "16-mixed":
        assert "fp16 is not supported on CPU. Using `precision='bf16-mixed'` instead" in several.outputs[0]

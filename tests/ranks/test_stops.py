"""One rank is killed or asked to stop: all end, they say why, and the run goes on as if nothing had been."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ranks.conftest import Fit
from tests.ranks.faults import Moment, killed, signalled
from tests.ranks.phases import ADAMW, DPO, PPO, QUIET, SFT
from tests.ranks.runs import Run, run
from tests.ranks.same import TOLERANCE, losses_differ, weights_differ

Alone = Callable[..., Any]

ENDS_WITHIN = 120.0
"""Seconds; torch's own patience with a silent rank is half an hour."""

WORDS = {
    "sft": [*SFT, *ADAMW],
    "dpo": [*DPO, *ADAMW],
    "ppo": [
        *PPO, *ADAMW, "--model.reference", "{decay: 0.9}", "--model.kl_target", "0.5", "--model.kl_horizon", "20",
        "--model.shaping", "{scale: std}",
    ],
}  # fmt: skip
"""PPO with all that it keeps beside its weights."""


def goes_on(words: list[str], folder: Path, ranks: int, strategy: str, single: Run) -> None:
    """Continued on so many ranks the run ends as the one that nobody disturbed."""
    again = run(["fit", *words, *QUIET, "--ckpt_path", "last"], folder, ranks, strategy).went_well()
    assert losses_differ(again, single) < TOLERANCE
    assert weights_differ(again, single) < TOLERANCE


@pytest.mark.parametrize(
    ("phase", "strategy", "rank", "continued"),
    [
        ("sft", "fsdp2", 1, (1, "auto")),
        pytest.param("sft", "ddp", 1, (2, "fsdp2"), marks=pytest.mark.slow),
        pytest.param("sft", "fsdp2", 0, (4, "ddp"), marks=pytest.mark.slow),
        pytest.param("dpo", "fsdp2", 1, (2, "fsdp2"), marks=pytest.mark.slow),
        pytest.param("ppo", "fsdp2", 1, (1, "auto"), marks=pytest.mark.slow),
        pytest.param("ppo", "fsdp2", 0, (4, "fsdp2"), marks=pytest.mark.slow),
        pytest.param("ppo", "ddp", 1, (2, "fsdp2"), marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_rank_stops_all_inside_an_epoch(
    here: Path, alone: Alone, phase: str, strategy: str, rank: int, continued: tuple[int, str]
) -> None:
    words, single = WORDS[phase], alone(WORDS[phase])
    micro_batches = 6 if phase == "sft" else 7  # inside the second epoch, and inside an accumulation window
    stopped = run(
        ["fit", *words, *QUIET], here / "run", 2, strategy,
        on_rank=signalled(rank, signal.SIGTERM, "update", micro_batches),
    )  # fmt: skip
    assert stopped.codes == [130, 0], stopped.outputs
    assert "continue with: lit-rlhf fit" in stopped.outputs[0]
    goes_on(words, here / "run", *continued, single)


@pytest.mark.parametrize(
    ("phase", "strategy", "rank", "moment", "time"),
    [
        ("sft", "fsdp2", 0, "update", 7),
        pytest.param("sft", "fsdp2", 1, "update", 7, marks=pytest.mark.slow),
        pytest.param("sft", "ddp", 0, "update", 7, marks=pytest.mark.slow),
        pytest.param("sft", "ddp", 1, "update", 7, marks=pytest.mark.slow),
        pytest.param("sft", "fsdp2", 0, "save", 2, marks=pytest.mark.slow),
        pytest.param("sft", "fsdp2", 1, "save", 2, marks=pytest.mark.slow),
        pytest.param("sft", "fsdp2", 1, "export", 1, marks=pytest.mark.slow),
        pytest.param("ppo", "fsdp2", 0, "rollout", 2, marks=pytest.mark.slow),
        pytest.param("ppo", "fsdp2", 1, "rollout", 2, marks=pytest.mark.slow),
        pytest.param("ppo", "ddp", 1, "rollout", 2, marks=pytest.mark.slow),
        pytest.param("ppo", "fsdp2", 1, "update", 13, marks=pytest.mark.slow),
        pytest.param("dpo", "fsdp2", 0, "update", 7, marks=pytest.mark.slow),
    ],
)
def test_one_that_is_killed_ends_the_other(
    here: Path, alone: Alone, phase: str, strategy: str, rank: int, moment: Moment, time: int
) -> None:
    words, single = WORDS[phase], alone(WORDS[phase])
    ended = run(
        ["fit", *words, *QUIET],
        here / "run",
        2,
        strategy,
        limit=ENDS_WITHIN,
        on_rank=killed(rank, moment, time),
    )
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 1
    said = ended.outputs[1 - rank]
    assert "another rank has gone" in said and "--ckpt_path last" in said
    assert "Traceback" not in said
    goes_on(words, here / "run", 2, strategy, single)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_that_is_killed_before_there_is_a_checkpoint(fit: Fit, here: Path, strategy: str) -> None:
    ended = run(
        ["fit", *SFT, *ADAMW, *QUIET],
        here / "run",
        2,
        strategy,
        limit=ENDS_WITHIN,
        on_rank=killed(1, "start", 1),
    )
    assert ended.codes == [1, -signal.SIGKILL]
    assert "another rank has gone" in ended.outputs[0]
    run(["fit", *SFT, *ADAMW, *QUIET], here / "run", 2, strategy).went_well()

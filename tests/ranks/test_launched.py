"""Real processes, started by Lightning and by torchrun: the end of one is the end of all, and the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks.phases import QUIET
from tests.ranks.runs import Run
from tests.ranks.same import TOLERANCE, losses_differ, weights_differ
from tests.ranks.test_stops import WORDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc"),
]

Alone = Callable[..., Any]
STARTS_WITHIN = 300.0
ENDS_WITHIN = 120.0
"""Seconds; torch's own patience with a silent rank is half an hour."""

LAUNCHERS = {
    "lightning": [sys.executable, "-m", "lit_rlhf"],
    "torchrun": [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lit_rlhf",
    ],
}  # fmt: skip


def is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def ranks_of(first: int) -> list[int]:
    """The processes that run the command, rank 0 first."""
    found = {}
    for process in [first, *descendants(first)]:
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except (ProcessLookupError, FileNotFoundError):
            continue
        if b"fit" in words and not any(b"torch.distributed.run" in word for word in words):
            ranks = [pair for pair in environment if pair.startswith(b"LOCAL_RANK=")]
            found[int(ranks[0].split(b"=")[1]) if ranks else 0] = process
    return [found[rank] for rank in sorted(found)]


def descendants(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (ProcessLookupError, FileNotFoundError):
        return []
    return [one for child in map(int, children) for one in (child, *descendants(child))]


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize(("phase", "strategy"), [("sft", "ddp"), ("sft", "fsdp2"), ("ppo", "fsdp2")])
def test_one_that_dies_ends_the_other(
    here: Path, alone: Alone, launcher: str, killed: int, phase: str, strategy: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    words = [
        *LAUNCHERS[launcher], "fit", *WORDS[phase], *QUIET, "--trainer.accelerator", "cpu", "--trainer.devices", "2",
        "--trainer.strategy", strategy, "--out", "run",
    ]  # fmt: skip
    ranks: list[int] = []
    with open(here / "said.txt", "wb") as said:
        first = subprocess.Popen(
            [*words, "--trainer.max_epochs", "100000"], env=environment, stdout=said, stderr=said
        )
        try:
            end = time.monotonic() + STARTS_WITHIN
            while not (here / "run/checkpoints/last.ckpt").exists():
                assert first.poll() is None and time.monotonic() < end, (here / "said.txt").read_text()
                time.sleep(0.1)
            ranks = ranks_of(first.pid)
            assert len(ranks) == 2
            os.kill(ranks[killed], signal.SIGKILL)
            end = time.monotonic() + ENDS_WITHIN
            while first.poll() is None or any(map(is_running, ranks)):
                assert time.monotonic() < end, (here / "said.txt").read_text()
                time.sleep(0.1)
        finally:
            for process in {first.pid, *ranks, *descendants(first.pid)}:
                if is_running(process):
                    os.kill(process, signal.SIGKILL)
            first.wait()
    printed = (here / "said.txt").read_text()
    assert first.returncode != 0
    assert "another rank has gone" in printed and "--ckpt_path last" in printed
    # where it was killed is nobody's choice: go on for as long as it takes, and compare with the same number of epochs
    epochs = int(torch.load(here / "run/checkpoints/last.ckpt", weights_only=True)["epoch"]) + 2
    more = ["--trainer.max_epochs", str(epochs)]
    subprocess.run([*words, *more, "--ckpt_path", "last"], env=environment, check=True, timeout=STARTS_WITHIN)
    single, again = alone([*WORDS[phase], *more]), Run(here / "run", [0], [""])
    assert losses_differ(again, single) < 10 * TOLERANCE
    assert weights_differ(again, single) < 100 * TOLERANCE

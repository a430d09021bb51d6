"""Two processes as Lightning starts them itself: the end of one is the end of the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.resume import BASE, TWO_RANKS, prepare

ENDS_WITHIN = 60.0
"""Seconds; torch's own patience with a silent rank is half an hour."""


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("killed", ["the one that was started", "the one that it started"])
def test_one_that_dies_ends_the_other(tmp_path: Path, killed: str) -> None:
    prepare(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "lit_rlhf", *BASE, *TWO_RANKS, "--trainer.max_epochs", "100000"]
    with open(tmp_path / "said.txt", "wb") as said:
        first = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=said, stderr=said)
        try:
            while not (tmp_path / "run/checkpoints/last.ckpt").exists():
                assert first.poll() is None, (tmp_path / "said.txt").read_text()
                time.sleep(0.1)
            children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            (second,) = [
                int(child) for child in children if b"lit_rlhf" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
            os.kill(first.pid if killed == "the one that was started" else second, signal.SIGKILL)
            end = time.monotonic() + ENDS_WITHIN
            while (first.poll() is None or is_running(second)) and time.monotonic() < end:
                time.sleep(0.1)
            assert first.poll() is not None and not is_running(second), (tmp_path / "said.txt").read_text()
        finally:
            for process in (first.pid, *([second] if "second" in dir() else [])):
                if is_running(process):
                    os.kill(process, signal.SIGKILL)
            first.wait()

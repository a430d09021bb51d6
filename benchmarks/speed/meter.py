"""The clock and the scales: the same on every side, so that only what is measured differs."""

from __future__ import annotations

import importlib.metadata
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.flops import now
from benchmarks.speed.job import JSON, Job, Measured

PACKAGES = ("torch", "lightning", "transformers", "trl", "accelerate")


class Meter:
    """Counts the tokens of each step and the time between the ends of two.

    Make it when everything is imported and nothing built: what the process holds then is not counted.

    Args:
        job: says how many steps are warm-up, and on which device.
    """

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self.job = job
        self.cuda = job.device == "cuda"
        if self.cuda:
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats()
        self._imports_mb = _memory_mb("VmRSS")
        self._ends: list[float] = []
        self._tokens: list[int] = []
        self._slots: list[int] = []
        self.first_loss: float | None = None

    def batch(self, tokens: int, slots: int) -> None:
        """A step's batch was made: real tokens, and what is computed for them."""
        self._tokens.append(tokens)
        self._slots.append(slots)

    def loss(self, loss: torch.Tensor) -> None:
        """The loss of a step; the first one is kept."""
        if self.first_loss is None:
            self.first_loss = float(loss.detach())

    def step(self) -> None:
        """A step is over."""
        if self.cuda:
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter() if self.cuda else time.process_time())

    @property
    def steps(self) -> int:
        """That are over, the warm-up included."""
        return len(self._ends)

    def measured(self, **facts: object) -> Measured:
        """What was found; the first `warm` steps only start the clock.

        Raises:
            RuntimeError: fewer steps were made than the warm-up and one more.
        """
        warm, steps = self.job.warm, len(self._ends) - self.job.warm
        if warm < 1 or steps < 1:
            raise RuntimeError(
                f"expected a warm-up of one step at least and a timed one, found {warm} and {steps}"
            )
        # A loader may have made a batch ahead that no step has seen: only as many as there were steps count.
        done = slice(warm, len(self._ends))
        if self.cuda:
            facts["device"] = torch.cuda.get_device_name()
        return Measured(
            seconds=self._ends[-1] - self._ends[warm - 1],
            steps=steps,
            tokens=sum(self._tokens[done]),
            slots=sum(self._slots[done]),
            peak_mb=self.peak_mb(),
            first_loss=self.first_loss,
            versions=_versions(),
            facts=facts,
        )

    def peak_mb(self) -> float:
        """Most memory held so far, above that of the imports; on a GPU, most allocated by torch. 1 MB = 2^20 bytes."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        return _memory_mb("VmHWM") - self._imports_mb


class Stopwatch:
    """Where the seconds go: each watched function's own, without those of watched functions that it calls.

    Args:
        device: whose seconds; see :func:`benchmarks.speed.flops.now`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def watch(self, owner: Any, name: str, part: str | Callable[[], str]) -> None:
        """Put a function in the place of ``owner.name`` that adds its time to `part`, or to what that then says."""
        function = getattr(owner, name)

        @wraps(function)
        def watched(*arguments: Any, **more: Any) -> Any:
            start = now(self.device)
            self._inner.append(0.0)
            try:
                return function(*arguments, **more)
            finally:
                took = now(self.device) - start
                self.seconds[part if isinstance(part, str) else part()] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        setattr(owner, name, watched)

    def start_over(self) -> None:
        """Forget what was seen so far, such as the warm-up."""
        self.seconds.clear()

    def shares(self, total: float) -> dict[str, float]:
        """Seconds of each part, and of all that was not watched, of `total`."""
        parts = {**self.seconds, "other": total - sum(self.seconds.values())}
        return {name: round(seconds, 4) for name, seconds in parts.items()}


def described(optimizer: torch.optim.Optimizer) -> JSON:
    """The optimizer's settings as they are, for the conditions."""
    group = optimizer.param_groups[0]
    kept = ("lr", "betas", "eps", "weight_decay", "fused", "foreach")
    # wrappers (Lightning's, accelerate's) carry the class of what they wrap in their own name or hold it
    inner = getattr(optimizer, "optimizer", optimizer)
    return {
        "class": type(inner).__name__,
        **{name: group[name] for name in kept if name in group},
    }


def response_lengths(rollouts: Sequence[Sequence[int]]) -> JSON:
    """Mean, least and largest number of tokens of all responses, and how many there were."""
    lengths = [length for rollout in rollouts for length in rollout]
    return {
        "mean": round(sum(lengths) / len(lengths), 2),
        "least": min(lengths),
        "largest": max(lengths),
        "number": len(lengths),
    }


def _memory_mb(entry: str) -> float:
    """``VmRSS`` (held now) or ``VmHWM`` (most held) of this process.

    Not `ru_maxrss` where it can be helped: a child starts with its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return int(line.split()[1]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 1024)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

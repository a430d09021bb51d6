"""What is seen of a run that samples, the same on every side: its rollouts, its iterations, and where its time goes."""

from __future__ import annotations

from benchmarks.speed.job import Job
from benchmarks.speed.meter import Meter, Stopwatch, response_lengths


class Iterations:
    """Told by a trainer's callback of each rollout and each iteration's end.

    Make it when everything is imported and nothing built.

    Args:
        job: says how many iterations are warm-up.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.meter, self.stopwatch = job, Meter(job), Stopwatch(job.device)
        self._lengths: list[list[int]] = []
        self._first_kl: float | None = None

    def rollout(self, lengths: list[int], slots: int) -> None:
        """Responses of so many tokens were drawn, in rows of so many in all."""
        self._lengths.append(lengths)
        self.meter.batch(sum(lengths), slots)

    def kl(self, value: float) -> None:
        """What the run says of the KL to the reference; the first, before anything was updated, is kept."""
        if self._first_kl is None:
            self._first_kl = value

    def over(self) -> None:
        """An iteration is over."""
        self.meter.step()
        if self.meter.steps == self.job.warm:
            self.stopwatch.start_over()

    def report(self, **facts: object) -> None:
        """Print what was measured."""
        measured = self.meter.measured(
            prompts=self.job.batch * self.job.steps,
            first_kl=self._first_kl,
            response_lengths=response_lengths(self._lengths[self.job.warm :]),
            **facts,
        )
        measured.facts["parts"] = self.stopwatch.shares(measured.seconds)
        measured.report()

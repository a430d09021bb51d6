"""The same network, loss and optimizer in a bare loop of torch: ``python -m benchmarks.speed.run_raw JOB``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.job import Job
from benchmarks.speed.meter import Meter, described
from benchmarks.speed.run_ours import CLIP, make_loader, make_module, optimizer_of
from lit_rlhf.losses.reward import bradley_terry_loss


def main() -> None:
    """Train a reward model without a trainer, and print what was measured."""
    job = Job.from_arguments()
    if job.phase != "reward":
        raise ValueError(f"the raw loop trains reward models, found phase {job.phase!r}")
    meter = Meter(job)
    with tempfile.TemporaryDirectory() as folder:
        network: Any = make_module(job, Path(folder)).network.to(job.device)
    parameters = list(network.parameters())
    optimizer = optimizer_of(job)(parameters)
    for batch in make_loader(job, meter):
        batch = batch.to(job.device)
        scores = network(batch)
        losses = bradley_terry_loss(scores[batch.better], scores[batch.worse], batch.target, batch.margin)
        weights = batch.comparison_weights()
        loss = (weights * losses).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if meter.first_loss is None:
            meter.loss(loss)
        meter.step()
    meter.measured(optimizer=described(optimizer)).report()


if __name__ == "__main__":
    main()

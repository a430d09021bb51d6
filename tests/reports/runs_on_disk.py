"""Run folders as a fit of PPO leaves them, written with TensorBoard's own writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

UPDATES = 2
"""Of an iteration."""


def write_events(
    run: Path,
    series: Mapping[str, Sequence[float]],
    first: int = 0,
    purge_step: int | None = None,
    suffix: str = "",
    alarms: Mapping[int, str] | None = None,
) -> None:
    """Log as Lightning does: each update's step with its epoch, then the iteration's numbers at the last step.

    Args:
        run: its folder.
        series: values from iteration `first` on, by logged name; an iteration with None has no value.
        first: iteration that the values start with.
        purge_step: as a continued run gives it.
        suffix: of the file's name; a later file sorts behind an earlier one.
        alarms: text by the iteration that it was said at the end of.
    """
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step, filename_suffix=suffix)
    for place in range(max(map(len, series.values()))):
        epoch = first + place
        for update in range(UPDATES):
            step = UPDATES * epoch + update
            writer.add_scalar("train/loss", 0.5, step)
            writer.add_scalar("epoch", epoch, step)
        for name, values in series.items():
            if place < len(values) and values[place] is not None:
                writer.add_scalar(name, values[place], step)
        writer.add_scalar("epoch", epoch, step)
        if alarms and epoch in alarms:
            writer.add_text("alarms", alarms[epoch], step + 1)
    writer.close()


def write_config(run: Path, max_epochs: int = 10, seed: int = 0, **arguments: Any) -> None:
    """A config with the arguments of the module given."""
    run.mkdir(parents=True, exist_ok=True)
    content = {
        "seed_everything": seed,
        "trainer": {"max_epochs": max_epochs, "logger": None},
        "model": {"class_path": "lit_rlhf.PPOModule", "init_args": {"model": "sft", **arguments}},
        "out": str(run),
    }
    (run / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

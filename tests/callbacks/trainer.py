"""The small trainer of the callback tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L


def make_trainer(folder: Path, callbacks: list[Any], **settings: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return L.Trainer(default_root_dir=folder, callbacks=callbacks, **{**defaults, **settings})

"""The folder that the next phase takes, written when a fit is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info


class ExportAtEnd(Callback):
    """When a fit is finished, write the module's last weights as a folder that the next phase takes.

    With LoRA the folder holds the merged weights, and ``<directory>-adapter`` the adapter alone.

    Args:
        directory: where to; a relative path starts at the trainer's `default_root_dir`.
    """

    def __init__(self, directory: str | Path = "export") -> None:
        self.directory = Path(directory)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not on_train_end: a finished run that is continued trains nothing, yet its export may be missing.
        target = Path(trainer.default_root_dir) / self.directory
        # ranks hold the same weights, and there is one folder; where each holds a part of them, all take part
        if trainer.is_global_zero or getattr(pl_module, "is_sharded", False):
            export: Any = pl_module.export
            export(target)
        trainer.strategy.barrier("exported")
        adapter = getattr(pl_module, "adapter", None) is not None
        beside = f", merged; the adapter alone to {target}-adapter" if adapter else ""
        rank_zero_info(f"Exported to {target}{beside}")

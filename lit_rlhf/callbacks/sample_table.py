"""The module's samples as a table in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

CELL_LENGTH = 600
"""Characters of a sample table's cell; the rest is cut and marked."""


class SampleTable(Callback):
    """The module's `sample_table()` in TensorBoard's text tab, after each validation and each epoch that ends without.

    The module gives a list of rows, ``{column: value}``, or None where it has nothing to show. It is asked on
    every rank, because sampling may need them all; rank 0 writes.

    Args:
        tag: under which the table stands.
    """

    def __init__(self, tag: str = "samples") -> None:
        self.tag = tag
        self._last_step = -1

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_step = state_dict["last_step"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._show(trainer, pl_module)

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not writers or trainer.global_step == self._last_step or not hasattr(pl_module, "sample_table"):
            return
        self._last_step = trainer.global_step
        ask: Any = pl_module.sample_table
        rows = ask()
        if rows and trainer.is_global_zero:
            for logger in writers:
                # The step of the scalars logged here: a run continued from this very update drops what is later.
                step = max(0, trainer.global_step - 1)
                logger.experiment.add_text(self.tag, markdown_table(rows), step)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""`rows` as a Markdown table; what would break it is escaped, long cells are cut and marked.

    >>> print(markdown_table([{"prompt": "a|b", "score": 0.5}]))
    | prompt | score |
    | --- | --- |
    | a\|b | 0.500 |
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if len(text) > CELL_LENGTH:
        text = f"{text[:CELL_LENGTH]} … ({len(text) - CELL_LENGTH} more characters)"
    for raw, safe in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("`", "\\`"),
        ("*", "\\*"),
    ):
        text = text.replace(raw, safe)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "<br>")

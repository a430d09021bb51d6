"""The file of the last values, whole at every moment."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from lit_rlhf.callbacks import MetricsFile, write_beside_and_rename
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import StandInData, StandInModule


def test_metrics_file_holds_the_last_values(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [MetricsFile()], max_epochs=2)
    trainer.fit(StandInModule(), StandInData())
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["step"] == 12
    assert written["epoch"] == 2
    assert written["val/loss"] == float(trainer.callback_metrics["val/loss"])
    assert "train/loss" in written
    assert not list(tmp_path.glob("*.partial"))


def test_metrics_file_writes_what_is_not_finite_as_null(tmp_path: Path) -> None:
    class Diverging(StandInModule):
        def on_train_epoch_end(self) -> None:
            self.log("train/diverged", torch.tensor(math.nan))

    make_trainer(tmp_path, [MetricsFile()], max_epochs=1).fit(Diverging(), StandInData())
    assert json.loads((tmp_path / "metrics.json").read_text())["train/diverged"] is None


def test_metrics_file_remembers_over_a_stop(tmp_path: Path) -> None:
    class Once(StandInModule):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 0:
                self.log("train/once", 5.0)

    file = MetricsFile()
    file.values = {"train/once": 5.0}
    other = MetricsFile()
    other.load_state_dict(file.state_dict())
    make_trainer(tmp_path, [other], max_epochs=1).fit(StandInModule(), StandInData())
    assert json.loads((tmp_path / "metrics.json").read_text())["train/once"] == 5.0


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_beside_and_rename(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_beside_and_rename(target, "\ud800")
    assert target.read_text() == "old"

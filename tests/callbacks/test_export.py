"""The export comes at the end of a finished run, and of no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf.callbacks import ExportAtEnd, GracefulStop, GracefulStopped
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import StandInData, StandInModule


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_export_at_end_and_again_for_a_finished_run(tmp_path: Path) -> None:
    module = StandInModule()
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_last=True)
    make_trainer(tmp_path, [ExportAtEnd(), checkpoint]).fit(module, StandInData())
    exported = tmp_path / "export" / "weights.json"
    assert json.loads(exported.read_text())["linear.weight"] == module.linear.weight.tolist()
    exported.unlink()
    last = tmp_path / "checkpoints" / "last.ckpt"
    quiet: dict[str, Any] = {"enable_checkpointing": False}
    make_trainer(tmp_path, [ExportAtEnd()], **quiet).fit(StandInModule(), StandInData(), ckpt_path=last)
    assert json.loads(exported.read_text())["linear.weight"] == module.linear.weight.tolist()


def test_a_stopped_run_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(GracefulStopped):
        make_trainer(tmp_path, [GracefulStop(), ExportAtEnd()]).fit(
            StandInModule(interrupt_at=0), StandInData()
        )
    assert not (tmp_path / "export").exists()

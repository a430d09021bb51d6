"""Tables that hold, whatever the text in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from lit_rlhf.callbacks import CELL_LENGTH, SampleTable, markdown_table
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import StandInData, StandInModule


def test_sample_table_is_written_once_a_validation(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    make_trainer(tmp_path, [SampleTable()], max_epochs=2, logger=logger).fit(StandInModule(), StandInData())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tables = events.Tensors("samples/text_summary")
    assert [event.step for event in tables] == [5, 11]
    text = tables[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2] == "| a\\|b<br>c | 0.500 |"


def test_sample_table_without_validation_comes_with_each_epoch(tmp_path: Path) -> None:
    asked = []

    class Asked(StandInModule):
        def sample_table(self) -> list[dict[str, Any]]:
            asked.append(self.global_step)
            return []

    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    make_trainer(tmp_path, [SampleTable()], max_epochs=2, logger=logger, limit_val_batches=0).fit(
        Asked(), StandInData()
    )
    assert asked == [6, 12]


def test_markdown_table_keeps_rows_whole() -> None:
    table = markdown_table([{"a": "x\r\ny|`z`*", "b": None}, {"c": "<b>"}])
    assert table.splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| x<br>y\\|\\`z\\`\\* |  |  |",
        "|  |  | &lt;b> |",
    ]


def test_markdown_table_says_what_it_cuts() -> None:
    cell = markdown_table([{"a": "x" * (CELL_LENGTH + 7)}]).splitlines()[2]
    assert cell == "| " + "x" * CELL_LENGTH + " … (7 more characters) |"

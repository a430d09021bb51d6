"""What the callbacks leave behind: checkpoints that continue exactly, files that are whole, tables that hold."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_rlhf.callbacks import (
    CELL_LENGTH,
    ExportAtEnd,
    GracefulStop,
    GracefulStopped,
    MetricsFile,
    SampleTable,
    Throughput,
    count_tokens,
    markdown_table,
    write_beside_and_rename,
)
from lit_rlhf.records import ResponseTrees
from tests.cli.stand_in import StandInData, StandInModule


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


def finished_weights(folder: Path, settings: dict[str, Any]) -> tuple[torch.Tensor, StandInModule]:
    """The weights of a run that nobody stopped."""
    module = StandInModule()
    make_trainer(folder / "whole", [ModelCheckpoint()], **settings).fit(module, StandInData())
    return module.linear.weight.detach().clone(), module


@pytest.mark.parametrize(
    ("interrupt_at", "settings"),
    [
        (3, {}),  # in the middle of an epoch
        (7, {"accumulate_grad_batches": 4}),  # inside a window, and in a later epoch
        (5, {}),  # at the last batch of an epoch
        (11, {"limit_val_batches": 0}),  # the same, with no validation to wait for
        (1, {"val_check_interval": 2}),  # at a batch that validates
        (0, {"val_check_interval": 2, "accumulate_grad_batches": 2}),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_continues_as_if_it_had_not_been(
    tmp_path: Path, interrupt_at: int, settings: dict[str, Any], number: int
) -> None:
    expected, whole = finished_weights(tmp_path, settings)

    stopped = StandInModule(interrupt_at=interrupt_at, number=int(number))
    with pytest.raises(GracefulStopped) as stop:
        make_trainer(tmp_path / "run", [GracefulStop()], **settings).fit(stopped, StandInData())
    assert stop.value.code == 130
    assert stop.value.checkpoint == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert not torch.equal(stopped.linear.weight, expected)

    resumed = StandInModule()
    resumed.linear.weight.data.zero_()
    trainer = make_trainer(tmp_path / "run", [GracefulStop()], **settings)
    trainer.fit(resumed, StandInData(), ckpt_path=stop.value.checkpoint)
    assert torch.equal(resumed.linear.weight, expected)
    assert trainer.current_epoch == 3
    # Each epoch was closed once and each validation ran once, on one side of the stop or on the other.
    assert stopped.epochs_closed + resumed.epochs_closed == whole.epochs_closed == [0, 1, 2]
    assert stopped.validated_at + resumed.validated_at == whole.validated_at


def test_a_stop_at_the_very_end_is_a_finished_run(tmp_path: Path) -> None:
    module = StandInModule(interrupt_at=17)
    trainer = make_trainer(tmp_path, [GracefulStop(), ExportAtEnd()])
    trainer.fit(module, StandInData())
    assert trainer.current_epoch == 3
    assert (tmp_path / "export" / "weights.json").is_file()


def test_the_last_step_before_a_stop_is_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="logs", version="")
    with pytest.raises(GracefulStopped):
        make_trainer(tmp_path, [GracefulStop()], logger=logger).fit(
            StandInModule(interrupt_at=3), StandInData()
        )
    rows = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    place = rows[0].split(",").index("step")
    assert [row.split(",")[place] for row in rows[1:]] == ["0", "1", "2", "3"]


def test_the_stop_waits_for_the_accumulation_window(tmp_path: Path) -> None:
    module = StandInModule(interrupt_at=0)
    with pytest.raises(GracefulStopped):
        make_trainer(tmp_path, [GracefulStop()], accumulate_grad_batches=3).fit(module, StandInData())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 3


def test_a_second_signal_stops_at_once_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    module = StandInModule(interrupt_at=1, signals=2)
    try:
        with pytest.raises(SystemExit) as stop:  # Lightning's own answer to a KeyboardInterrupt
            make_trainer(tmp_path, [GracefulStop()]).fit(module, StandInData())
        assert not isinstance(stop.value, GracefulStopped)
        assert not (tmp_path / "checkpoints").exists()
    finally:
        signal.signal(signal.SIGINT, before[0])  # Lightning ignores SIGINT from then on
    make_trainer(tmp_path, [GracefulStop()], max_epochs=1).fit(StandInModule(), StandInData())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


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


def test_sample_table_is_written_once_a_validation(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    make_trainer(tmp_path, [SampleTable()], max_epochs=2, logger=logger).fit(StandInModule(), StandInData())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tables = events.Tensors("samples/text_summary")
    assert [event.step for event in tables] == [6, 12]
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


def test_throughput_counts_this_batchs_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 16.0])
    monkeypatch.setattr("lit_rlhf.callbacks.time.perf_counter", lambda: next(clock))
    logged: list[float] = []

    class Seen(StandInModule):
        def log(self, name: str, value: Any, **settings: Any) -> None:
            if name == "perf/tokens_per_second":
                logged.append(value)

    settings = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0}
    make_trainer(tmp_path, [Throughput()], **settings).fit(Seen(), StandInData())
    assert logged == [8 / 2.0, 16 / 6.0]  # two rows of four tokens a batch


def test_tokens_of_other_shapes_are_not_guessed() -> None:
    assert count_tokens({"input_ids": torch.zeros(2, 3)}) == 6
    assert count_tokens([torch.zeros(2, 3)]) is None


def test_tokens_of_packed_trees() -> None:
    trees = object.__new__(ResponseTrees)
    trees.input_ids = torch.zeros(11, dtype=torch.long)
    assert count_tokens(trees) == 11


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_beside_and_rename(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_beside_and_rename(target, "\ud800")
    assert target.read_text() == "old"

"""A stopped run continues as if it had not been stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_rlhf.callbacks import ExportAtEnd, GracefulStop, GracefulStopped
from lit_rlhf.callbacks.staged_checkpoint import put_in_place
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import StandInData, StandInModule


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


class SignalledInValidation(StandInModule):
    """Asked to stop at the last batch of the first epoch, and again in the validation that closes it."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        signal.raise_signal(signal.SIGINT)


def test_a_second_signal_while_an_epoch_closes_keeps_its_updates(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    module = SignalledInValidation(interrupt_at=5)
    try:
        with pytest.raises(SystemExit):
            make_trainer(tmp_path, [GracefulStop()]).fit(module, StandInData())
    finally:
        signal.signal(signal.SIGINT, before[0])
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["linear.weight"], module.linear.weight)
    assert saved["global_step"] == 6


def test_a_checkpoint_does_not_count_before_its_numbers_are_logged(tmp_path: Path) -> None:
    """What is killed in the validation at an epoch's end goes on from before it, else the epoch's end is not logged."""

    class Failing(StandInModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise ValueError("as if killed")

    with pytest.raises(ValueError, match="as if killed"):
        make_trainer(tmp_path, [GracefulStop()]).fit(Failing(interrupt_at=5), StandInData())
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_checkpoint_before_is_kept_and_at_no_moment_is_there_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, before, fresh = tmp_path / "last.ckpt", tmp_path / "previous.ckpt", tmp_path / "last.ckpt.next"
    replace, seen = os.replace, []

    def watched(source: Any, target: Any) -> None:
        replace(source, target)
        seen.append([path.read_text() for path in (last, before) if path.exists()])

    monkeypatch.setattr("lit_rlhf.callbacks.staged_checkpoint.os.replace", watched)
    for content in ("1", "2", "3"):
        fresh.write_text(content)
        put_in_place(fresh, last)
    assert seen == [["1"], ["1", "1"], ["2", "1"], ["2", "2"], ["3", "2"]]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]

    def refuses(*paths: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr("lit_rlhf.callbacks.staged_checkpoint.os.link", refuses)
    fresh.write_text("4")
    put_in_place(fresh, last)
    assert seen[5:] == [["3"], ["4", "3"]]


def test_sharded_checkpoints_take_turns_too(tmp_path: Path) -> None:
    last, fresh = tmp_path / "last.ckpt", tmp_path / "last.ckpt.next"
    for content in ("1", "2", "3"):
        fresh.mkdir()
        (fresh / "meta.pt").write_text(content)
        put_in_place(fresh, last)
    assert (last / "meta.pt").read_text() == "3"
    assert (tmp_path / "previous.ckpt" / "meta.pt").read_text() == "2"
    assert not fresh.exists()


@pytest.mark.parametrize("kinds", ["file folder file file", "folder file folder folder"])
def test_a_run_may_go_on_with_the_other_kind_of_checkpoint(tmp_path: Path, kinds: str) -> None:
    last, fresh = tmp_path / "last.ckpt", tmp_path / "last.ckpt.next"
    before = tmp_path / "previous.ckpt"
    written = kinds.split()
    for number, kind in enumerate(written):
        if kind == "folder":
            fresh.mkdir()
        content = fresh / "meta.pt" if kind == "folder" else fresh
        content.write_text(str(number))
        put_in_place(fresh, last)
        assert last.is_dir() == (kind == "folder")
        if number:
            held = before / "meta.pt" if written[number - 1] == "folder" else before
            assert held.read_text() == str(number - 1)

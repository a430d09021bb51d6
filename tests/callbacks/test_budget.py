"""A fit ends when its seconds are spent, and only training spends them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_rlhf.callbacks import ExportAtEnd, GracefulStop, GracefulStopped, MetricsFile, TrainingBudget
from lit_rlhf.callbacks.budget import CLOCKS
from lit_rlhf.cli.checkpoints import LastCheckpoint
from lit_rlhf.cli.fit import CommandLine
from lit_rlhf.cli.progress import ProgressLines
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import ResumableLoader, StandInData, StandInModule


class Clock:
    """Two clocks that stand still until they are moved; CPU time passes half as fast."""

    now = 0.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setitem(CLOCKS, "wall", lambda: 500.0 + made.now)
    monkeypatch.setitem(CLOCKS, "cpu", lambda: 70.0 + made.now / 2)
    monkeypatch.setattr("lit_rlhf.cli.progress.monotonic", lambda: made.now)
    return made


class Slow(StandInModule):
    """A batch takes ten seconds, and what must not count a thousand; 6 batches an epoch."""

    clock: Clock

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.clock.pass_by(10)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.pass_by(1000)
        super().validation_step(batch, batch_idx)


class SlowlySaving(Callback):
    """Writes a checkpoint, which takes a thousand seconds, after each epoch or update."""

    def __init__(self, clock: Clock, hook: str) -> None:
        self.clock, self.hook = clock, hook

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "some.ckpt")
        self.clock.pass_by(1000)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.hook == "epoch":
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.hook == "batch":
            self._save(trainer)


class RolloutLoader(ResumableLoader):
    """Before an epoch's first batch a rollout of a hundred seconds."""

    def __iter__(self) -> Any:
        self.module.clock.pass_by(100)  # type: ignore[operator,union-attr]
        yield from super().__iter__()


class RolloutData(StandInData):
    def train_dataloader(self) -> ResumableLoader:
        assert self.trainer is not None
        return RolloutLoader(self.trainer.lightning_module, self.rows, self.batch_size)


def slow(clock: Clock, **arguments: Any) -> Slow:
    module = Slow(**arguments)
    module.clock = clock
    return module


def test_ends_at_the_batch_that_spends_it(clock: Clock, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [TrainingBudget(85, "wall")], max_epochs=-1)
    trainer.fit(slow(clock), StandInData())
    assert trainer.global_step == 9
    assert trainer.logged_metrics["time/training_seconds"] == 90
    assert trainer.logged_metrics["time/training_cpu_seconds"] == 45


def test_the_clock_is_the_processors_where_nothing_else_is_said(clock: Clock, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [TrainingBudget(85)], max_epochs=-1)
    trainer.fit(slow(clock), StandInData())
    assert trainer.global_step == 17


def test_processor_seconds_are_those_of_this_process() -> None:
    import time

    assert {"cpu": time.process_time, "wall": time.perf_counter} == CLOCKS


def test_the_accumulation_window_is_filled(clock: Clock, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, [TrainingBudget(10, "wall")], max_epochs=-1, accumulate_grad_batches=4, limit_val_batches=0
    )
    trainer.fit(slow(clock), StandInData())
    assert (trainer.global_step, clock.now) == (1, 40)


def test_the_short_window_at_an_epochs_end_is_a_window(clock: Clock, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, [TrainingBudget(41, "wall")], max_epochs=-1, accumulate_grad_batches=4, limit_val_batches=0
    )
    trainer.fit(slow(clock), StandInData())
    assert (trainer.global_step, clock.now) == (2, 60)


@pytest.mark.parametrize("interval", [1.0, 2])
def test_validation_spends_nothing(clock: Clock, tmp_path: Path, interval: float) -> None:
    module = slow(clock)
    budget = TrainingBudget(115, "wall")
    settings = {"max_epochs": -1, "val_check_interval": interval, "num_sanity_val_steps": 1}
    trainer = make_trainer(tmp_path, [budget], **settings)
    trainer.fit(module, StandInData())
    assert (trainer.global_step, budget.spent) == (12, 120)
    assert len(module.validated_at) >= 3


@pytest.mark.parametrize("hook", ["epoch", "batch"])
def test_checkpoints_spend_nothing(clock: Clock, tmp_path: Path, hook: str) -> None:
    budget = TrainingBudget(115, "wall")
    settings: dict[str, Any] = {"max_epochs": -1, "limit_val_batches": 0}
    trainer = make_trainer(tmp_path, [budget, SlowlySaving(clock, hook)], **settings)
    trainer.fit(slow(clock), StandInData())
    assert (trainer.global_step, budget.spent) == (12, 120)


def test_rollouts_are_training(clock: Clock, tmp_path: Path) -> None:
    budget = TrainingBudget(315, "wall")
    trainer = make_trainer(tmp_path, [budget], max_epochs=-1)
    trainer.fit(slow(clock), RolloutData())
    assert (trainer.global_step, budget.spent) == (12, 320)  # two rollouts, twelve batches


class Preparing(Slow):
    """Prepares something before the first batch, as precomputed references are."""

    def on_fit_start(self) -> None:
        self.clock.pass_by(30)


def test_what_a_module_prepares_is_training(clock: Clock, tmp_path: Path) -> None:
    module = Preparing()
    module.clock = clock
    trainer = make_trainer(tmp_path, [TrainingBudget(50, "wall")], max_epochs=-1)
    trainer.fit(module, StandInData())
    assert trainer.global_step == 2


def test_a_stopped_fit_goes_on_counting(clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(GracefulStopped) as stop:
        make_trainer(tmp_path, [TrainingBudget(85, "wall"), GracefulStop()], max_epochs=-1).fit(
            slow(clock, interrupt_at=7), StandInData()
        )
    clock.pass_by(10_000)
    budget = TrainingBudget(85, "wall")
    trainer = make_trainer(tmp_path, [budget, GracefulStop()], max_epochs=-1)
    trainer.fit(slow(clock), StandInData(), ckpt_path=stop.value.checkpoint)
    assert (trainer.global_step, budget.spent) == (9, 90)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_a_finished_fit_is_exported_and_trains_no_more(clock: Clock, tmp_path: Path) -> None:
    class Saved(Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    module = slow(clock)
    make_trainer(tmp_path, [TrainingBudget(40, "wall"), ExportAtEnd(), MetricsFile(), Saved()]).fit(
        module, StandInData()
    )
    exported = tmp_path / "export" / "weights.json"
    assert json.loads(exported.read_text())["linear.weight"] == module.linear.weight.tolist()
    assert json.loads((tmp_path / "metrics.json").read_text())["time/training_seconds"] == 40
    exported.unlink()
    again = make_trainer(tmp_path, [TrainingBudget(40, "wall"), ExportAtEnd()], enable_checkpointing=False)
    again.fit(slow(clock), StandInData(), ckpt_path=tmp_path / "end.ckpt")
    assert again.global_step == 4
    assert json.loads(exported.read_text())["linear.weight"] == module.linear.weight.tolist()


@pytest.mark.parametrize("settings", [{}, {"limit_val_batches": 0}, {"accumulate_grad_batches": 2}])
def test_a_larger_budget_goes_on_as_if_it_had_been_given_at_once(
    clock: Clock, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = slow(clock)
    whole = [TrainingBudget(155, "wall"), LastCheckpoint(tmp_path / "whole")]
    make_trainer(tmp_path, whole, max_epochs=-1, **settings).fit(expected, RolloutData())
    first, run = slow(clock), tmp_path / "run"
    trainer = make_trainer(
        tmp_path, [TrainingBudget(115, "wall"), LastCheckpoint(run)], max_epochs=-1, **settings
    )
    trainer.fit(first, RolloutData())
    assert not torch.equal(first.linear.weight, expected.linear.weight)
    last = run / "checkpoints" / "last.ckpt"
    finished = make_trainer(
        tmp_path, [TrainingBudget(115, "wall"), LastCheckpoint(run)], max_epochs=-1, **settings
    )
    finished.fit(slow(clock), RolloutData(), ckpt_path=last)
    assert finished.global_step == trainer.global_step
    more = slow(clock)
    trainer = make_trainer(
        tmp_path, [TrainingBudget(155, "wall"), LastCheckpoint(run)], max_epochs=-1, **settings
    )
    trainer.fit(more, StandInData(), ckpt_path=last)
    assert torch.equal(more.linear.weight, expected.linear.weight)
    assert more.epochs_closed == expected.epochs_closed == [0]


def test_least_epochs_win_and_are_said(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, [TrainingBudget(15, "wall")], max_epochs=-1, min_epochs=2)
    with caplog.at_level("INFO"):
        trainer.fit(slow(clock), StandInData())
    assert trainer.global_step == 12
    assert caplog.messages.count(
        "Training has had its 15 seconds (20.0) after 2 updates, and goes on for trainer.min_epochs 2."
    ) == 1  # fmt: skip


def test_what_was_spent_is_said(clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, [TrainingBudget(12)], max_epochs=-1).fit(slow(clock), StandInData())
    assert "Training has had its 12 CPU seconds (15.0) after 3 updates." in caplog.messages


@pytest.mark.parametrize("other_rank", [True, False])
def test_ranks_end_together(clock: Clock, other_rank: bool) -> None:
    asked: list[tuple[bool, bool]] = []

    def decide(decision: bool, all: bool) -> bool:
        asked.append((decision, all))
        return decision or other_rank

    trainer: Any = SimpleNamespace(
        world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=decide), should_stop=False,
        is_last_batch=False, accumulate_grad_batches=1, min_epochs=None, min_steps=None, current_epoch=0, global_step=1,
    )  # fmt: skip
    logged: dict[str, Any] = {}

    class Logs:
        def log(self, name: str, value: float, **settings: Any) -> None:
            logged[name] = settings

    TrainingBudget(5).on_train_batch_end(trainer, Logs(), None, None, 0)  # type: ignore[arg-type]
    assert asked == [(False, False)]
    assert trainer.should_stop == other_rank
    assert logged["time/training_seconds"] == {"sync_dist": True, "reduce_fx": "max", "batch_size": 1}


def test_without_a_budget_seconds_are_counted(clock: Clock, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [TrainingBudget()], max_epochs=2)
    trainer.fit(slow(clock), StandInData())
    assert trainer.logged_metrics["time/training_seconds"] == 120


@pytest.mark.parametrize("seconds", [0.0, -3.0, float("nan")])
def test_a_budget_is_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"TrainingBudget\.seconds: expected more than 0, found"):
        TrainingBudget(seconds)


def test_there_are_two_clocks() -> None:
    with pytest.raises(ValueError, match=r"TrainingBudget\.clock: expected cpu or wall, found 'gpu'"):
        TrainingBudget(1, "gpu")  # type: ignore[arg-type]


def test_what_is_left_is_shown(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressLines()
    settings = {"max_epochs": -1, "enable_progress_bar": True, "limit_val_batches": 0}
    make_trainer(tmp_path, [TrainingBudget(100), bar], **settings).fit(slow(clock), StandInData())
    said = [line.rsplit(", ", 1)[-1] for line in capsys.readouterr().out.splitlines() if ", batch " in line]
    # 100 CPU seconds are 200 that pass; a line every 30
    assert said == [f"about {left} left" for left in ("3 min", "2 min", "2 min", "1 min", "50 s", "20 s")]


def test_usable_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [
        "--trainer.callbacks+=TrainingBudget",
        "--trainer.callbacks.seconds",
        "1e-9",
        "--trainer.max_epochs=-1",
        "--trainer.log_every_n_steps=1",
    ]
    flags += ["--trainer.accelerator", "cpu", "--model", "tests.cli.stand_in.StandInModule"]
    flags += ["--data", "tests.cli.stand_in.StandInData", "--out", "run"]
    CommandLine("fit", flags)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["step"] == 1
    assert (tmp_path / "run" / "export" / "weights.json").exists()

"""Lines of progress: when they come, what they say, and that the time left is right."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_rlhf.cli.progress import ProgressLines, batches_of_fit
from lit_rlhf.cli.progress_bar import FitBar
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import StandInData, StandInModule


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("lit_rlhf.cli.progress.monotonic", made)
    return made


class Slow(StandInModule):
    """Each batch takes ten seconds; 6 batches an epoch."""

    clock: Clock

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.clock.now += 10
        return super().training_step(batch, batch_idx)


class Valued(StandInModule):
    """Logs a number whose name begins like a validation's."""

    clock: Clock

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("value/loss", 1.0)
        return super().training_step(batch, batch_idx)


class Drawing(StandInModule):
    """Before each epoch's first batch 60 seconds pass, a second in each batch."""

    clock: Clock
    rollout_loader = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += 61 if batch_idx == 0 else 1


class Reporting(StandInModule):
    """Before each epoch's first batch a rollout of 3 responses, 40 seconds each."""

    clock: Clock
    rollout_loader = None

    def on_train_epoch_start(self) -> None:
        for done in range(4):
            for callback in self.trainer.callbacks:
                if hasattr(callback, "on_rollout_progress"):
                    callback.on_rollout_progress(self.trainer, self, done, 3)
            self.clock.now += 40


def made(kind: type[Any], clock: Clock) -> Any:
    module = kind()
    module.clock = clock
    return module


def fit(folder: Path, module: StandInModule, bar: ProgressLines, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "enable_progress_bar": True,
        "enable_checkpointing": False,
        "limit_val_batches": 0,
    }
    settings = {**defaults, **settings}
    checkpoint = settings.pop("ckpt_path", None)
    trainer = make_trainer(folder, [bar], **settings)
    trainer.fit(module, StandInData(), ckpt_path=checkpoint)
    return trainer


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said, the numbers left out that training decides."""
    said = [line for line in capsys.readouterr().out.splitlines() if ", batch " in line]
    return [re.sub(r"/loss [\d.e-]+", "/loss X", line) for line in said]


def test_a_line_every_half_minute_with_the_time_left(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, made(Slow, clock), ProgressLines())
    assert lines(capsys) == [
        "epoch 1/3, batch 3/6, train/loss X, about 2 min left",
        "epoch 1/3, batch 6/6, train/loss X, about 2 min left",
        "epoch 2/3, batch 3/6, train/loss X, about 2 min left",
        "epoch 2/3, batch 6/6, train/loss X, about 1 min left",
        "epoch 3/3, batch 3/6, train/loss X, about 30 s left",
        "epoch 3/3, batch 6/6, train/loss X, about 0 s left",
    ]


def test_the_number_is_the_last_one(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(tmp_path, made(Slow, clock), ProgressLines())
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"train/loss {float(trainer.callback_metrics['train/loss']):.4g}," in last


def test_a_line_after_each_validation_with_its_numbers(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"limit_val_batches": 1.0, "num_sanity_val_steps": 1, "max_epochs": 2}
    trainer = fit(tmp_path, made(Valued, clock), ProgressLines(), **settings)
    assert lines(capsys) == [
        f"epoch {epoch}/2, batch 6/6, train/loss X, val/loss X, about 0 s left" for epoch in (1, 2)
    ]
    trainer.validate(trainer.lightning_module, StandInData(), verbose=False)
    assert lines(capsys) == []


def test_iterations_are_measured_whole(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """66 seconds an iteration: 71 are left after the second one's first batch, 5 after the third one's."""
    fit(tmp_path, made(Drawing, clock), ProgressLines())
    assert lines(capsys) == [
        "iteration 1/3, batch 1/6, train/loss X",
        "iteration 2/3, batch 1/6, train/loss X, about 1 min left",
        "iteration 3/3, batch 1/6, train/loss X, about 5 s left",
    ]


def test_a_long_rollout_is_said_too(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, made(Reporting, clock), ProgressLines(), max_epochs=2)
    said = [re.sub(r"/loss [\d.e-]+", "/loss X", line) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in said if ", rollout " in line] == [
        "iteration 1/2, rollout 1/3 responses",
        "iteration 1/2, rollout 2/3 responses",
        "iteration 1/2, rollout 3/3 responses",
        # 160 seconds an iteration, of which 0, 40, 80 and 120 have gone
        *(
            f"iteration 2/2, rollout {done}/3 responses, train/loss X, about {left} left"
            for done, left in ((1, "2 min"), (2, "1 min"), (3, "40 s"))
        ),
    ]


def test_the_bar_of_a_terminal_shows_the_rollout_and_then_its_minibatches(
    clock: Clock, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Watched(FitBar):
        def refresh(self, hard: bool = False) -> None:
            super().refresh(hard)
            assert self.progress is not None
            shown = [
                f"{task.description} {task.completed:.0f}/{task.total:.0f} {task.fields.get('left', '')}".strip()
                for task in self.progress.tasks
                if task.visible
            ]
            if not seen or seen[-1] != "; ".join(shown):
                seen.append("; ".join(shown))

    fit(tmp_path, made(Reporting, clock), Watched(), max_epochs=2)
    assert seen[:6] == [
        "iteration 1/2 0/6",
        *(f"iteration 1/2 0/6; rollout {done}/3" for done in range(3)),
        "iteration 1/2 0/6",
        "iteration 1/2 1/6",
    ]
    assert "iteration 2/2 0/6 1 min left; rollout 2/3" in seen
    assert seen[-1] == "iteration 2/2 6/6 0 s left"


def test_the_bar_leaves_out_what_tells_nothing_apart(tmp_path: Path, clock: Clock) -> None:
    bar = FitBar()
    trainer: Any = SimpleNamespace(
        progress_bar_metrics={"train/loss": 1.0, "objective/kl": 2.0, "rollout/kl": 3.0, "val/scores": 4.0},
        loggers=[],
        logger=None,
    )
    shown = bar.get_metrics(trainer, made(StandInModule, clock))
    assert shown == {"loss": 1.0, "objective/kl": 2.0, "rollout/kl": 3.0, "val/scores": 4.0}


def test_a_continued_run_is_measured_from_where_it_goes_on(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(tmp_path, made(StandInModule, clock), ProgressLines(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path, made(Slow, clock), ProgressLines(), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert lines(capsys) == [
        "epoch 2/2, batch 3/6, train/loss X, about 30 s left",
        "epoch 2/2, batch 6/6, train/loss X, about 0 s left",
    ]


def test_other_ranks_are_silent(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressLines()
    bar.setup(SimpleNamespace(is_global_zero=False), made(Slow, clock), "fit")  # type: ignore[arg-type]
    fit(tmp_path, made(Slow, clock), bar)
    assert lines(capsys) == []


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "expected"),
    [(3, -1, 30), (3, 4, 8), (-1, 4, 8), (None, -1, float("inf"))],
)
def test_what_ends_a_fit_first(max_epochs: int | None, max_steps: int, expected: float) -> None:
    trainer: Any = SimpleNamespace(
        max_epochs=max_epochs, max_steps=max_steps, num_training_batches=10, accumulate_grad_batches=2
    )
    assert batches_of_fit(trainer) == expected


def test_a_fit_without_an_end_has_no_time_left(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = made(Slow, clock)

    class Ending(ProgressLines):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = True

    fit(tmp_path, module, Ending(), max_epochs=-1)
    assert lines(capsys) == [f"epoch 1, batch {batch}/6, train/loss X" for batch in (3, 6)]

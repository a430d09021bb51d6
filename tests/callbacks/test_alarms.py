"""Alarms act: they warn once, stop, lower the learning rate, roll back; and a resumed run goes on the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR

from lit_rlhf.callbacks import TrainingAlarms
from lit_rlhf.callbacks.learning_rate import scale_learning_rates
from tests.callbacks.scripted import Batches, Scripted
from tests.callbacks.trainer import make_trainer
from tests.distributed import run_distributed

QUIET: dict[str, float] = {}
FAR = {"objective/kl": 500.0}


@contextmanager
def what_is_said() -> Iterator[list[str]]:
    """What alarms say inside the block."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [str(one.message) for one in caught if str(one.message).startswith("Iteration ")]


def fit(
    folder: Path, module: Scripted, alarms: TrainingAlarms, ckpt_path: Any = None, **settings: Any
) -> Any:
    others = settings.pop("callbacks", [])
    trainer = make_trainer(folder, [alarms, *others], **settings)
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def test_it_warns_once_when_an_alarm_begins(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    module = Scripted([QUIET, FAR, FAR, QUIET, FAR])
    with what_is_said() as said:
        trainer = fit(tmp_path, module, TrainingAlarms(), max_epochs=5, logger=logger)
    assert [text[:32] for text in said] == [f"Iteration {n}: KL beyond the limit" for n in (1, 4)]
    assert trainer.current_epoch == 5
    assert not list(tmp_path.glob("checkpoints/last-good*"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Tensors("alarms/text_summary")] == [4, 10]


def test_it_stops_with_the_iteration(tmp_path: Path) -> None:
    with what_is_said() as said:
        trainer = fit(tmp_path, Scripted([QUIET, QUIET, FAR]), TrainingAlarms("stop"), max_epochs=9)
    assert said[-1] == "Iteration 2: stopped after iteration 2, because of the alarm"
    assert trainer.current_epoch == 3


def test_it_lowers_the_learning_rate_when_an_alarm_begins_and_while_it_lasts(tmp_path: Path) -> None:
    module = Scripted([QUIET, FAR])
    alarms = TrainingAlarms("lower_learning_rate", learning_rate_factor=0.1)
    with what_is_said() as said:
        fit(tmp_path, module, alarms, max_epochs=9)
    assert said.count("Iteration 1: all learning rates times 0.1") == 1
    assert module.rates[::2] == pytest.approx([0.1, 0.1, *[0.01] * 5, *[0.001] * 2])


@pytest.mark.parametrize(
    "schedule",
    [
        partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
        partial(StepLR, step_size=3, gamma=0.5),
        partial(OneCycleLR, max_lr=0.5, total_steps=20),
        lambda optimizer: SequentialLR(
            optimizer,
            [LinearLR(optimizer, total_iters=3), LambdaLR(optimizer, lambda step: 0.9**step)],
            milestones=[4],
        ),
    ],
)
def test_the_whole_schedule_is_lowered(schedule: Any) -> None:
    def rates(lowered_at: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler, seen = schedule(optimizer), []
        for step in range(10):
            if step == lowered_at:
                scale_learning_rates([optimizer], [scheduler], 0.25)
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    plain, lowered = rates(-1), rates(5)
    assert lowered[:5] == plain[:5]
    assert lowered[5:] == pytest.approx([0.25 * rate for rate in plain[5:]])


def test_it_rolls_back_to_what_passed_without_an_alarm(tmp_path: Path) -> None:
    """Weights after iteration i are good once iteration i + 1 was; the alarm of 4 takes those after 3 with it."""
    module = Scripted([QUIET, QUIET, QUIET, QUIET, FAR, QUIET], partial(StepLR, step_size=1, gamma=0.9))
    alarms = TrainingAlarms("roll_back", save_every=1)
    with what_is_said() as said:
        trainer = fit(tmp_path, module, alarms, max_epochs=6)
    good = tmp_path / "checkpoints" / "last-good-3.ckpt"
    assert said[-1] == f"Iteration 4: rolled back to {good} (roll-back 1 of 3)"
    assert torch.equal(module.at_start[5], module.at_start[3])
    assert not torch.equal(module.at_start[4], module.at_start[3])
    assert trainer.current_epoch == 6
    assert module.coefficient == 4.0  # 3 when it was good, and one more epoch since
    assert module.rates == pytest.approx([0.1 * 0.9**step for step in range(12)])  # the schedule goes on
    stored = torch.load(good, weights_only=True)
    assert torch.equal(stored["state_dict"]["linear.weight"], module.at_start[3])


def test_the_optimizer_is_rolled_back_too(tmp_path: Path) -> None:
    class Watched(Scripted):
        moments: list[torch.Tensor] = []

        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            state = self.optimizers().optimizer.state  # type: ignore[union-attr]
            self.moments.append(state[self.linear.weight]["exp_avg"].clone() if state else torch.zeros(1, 4))

    module = Watched([QUIET, QUIET, QUIET, FAR, QUIET])
    with what_is_said():
        fit(tmp_path, module, TrainingAlarms("roll_back", save_every=1), max_epochs=5)
    assert torch.equal(module.moments[4], module.moments[2])
    assert not torch.equal(module.moments[3], module.moments[2])


def test_the_start_is_good_and_roll_backs_end(tmp_path: Path) -> None:
    module = Scripted([FAR])
    alarms = TrainingAlarms("roll_back", max_roll_backs=2)
    with what_is_said() as said:
        trainer = fit(tmp_path, module, alarms, max_epochs=9)
    assert said[-1] == "Iteration 2: stopped after iteration 2, because of 2 roll-backs, which did not help"
    assert trainer.current_epoch == 3
    assert all(torch.equal(weights, module.at_start[0]) for weights in module.at_start)


def test_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    fit(tmp_path, Scripted(), TrainingAlarms("roll_back", save_every=2), max_epochs=9)
    kept = sorted(file.name for file in (tmp_path / "checkpoints").glob("last-good*"))
    # The last two of Lightning's own checkpoints are of the ends of epochs 7 and 8.
    assert kept == ["last-good-6.ckpt", "last-good-8.ckpt"]


def test_an_update_with_a_gradient_that_is_none_is_left_out(tmp_path: Path) -> None:
    module, expected = Scripted(bad_gradient_at=3), Scripted()
    with what_is_said() as said:
        fit(tmp_path, module, TrainingAlarms(), max_epochs=2)
    assert said[0].startswith("Iteration 1: non-finite numbers: 1 updates were left out")
    assert module.linear.weight.isfinite().all()

    class LeavesOut(Scripted):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            if self.global_step == 3:
                optimizer.zero_grad()

    expected = LeavesOut()
    make_trainer(tmp_path / "expected", [], max_epochs=2, enable_checkpointing=False).fit(expected)
    assert torch.equal(module.linear.weight, expected.linear.weight)


def test_gold_of_validations_counts_when_it_is_new(tmp_path: Path) -> None:
    class Validated(Scripted):
        def val_dataloader(self) -> Any:
            return Batches(1)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/objective/scores", float(self.current_epoch))
            self.log("val/objective/gold", -float(self.current_epoch))

    alarms = TrainingAlarms(gold_window=4)
    with what_is_said() as said:
        fit(tmp_path, Validated(), alarms, max_epochs=8, check_val_every_n_epoch=2)
    (sentence,) = said
    assert "over 4 validations objective/scores went from 1 to 7" in sentence


ONCE = [QUIET, QUIET, QUIET, FAR, QUIET, QUIET, QUIET, FAR]
LASTING = [QUIET, QUIET, FAR]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("action", "script", "after"),
    [
        *(("roll_back", ONCE, after) for after in range(1, 8)),
        *(("lower_learning_rate", LASTING, after) for after in (3, 5)),
    ],
)
def test_a_resumed_run_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, action: Any, script: list[dict[str, float]], after: int
) -> None:
    """A process saves a checkpoint and one that goes on from it is killed four iterations later; the next goes on
    from the same one, and finds what it has to go back to."""

    def run(folder: str, max_epochs: int, ckpt_path: Path | None = None, **settings: Any) -> torch.Tensor:
        module = Scripted(script)
        alarms = TrainingAlarms(action, save_every=1)
        fit(tmp_path / folder, module, alarms, ckpt_path, max_epochs=max_epochs, **settings)
        return module.linear.weight.detach()

    keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    nothing_saved = {"enable_checkpointing": False}
    run("resumed", after, callbacks=[keep])
    run("resumed", min(8, after + 4), tmp_path / "last.ckpt", **nothing_saved)
    resumed = run("resumed", 8, tmp_path / "last.ckpt", **nothing_saved)
    assert torch.equal(resumed, run("whole", 8, **nothing_saved))


def _on_one_rank(folder: Path) -> tuple[int, np.ndarray]:
    warnings.simplefilter("ignore")
    module = Scripted([QUIET], rank_script=[QUIET, QUIET, QUIET, FAR, QUIET])  # rank 1 alone sees it
    alarms = TrainingAlarms("roll_back", save_every=1)
    trainer = fit(folder, module, alarms, max_epochs=5, devices=2, strategy="ddp")
    return trainer.current_epoch, torch.stack(module.at_start).numpy()


def test_two_ranks_do_the_same(tmp_path: Path) -> None:
    first, second = run_distributed(_on_one_rank, 2, tmp_path)
    assert first[0] == second[0] == 5
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(first[1][4], first[1][2])


@pytest.mark.parametrize(
    "wrong", [{"action": "explode"}, {"learning_rate_factor": 1.0}, {"save_every": 0}, {"max_roll_backs": 0}]
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"TrainingAlarms\.{next(iter(wrong))}: expected"):
        TrainingAlarms(**wrong)


def test_several_can_watch_one_run(tmp_path: Path) -> None:
    others = [TrainingAlarms("stop", kl_limit=1000.0)]
    with what_is_said() as said:
        trainer = fit(tmp_path, Scripted([FAR]), TrainingAlarms(), callbacks=others, max_epochs=2)
    assert len(said) == 1
    assert trainer.current_epoch == 2

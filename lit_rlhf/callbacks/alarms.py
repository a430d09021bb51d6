"""Alarms while a policy trains: what usually goes wrong, said when it begins, and answered if asked."""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_rlhf.callbacks.alarm_conditions import Course, Thresholds, note_scores, plain, ringing
from lit_rlhf.callbacks.last_good import LastGood
from lit_rlhf.callbacks.learning_rate import scale_learning_rates

Action = Literal["warn", "stop", "lower_learning_rate", "roll_back"]

BEFORE_LOWERING_AGAIN = 5
"""Iterations that a lowered learning rate is given before it is lowered again."""


class TrainingAlarms(EarlyStopping):
    """Looks at each iteration's numbers as they are logged, and says once when one begins to look wrong.

    The sentence is printed and stands in TensorBoard's text tab under ``alarms``. An update whose gradient is not
    finite is left out, whatever the action. (A loss that is not finite stops the run by itself.) Several of these
    with different actions can watch one run.

    To Lightning this is an early stopping: those alone see what a module logs at the end of an epoch.

    Args:
        action: what an alarm does beside being said. ``warn``: nothing. ``stop``: the fit ends with the iteration.
            ``lower_learning_rate``: all learning rates times `learning_rate_factor`, and again every 5 iterations
            while an alarm lasts. ``roll_back``: weights, optimizer and what PPO keeps beside them (KL coefficient,
            running moments, a moving reference) become those of the last good checkpoint, while iterations are counted
            on, so that the next rollout is another one.
        entropy_share: alarm when objective/entropy is under this share of the first iteration's; null = never.
        kl_limit: alarm when objective/kl is over this, nats a response; null = never.
        gold_window: alarm when over so many iterations, or validations, objective/scores rises and objective/gold
            falls, each by more than two standard errors between the window's halves; null = never.
        length_factor: alarm when rollout/response_length is over so many times the first iteration's; null = never.
        eos_share: alarm when rollout/eos_rate is under this share of the first iteration's, if that was 0.5 or more;
            null = never.
        dead_critic_iterations: alarm when value/explained_variance is 0 or less so many times running; null = never.
        non_finite: alarm when a logged number or a gradient is not finite.
        learning_rate_factor: of ``lower_learning_rate``.
        save_every: iterations between the checkpoints of ``roll_back``. They are
            ``<run>/checkpoints/last-good-<iterations>.ckpt``; one is good once the iteration after it had no alarm.
        max_roll_backs: after so many ``roll_back`` stops the fit instead.

    Raises:
        ValueError: an argument that makes no sense.
    """

    def __init__(
        self,
        action: Action = "warn",
        entropy_share: float | None = 0.1,
        kl_limit: float | None = 100.0,
        gold_window: int | None = 10,
        length_factor: float | None = 3.0,
        eos_share: float | None = 0.25,
        dead_critic_iterations: int | None = 20,
        non_finite: bool = True,
        learning_rate_factor: float = 0.5,
        save_every: int = 5,
        max_roll_backs: int = 3,
    ) -> None:
        super().__init__(monitor="objective/kl")
        if action not in get_args(Action):
            raise ValueError(
                f"TrainingAlarms.action: expected one of {', '.join(get_args(Action))}, found {action!r}."
            )
        factor = learning_rate_factor
        if not 0 < factor < 1:
            raise ValueError(
                f"TrainingAlarms.learning_rate_factor: expected more than 0 and less than 1, found {factor}."
            )
        for name, number in (("save_every", save_every), ("max_roll_backs", max_roll_backs)):
            if number < 1:
                raise ValueError(f"TrainingAlarms.{name}: expected 1 or more, found {number}.")
        self.action = action
        self.thresholds = Thresholds(
            entropy_share, kl_limit, gold_window, length_factor, eos_share, dead_critic_iterations, non_finite
        )
        self.learning_rate_factor = factor
        self.max_roll_backs = max_roll_backs
        self._last_good = LastGood(save_every)
        self._course = Course()
        self._lasting: list[str] = []
        self._roll_backs = 0
        self._quiet_until = 0

    # --- Lightning's hooks --------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        return self._generate_state_key(action=self.action)

    def state_dict(self) -> dict[str, Any]:
        return {
            "course": plain(self._course),
            "lasting": list(self._lasting),
            "roll_backs": self._roll_backs,
            "quiet_until": self._quiet_until,
            "last_good": self._last_good.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._course = Course(**state_dict["course"])
        self._lasting = list(state_dict["lasting"])
        self._roll_backs, self._quiet_until = state_dict["roll_backs"], state_dict["quiet_until"]
        self._last_good.load_state_dict(state_dict["last_good"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing of what an early stopping sets up."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.action == "roll_back":
            self._last_good.begin(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._last_good.note_saved()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        plugin = trainer.precision_plugin
        if not self.thresholds.non_finite or (
            isinstance(plugin, MixedPrecision) and plugin.scaler is not None
        ):
            return  # a gradient scaler finds them by itself, and is expected to
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        lost = bool(gradients) and not bool(torch.nn.utils.get_total_norm(gradients).isfinite())
        if _on_any_rank(trainer, lost):
            self._course.skipped_updates += 1
            optimizer.zero_grad(set_to_none=True)  # an optimizer passes by what has none

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            numbers = _numbers(trainer)
            note_scores(self._course.validations, numbers, "val/objective/", self.thresholds.gold_window)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = ringing(_numbers(trainer), self._course, self.thresholds)
        for name in found:
            if name not in self._lasting:
                self._say(trainer, f"{name}: {found[name]}")
        begins = any(name not in self._lasting for name in found)
        self._lasting = list(found)
        # The ranks' numbers may differ where a module logs without sync_dist; what they do may not.
        rings, begins = _on_any_rank(trainer, bool(found)), _on_any_rank(trainer, begins)
        if rings:
            self._answer(trainer, pl_module, begins)
        elif self.action == "roll_back":
            self._last_good.passed(trainer)

    # --- the actions --------------------------------------------------------------------------------------

    def _answer(self, trainer: L.Trainer, pl_module: L.LightningModule, begins: bool) -> None:
        if self.action == "stop":
            self._stop(trainer, "the alarm")
        elif self.action == "lower_learning_rate" and (begins or trainer.current_epoch >= self._quiet_until):
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            scale_learning_rates(trainer.optimizers, schedulers, self.learning_rate_factor)
            self._quiet_until = trainer.current_epoch + BEFORE_LOWERING_AGAIN
            self._say(trainer, f"all learning rates times {self.learning_rate_factor:g}")
        elif self.action == "roll_back" and self._roll_backs >= self.max_roll_backs:
            self._stop(trainer, f"{self._roll_backs} roll-backs, which did not help")
        elif self.action == "roll_back":
            path = self._last_good.roll_back(trainer, pl_module)
            self._roll_backs += 1
            self._course.forget_trends()
            self._lasting = []
            self._say(
                trainer, f"rolled back to {path} (roll-back {self._roll_backs} of {self.max_roll_backs})"
            )

    def _stop(self, trainer: L.Trainer, because: str) -> None:
        trainer.should_stop = True
        self._say(trainer, f"stopped after iteration {trainer.current_epoch}, because of {because}")

    def _say(self, trainer: L.Trainer, text: str) -> None:
        rank_zero_warn(f"Iteration {trainer.current_epoch}: {text}")
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_text("alarms", text, trainer.global_step)


def _numbers(trainer: L.Trainer) -> dict[str, float]:
    """The last value of every logged scalar."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }


def _on_any_rank(trainer: L.Trainer, decision: bool) -> bool:
    return (
        trainer.strategy.reduce_boolean_decision(decision, all=False) if trainer.world_size > 1 else decision
    )

"""What PPO minimises on a minibatch, and what it watches meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from lit_rlhf.losses.policy import LossMean, clipped_policy_loss, clipped_value_loss, loss_sum
from lit_rlhf.metrics import approximate_kl, clip_fraction, value_clip_fraction
from lit_rlhf.models.actor_critic import ActorCriticOutput
from lit_rlhf.ops.masking import masked_mean, masked_sum
from lit_rlhf.records import Experience, ExperienceBatch
from lit_rlhf.rollout.credit import ESTIMATORS, Estimator, Level, Place

LARGEST = 20.0
"""Log-ratio of a whole response beyond which it is not followed, as in the clipped surrogate."""


@dataclass(frozen=True)
class PolicyObjective:
    """The terms of PPO's loss. The fields are :class:`PPOModule`'s arguments of the same names."""

    level: Level = "token"
    loss_mean: LossMean = "tokens"
    clip_range: float = 0.2
    clip_range_high: float | None = None
    dual_clip: float | None = None
    value_clip_range: float | None = 0.2
    value_coef: float = 0.1
    entropy_coef: float = 0.0
    kl_in: Place = "reward"
    kl_estimator: Estimator = "k1"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.loss_mean not in get_args(LossMean):
            raise ValueError(
                f"model.loss_mean: expected one of {', '.join(get_args(LossMean))}, found {self.loss_mean!r}."
            )
        if self.level != "token" and self.loss_mean != "tokens":
            raise ValueError(
                f"model.loss_mean: at model.level {self.level} the loss is a mean over responses; leave it out."
            )
        if self.clip_range <= 0:
            raise ValueError(f"model.clip_range: expected more than 0, found {self.clip_range}.")
        for name, least in (("clip_range_high", 0.0), ("value_clip_range", 0.0), ("dual_clip", 1.0)):
            number = getattr(self, name)
            if number is not None and number <= least:
                raise ValueError(f"model.{name}: expected more than {least:g}, or null, found {number}.")
        for name in ("value_coef", "entropy_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name}: expected 0 or more, found {getattr(self, name)}.")

    @property
    def counts_tokens(self) -> bool:
        """Whether the loss is a mean over tokens; else over responses."""
        return self.level == "token" and self.loss_mean == "tokens"

    def counted_items(self, experience: Experience, indices: list[int]) -> int:
        """Items that the loss of these responses is a mean over."""
        mask = experience.counted_mask[indices]
        return int(mask.sum() if self.counts_tokens else mask.any(1).sum())

    def per_item(self, grid: Tensor, mask: Tensor) -> Tensor:
        """Token quantities ``[N, R]`` as the level takes them: as they are, or a response's sum or mean ``[N]``."""
        if self.level == "token":
            return grid
        return masked_sum(grid, mask, dim=1) if self.level == "sequence" else masked_mean(grid, mask, dim=1)

    def loss(
        self, now: ActorCriticOutput, batch: ExperienceBatch, kl_coef: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The sum of the losses, how many items it is over, and numbers to log.

        Σ policy loss + value_coef · value loss + β · KL estimate (where it stands in the loss) - entropy_coef · H.

        Args:
            now: log-probabilities, values and entropies under the network being trained.
            batch: the minibatch.
            kl_coef: β.
        """
        mask = batch.trees.response_grid_mask()
        counted = mask if self.level == "token" else mask[:, 0]
        logprobs, old = self.per_item(now.logprobs, mask), self.per_item(batch.old_logprobs, mask)
        advantages = batch.advantages if self.level == "token" else batch.advantages[:, 0]
        policy_losses = clipped_policy_loss(
            logprobs, old, advantages, self.clip_range, self.clip_range_high, self.dual_clip
        )
        losses = policy_losses
        if self.kl_in == "loss" and kl_coef > 0:
            losses = losses + kl_coef * self._kl_losses(now.logprobs, batch.reference_logprobs, mask)
        if now.entropy is not None:
            losses = losses - self.entropy_coef * self.per_item(now.entropy, mask)
        metrics = {
            "policy/loss": masked_mean(policy_losses.detach(), counted),
            "policy/approx_kl": approximate_kl(now.logprobs.detach(), batch.old_logprobs, mask),
            "policy/clip_fraction": clip_fraction(
                logprobs.detach(),
                old,
                advantages,
                counted,
                self.clip_range,
                self.clip_range_high,
                self.dual_clip,
            ),
            "policy/ratio": masked_mean((logprobs.detach() - old).clamp(max=LARGEST).exp(), counted),
        }
        if now.values is not None:
            value_losses, value_metrics = self._value_losses(now.values, batch, counted)
            losses = losses + self.value_coef * value_losses
            metrics |= value_metrics
        if self.level == "token":
            total, count = loss_sum(losses, mask, self.loss_mean, self.max_new_tokens)
        else:
            total, count = masked_sum(losses, counted), counted.sum()
        return total, count, metrics

    def _kl_losses(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """KL estimates of the items, of whole responses by the sum of their tokens' log-ratios."""
        estimator = ESTIMATORS[self.kl_estimator]
        if self.level == "token":
            return estimator(logprobs, reference)
        log_ratio = masked_sum(logprobs - reference, mask, dim=1).clamp(-LARGEST, LARGEST)
        estimates = estimator(log_ratio, torch.zeros_like(log_ratio))
        # GSPO divides a response's policy gradient by its tokens, and so the price against which it stands
        return estimates / mask.sum(1).clamp(min=1) if self.level == "gspo" else estimates

    def _value_losses(
        self, values: Tensor, batch: ExperienceBatch, counted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of each token, or of each response before its first one."""
        old_values, returns = batch.values, batch.returns
        if self.level != "token":
            values, old_values, returns = values[:, 0], old_values[:, 0], returns[:, 0]
        losses = clipped_value_loss(values, old_values, returns, self.value_clip_range)
        metrics = {"value/loss": masked_mean(losses.detach(), counted)}
        if self.value_clip_range is not None:
            metrics["value/clip_fraction"] = value_clip_fraction(
                values.detach(), old_values, returns, counted, self.value_clip_range
            )
        return losses, metrics


def log_ratio_moments(now: ActorCriticOutput, batch: ExperienceBatch) -> Tensor:
    """Sum over tokens of the approximate KL since the rollout, and their number, ``[2]``."""
    mask = batch.trees.response_grid_mask()
    tokens = mask.sum().float()
    return torch.stack([approximate_kl(now.logprobs.detach(), batch.old_logprobs, mask) * tokens, tokens])

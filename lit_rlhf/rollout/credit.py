"""What each token is credited with: from scores and KL to rewards, advantages and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_rlhf.ops.advantages import generalized_advantages, kl_penalized_rewards, reinforce_returns
from lit_rlhf.ops.group_advantages import dr_grpo_advantages, grpo_advantages, rloo_advantages
from lit_rlhf.ops.kl import k1, k2, k3
from lit_rlhf.ops.masking import masked_mean, masked_sum, masked_whiten
from lit_rlhf.records import Experience

Advantage = Literal["gae", "reinforce", "rloo", "grpo", "dr_grpo"]
Baseline = Literal["none", "mean", "value"]
Level = Literal["token", "sequence", "gspo"]
Estimator = Literal["k1", "k2", "k3"]
Place = Literal["reward", "loss"]
"""Where the KL price stands."""

CHOICES: dict[str, tuple[str, ...]] = {
    "advantage": get_args(Advantage),
    "baseline": get_args(Baseline),
    "level": get_args(Level),
    "kl_in": get_args(Place),
    "kl_estimator": get_args(Estimator),
}
"""The words that each argument takes; the command line knows them from the types, Python does not."""

ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
GROUP_ADVANTAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rloo": rloo_advantages,
    "grpo": grpo_advantages,
    "dr_grpo": dr_grpo_advantages,
}
"""Estimators that compare the responses of one prompt with each other."""


@dataclass(frozen=True)
class Credit:
    """How advantages are estimated. The fields are :class:`PPOModule`'s arguments of the same names."""

    advantage: Advantage = "gae"
    baseline: Baseline = "mean"
    level: Level = "token"
    kl_in: Place = "reward"
    kl_estimator: Estimator = "k1"
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        for name, share in (("gamma", self.gamma), ("lam", self.lam)):
            if not 0 <= share <= 1:
                raise ValueError(f"model.{name}: expected 0 to 1, found {share}.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"model.{name}: expected one of {', '.join(choices)}, found {getattr(self, name)!r}."
                )

    @property
    def wants_critic(self) -> bool:
        """Whether the values of a critic go in."""
        return self.advantage == "gae" or (self.advantage == "reinforce" and self.baseline == "value")


def assign_credit(experience: Experience, credit: Credit, kl_coef: float) -> Experience:
    """The experience with rewards, advantages and returns.

    R_t = −β·k_t + [t = last]·shaped score, with the price only where it stands in the reward; then the advantages.
    At the level of whole responses a response has one advantage and one return, which stand at each of its
    tokens. Whitening runs over the whole rollout, after the returns were taken.

    Args:
        experience: all ranks' responses, with their shaped scores.
        credit: how.
        kl_coef: β, the price of one nat.
    """
    mask = experience.counted_mask
    price = ESTIMATORS[credit.kl_estimator](experience.old_logprobs, experience.reference_logprobs)
    in_reward = kl_coef if credit.kl_in == "reward" else 0.0
    rewards = kl_penalized_rewards(experience.shaped_scores, price, experience.response_mask, in_reward)
    rewards = rewards.masked_fill(~mask, 0)
    if credit.whiten_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False)
    if credit.advantage in GROUP_ADVANTAGES:
        advantages, returns = _of_groups(experience, rewards, GROUP_ADVANTAGES[credit.advantage])
    elif credit.level == "token":
        advantages, returns = _of_tokens(experience, rewards, credit)
    else:
        advantages, returns = _of_responses(experience, rewards, credit)
    if credit.whiten_advantages:
        advantages = _whitened(advantages, mask, credit.level)
    return replace(experience, rewards=rewards, advantages=advantages, returns=returns)


def _of_tokens(experience: Experience, rewards: Tensor, credit: Credit) -> tuple[Tensor, Tensor]:
    mask, values = experience.counted_mask, experience.values
    if credit.advantage == "gae":
        return generalized_advantages(values, rewards, mask, credit.gamma, credit.lam)
    returns = reinforce_returns(rewards, mask, credit.gamma)
    if credit.baseline == "value":
        return (returns - values).masked_fill(~mask, 0), returns
    baseline = masked_mean(returns, mask) if credit.baseline == "mean" else 0.0
    return (returns - baseline).masked_fill(~mask, 0), returns


def _of_responses(experience: Experience, rewards: Tensor, credit: Credit) -> tuple[Tensor, Tensor]:
    """The bandit: a response is one action, its value what the critic says before its first token."""
    mask = experience.counted_mask
    totals = masked_sum(rewards, mask, dim=1)
    baseline: Tensor | float = 0.0
    if credit.wants_critic:
        baseline = experience.values[:, 0]
    elif credit.baseline == "mean":
        baseline = masked_mean(totals, ~experience.failed)
    return _spread(totals - baseline, mask), _spread(totals, mask)


def _of_groups(
    experience: Experience, rewards: Tensor, estimator: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """One advantage a response, from the totals of its prompt's other responses."""
    mask = experience.counted_mask
    totals = masked_sum(rewards, mask, dim=1)
    group = experience.prompt_index
    counts = torch.bincount(group[~experience.failed], minlength=int(group.max()) + 1)
    # where failed rewards left a response alone there is nothing to compare it with: it teaches nothing
    compared = ~experience.failed & (counts[group] > 1)
    advantages = torch.zeros_like(totals)
    if bool(compared.any()):
        advantages[compared] = estimator(totals[compared], group[compared])
    return _spread(advantages, mask), _spread(totals, mask)


def _spread(per_response: Tensor, mask: Tensor) -> Tensor:
    return per_response[:, None].expand(mask.shape).masked_fill(~mask, 0)


def _whitened(advantages: Tensor, mask: Tensor, level: Level) -> Tensor:
    if level == "token":
        return masked_whiten(advantages, mask)
    return _spread(masked_whiten(advantages[:, 0], mask[:, 0]), mask)

"""What is logged, by name, and the numbers of this field that torchmetrics lacks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from lit_rlhf.ops.kl import k3
from lit_rlhf.ops.masking import masked_mean, masked_variance
from lit_rlhf.ops.shapes import check_same_shape

LOGGED_NAMES: dict[str, str] = {
    "train/loss": "what the optimizer minimises, mean over the counted items of the whole batch, all ranks",
    "train/perplexity": "exp of the mean negative log-likelihood of a counted token",
    "val/loss": "train/loss on the validation data",
    "val/perplexity": "train/perplexity on the validation data",
    "rewards/chosen": "mean score (DPO: implicit reward) of the better responses",
    "rewards/rejected": "mean score (DPO: implicit reward) of the worse responses",
    "rewards/margins": "mean of better minus worse, pair by pair",
    "rewards/accuracies": "share of strict comparisons in which the better response scores higher",
    "val/rewards/chosen": "rewards/chosen on the validation data",
    "val/rewards/rejected": "rewards/rejected on the validation data",
    "val/rewards/margins": "rewards/margins on the validation data",
    "val/rewards/accuracies": "rewards/accuracies on the validation data",
    "logps/chosen": "mean log-probability of a better response, nats, summed over its tokens",
    "logps/rejected": "mean log-probability of a worse response, nats, summed over its tokens",
    "val/logps/chosen": "logps/chosen on the validation data",
    "val/logps/rejected": "logps/rejected on the validation data",
    "objective/kl": "KL of the policy from the reference, nats a response, summed over its tokens",
    "objective/scores": "mean score of the rollout's responses, before any KL price",
    "objective/rlhf_reward": "mean score minus the KL price of the response: what PPO maximises",
    "objective/entropy": "mean entropy of the distributions the tokens were drawn from, nats a token",
    "objective/kl_coef": "price of one nat of KL, in units of the score",
    "val/objective/scores": "objective/scores of responses to the validation prompts",
    "val/objective/kl": "objective/kl of responses to the validation prompts",
    "policy/loss": "clipped surrogate loss, mean over tokens",
    "policy/approx_kl": "KL of the policy since the rollout, estimated, nats a token",
    "policy/clip_fraction": "share of tokens whose ratio the clip range holds back",
    "policy/ratio": "mean probability ratio of new to old policy; 1 before the first update of a rollout",
    "value/loss": "clipped value loss, mean over tokens, the factor 1/2 included",
    "value/clip_fraction": "share of tokens whose value the clip range holds back",
    "value/explained_variance": "share of the returns' variance that the critic foresaw at the rollout",
    "rollout/response_length": "mean tokens of a response, its EOS included",
    "rollout/eos_rate": "share of responses that ended by themselves",
    "val/rollout/response_length": "rollout/response_length on the validation prompts",
    "val/rollout/eos_rate": "rollout/eos_rate on the validation prompts",
    "episodes": "responses sampled and trained on since the start, over all ranks",
    "perf/tokens_per_second": "tokens trained on a second, over all ranks",
    "time/rollout_seconds": "seconds the last rollout took",
    "time/update_seconds": "seconds the last rollout's updates took",
}
"""Every name that a module logs, with its meaning."""


class PairAccuracy(Metric):
    """Share of the strict comparisons in which the better response has the higher score.

    Counted pair by pair, never as a mean of batches or prompts. Equal scores are wrong; a comparison
    with target 1/2, a tie, is no pair; one with a target below 1/2 counts the other way round. NaN
    where no strict comparison was seen.

    Example:
        >>> accuracy = PairAccuracy()
        >>> better, worse = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 9.0])
        >>> accuracy.update(better, worse, target=torch.tensor([1.0, 1.0, 0.5]))  # right, wrong, no pair
        >>> accuracy.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, better_scores: Tensor, worse_scores: Tensor, target: Tensor) -> None:
        """Counts a batch of comparisons.

        Args:
            better_scores: Shape ``[C]``.
            worse_scores: Shape ``[C]``.
            target: probability that `better` is better. Shape ``[C]``.

        Raises:
            ValueError: the shapes differ.
        """
        check_same_shape(better_scores=better_scores, worse_scores=worse_scores, target=target)
        preferred = (target - 0.5).sign()
        right = (better_scores - worse_scores).sign() == preferred
        self.correct += (right & (preferred != 0)).sum()
        self.total += (preferred != 0).sum()

    def compute(self) -> Tensor:
        """The share, a scalar in [0, 1], or NaN."""
        return self.correct / self.total


def approximate_kl(policy_logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """How far the policy has moved since the rollout, estimated from the rollout's tokens.

    Mean over counted tokens of (ρ - 1) - log ρ, with ρ = π/π_old: k3 of KL(π_old‖π).

    Args:
        policy_logprobs: log π of each token. Shape ``[N, R]``.
        old_logprobs: log π_old. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.

    Returns:
        Nats per token, a scalar, not negative.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> logprobs, old, mask = torch.tensor([[2.0]]).log(), torch.zeros(1, 1), torch.tensor([[True]])
        >>> approximate_kl(logprobs, old, mask)  # 1 - log 2
        tensor(0.3069)
    """
    return masked_mean(k3(old_logprobs, policy_logprobs), response_mask)


def clip_fraction(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
) -> Tensor:
    """Share of the counted tokens whose gradient the clipped surrogate cuts off.

    ρ > 1 + ε where A > 0, ρ < 1 - ε where A < 0. A ratio outside the range on the other side is
    still pulled back, so it does not count.

    Args:
        policy_logprobs: log π of each token. Shape ``[N, R]``.
        old_logprobs: log π_old. Shape ``[N, R]``.
        advantages: A. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        clip_range: ε.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> logprobs, old = torch.tensor([[1.5, 1.5]]).log(), torch.zeros(1, 2)
        >>> advantages, mask = torch.tensor([[1.0, -1.0]]), torch.tensor([[True, True]])
        >>> clip_fraction(logprobs, old, advantages, mask, clip_range=0.2)
        tensor(0.5000)
    """
    check_same_shape(policy_logprobs=policy_logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (policy_logprobs - old_logprobs).exp()
    binds = ((advantages > 0) & (ratio > 1 + clip_range)) | ((advantages < 0) & (ratio < 1 - clip_range))
    return masked_mean(binds.to(ratio.dtype), response_mask)


def value_clip_fraction(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip_range: float | None
) -> Tensor:
    """Share of the counted tokens where the value loss takes the clipped error.

    |V - V_old| > ε, and the clipped value is further from the return than V itself.

    Args:
        values: V. Shape ``[N, R]``.
        old_values: V_old. Shape ``[N, R]``.
        returns: R. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        clip_range: ε; None, no clipping, gives 0.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> values, old, returns = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])
        >>> value_clip_fraction(values, old, returns, torch.tensor([[True, True]]), clip_range=0.2)
        tensor(0.5000)
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    if clip_range is None:
        return masked_mean(torch.zeros_like(values), response_mask)
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    outside = (values - old_values).abs() > clip_range
    binds = outside & ((clipped - returns).abs() > (values - returns).abs())
    return masked_mean(binds.to(values.dtype), response_mask)


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """Share of the returns' variance that the values account for.

    1 - Var(R - V) / Var(R), over counted tokens.

    Args:
        values: V. Shape ``[N, R]``.
        returns: R. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.

    Returns:
        A scalar, 1 for a perfect critic, 0 for a constant one, below 0 for a worse one; 0 where the
        returns do not vary.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> returns, mask = torch.tensor([[0.0, 2.0]]), torch.tensor([[True, True]])
        >>> explained_variance(torch.tensor([[5.0, 6.0]]), returns, mask)
        tensor(0.7500)
    """
    check_same_shape(values=values, returns=returns)
    variance = masked_variance(returns, response_mask)
    share = 1 - masked_variance(returns - values, response_mask) / variance
    return torch.where(variance > 0, share, torch.zeros_like(share))


class NamedMeans(nn.Module):
    """Weighted means of several named scalars over an epoch and over ranks.

    Args:
        names: the logged names; one that is never updated is left out of the result.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._means = {name: MeanMetric() for name in names}
        # registered under names without slashes and dots, which submodules may not have
        for number, mean in enumerate(self._means.values()):
            self.add_module(f"mean_{number}", mean)

    def update(self, name: str, value: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add a scalar, or a tensor of them, with its weight."""
        self._means[name].update(value, weight)

    def compute(self) -> dict[str, Tensor]:
        """The means by name; everything starts anew afterwards."""
        means = {name: mean.compute() for name, mean in self._means.items() if mean.update_called}
        for mean in self._means.values():
            mean.reset()
        return means

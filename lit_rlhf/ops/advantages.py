"""From one score per response to what every token is credited with.

Chosen once, where codes differ: the score stands at the last counted token, which is the EOS where
one was drawn (InstructGPT, OpenRLHF; TRL adds it one position later), and the value after that token
is 0. Advantages of a rollout are whitened by the biased variance (lm-human-preferences, OpenRLHF; TRL
has Bessel's), those inside a group of responses by Bessel's (see ``group_advantages.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def kl_penalized_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """Per-token rewards: the KL price of each token, and the score at the last counted one.

    R_t = -β·kl_t + [t = last]·score.

    With `kl` = k1 the rewards of a response sum to
    score - β·log π(y|x)/π_ref(y|x).

    Args:
        scores: what the reward said of each response. Shape ``[N]``.
        kl: KL estimate of each token in nats, detached. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        kl_coef: β, score units per nat; 0 leaves the score alone, whatever the KL is.

    Returns:
        Rewards, shape ``[N, R]``, 0 where the mask is False. Whatever gradient the arguments carry.

    Raises:
        ValueError: the shapes do not fit, or a response has no counted token (its score would be lost).

    Source:
        Ouyang et al. 2022, arXiv 2203.02155, eq. 2, per token as in Ziegler et al. 2019, arXiv 1909.08593.

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> kl_penalized_rewards(torch.tensor([1.0]), torch.tensor([[0.5, -0.5, 9.0]]), mask, 0.2)
        tensor([[-0.1000,  1.1000,  0.0000]])
    """
    check_same_shape(kl=kl, response_mask=response_mask)
    if scores.shape != kl.shape[:1]:
        raise ValueError(f"expected one score a response, [{kl.shape[0]}], found {list(scores.shape)}")
    empty = (~response_mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"expected a counted token in every response, found none in responses {empty}")
    # Without a price the KL is not read: 0 times the infinite log-ratio of another reference would be no number.
    price = torch.zeros_like(kl) if kl_coef == 0 else (-kl_coef * kl).masked_fill(~response_mask, 0)
    # The last True of each row: the first of the mask turned round (argmax gives the first maximum).
    last = response_mask.shape[1] - 1 - response_mask.flip(1).int().argmax(dim=1, keepdim=True)
    return price.scatter_add(1, last, scores.unsqueeze(1).to(price.dtype))


def generalized_advantages(
    values: Tensor, rewards: Tensor, response_mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates of each token, and the returns the critic is trained on.

    δ_t = R_t + γ·V_{t+1} - V_t,  A_t = δ_t + γ·λ·A_{t+1},  returns = A + V.

    The value after the last counted token is 0, truncated responses included, as in RLHF codes.
    Tokens that do not count are no steps: the recursion passes over them, wherever they stand.

    Args:
        values: the critic's value before each token. Shape ``[N, R]``.
        rewards: per-token rewards. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        gamma: γ in [0, 1], discount per token; 1 is usual for text.
        lam: λ in [0, 1]; 1 gives Σ future rewards - V, 0 gives δ.

    Returns:
        ``(advantages, returns)``, each ``[N, R]``, 0 where the mask is False. Not whitened.

    Raises:
        ValueError: the shapes differ, or `gamma` or `lam` is outside [0, 1].

    Source:
        Schulman et al. 2015, arXiv 1506.02438, eq. 11-16.

    Example:
        >>> values, rewards = torch.tensor([[0.5, 0.5, 7.0]]), torch.tensor([[0.0, 1.0, 7.0]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> generalized_advantages(values, rewards, mask, gamma=1.0, lam=0.5)
        (tensor([[0.2500, 0.5000, 0.0000]]), tensor([[0.7500, 1.0000, 0.0000]]))
    """
    check_same_shape(values=values, rewards=rewards, response_mask=response_mask)
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise ValueError(f"expected {name} within [0, 1], found {number}")
    next_value = advantage = values.new_zeros(len(values))
    columns: list[Tensor] = []
    for t in reversed(range(values.shape[1])):
        counted = response_mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(counted, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(counted, values[:, t], next_value)
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1).masked_fill(~response_mask, 0)
    return advantages, (advantages + values).masked_fill(~response_mask, 0)


def reinforce_returns(rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """The discounted sum of each token's reward and all later ones of its response.

    G_t = Σ_{s≥t} γ^{s-t}·R_s.

    REINFORCE's advantage without a baseline; with one, subtract it from these. At γ = 1 the first
    counted token has the reward of the whole response. Tokens that do not count are no steps.

    Args:
        rewards: per-token rewards. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        gamma: γ in [0, 1], discount per token; 1 is usual for text.

    Returns:
        Returns, shape ``[N, R]``, 0 where the mask is False. Not whitened.

    Raises:
        ValueError: the shapes differ, or `gamma` is outside [0, 1].

    Source:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist
        reinforcement learning"; Sutton and Barto 2018, eq. 3.8.

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> reinforce_returns(torch.tensor([[1.0, 2.0, 9.0]]), mask, gamma=0.5)
        tensor([[2., 2., 0.]])
    """
    # GAE with λ = 1 and a critic that expects nothing.
    return generalized_advantages(torch.zeros_like(rewards), rewards, response_mask, gamma, lam=1.0)[0]

"""Advantages of whole responses against the other responses to the same prompt; no critic.

``r`` the rewards of one prompt's G responses, ``r̄`` their mean. A reward here is that of a whole
response: with the KL price inside it, it is score - β·Σ_t k1_t.

A group of one has nothing to be compared with and raises. Responses whose reward failed are left out
by the caller, and so is what remains of their group when that is a single one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def rloo_advantages(rewards: Tensor, group: Tensor) -> Tensor:
    """Each reward minus the mean of the group's others: REINFORCE with a leave-one-out baseline.

    A_i = r_i - Σ_{j≠i} r_j / (G-1) = G/(G-1)·(r_i - r̄).

    The baseline does not depend on response i, so the policy gradient stays unbiased.

    Args:
        rewards: one a response. Shape ``[N]``.
        group: which prompt a response answers, Long, any numbers in any order. Shape ``[N]``.

    Returns:
        Advantages, shape ``[N]``, 0 where all rewards of a group are equal.

    Raises:
        ValueError: the shapes differ, or a group has one response only.

    Source:
        Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024,
        arXiv 2402.14740, eq. 4.

    Example:
        >>> rloo_advantages(torch.tensor([1.0, 0.0, 3.0, 3.0]), torch.tensor([0, 0, 5, 5]))
        tensor([ 1., -1.,  0.,  0.])
    """
    centred, index, count = _centred(rewards, group)
    return centred * (count / (count - 1))[index]


def grpo_advantages(rewards: Tensor, group: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Each reward as a number of the group's standard deviations above the group's mean.

    A_i = (r_i - r̄) / (std + ε), std = √(Σ_j (r_j - r̄)² / (G-1)).

    The source writes ``std`` and nothing else. As in TRL it has Bessel's G-1, unlike the whitening
    of a rollout (:func:`~lit_rlhf.ops.masking.masked_whiten`), and ε is added to the deviation.

    Args:
        rewards: one a response. Shape ``[N]``.
        group: which prompt a response answers, Long, any numbers in any order. Shape ``[N]``.
        epsilon: ε, in units of the rewards (1e-4, TRL; OpenRLHF has 1e-9).

    Returns:
        Advantages, shape ``[N]``, 0 where all rewards of a group are equal.

    Raises:
        ValueError: the shapes differ, or a group has one response only.

    Source:
        Shao et al. 2024, arXiv 2402.03300, section 4.1.2.

    Example:
        >>> grpo_advantages(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0, 0, 0]), epsilon=0)
        tensor([ 0., -1.,  1.])
    """
    centred, index, count = _centred(rewards, group)
    squares = torch.zeros_like(count).index_add(0, index, centred.square())
    return centred / ((squares / (count - 1)).sqrt() + epsilon)[index]


def dr_grpo_advantages(rewards: Tensor, group: Tensor) -> Tensor:
    """Each reward minus the group's mean.

    A_i = r_i - r̄.

    Not divided by the deviation, which would give prompts that are nearly solved, or nearly
    hopeless, a larger weight than the others.

    Args:
        rewards: one a response. Shape ``[N]``.
        group: which prompt a response answers, Long, any numbers in any order. Shape ``[N]``.

    Returns:
        Advantages, shape ``[N]``, 0 where all rewards of a group are equal.

    Raises:
        ValueError: the shapes differ, or a group has one response only.

    Source:
        Liu et al. 2025, arXiv 2503.20783, section 3.2.

    Example:
        >>> dr_grpo_advantages(torch.tensor([1.0, 0.0, 3.0, 3.0]), torch.tensor([0, 0, 5, 5]))
        tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    return _centred(rewards, group)[0]


def _centred(rewards: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards minus their group's mean ``[N]``, each one's place among the groups ``[N]``, the groups' sizes."""
    check_same_shape(rewards=rewards, group=group)
    names, index, sizes = torch.unique(group, return_inverse=True, return_counts=True)
    alone = names[sizes == 1].tolist()
    if alone:
        raise ValueError(
            f"expected two or more responses in every group, found one in groups {alone[:8]}: "
            "an advantage against the others of a group needs others"
        )
    count = sizes.to(rewards.dtype)
    nothing = torch.zeros_like(count)
    # Taken from the group's highest first: equal rewards then give 0 and not a rounding error, which
    # a deviation of the same size would blow up.
    highest = nothing.scatter_reduce(0, index, rewards, "amax", include_self=False)
    below = rewards - highest[index]
    return below - (nothing.index_add(0, index, below) / count)[index], index, count

"""How much a response counts: by its reward, or by how likely the policy would say it itself.

Weights multiply losses that are made elsewhere, and carry no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.masking import masked_mean
from lit_rlhf.ops.shapes import check_same_shape


def reward_weights(scores: Tensor, tree_index: Tensor, beta: float) -> Tensor:
    """Weights of reward-weighted regression: e^{r/β}, relative to the mean over the prompt's responses.

    w_i = e^{r_i/β} / mean_j e^{r_j/β}, over the responses j of the prompt of i.

    Where responses are drawn from π_ref, fine-tuning with these weights has the optimum π_ref·e^{r/β}/Z, that
    of PPO and DPO. The mean stands in for Z, so a prompt needs several responses: one alone always has
    weight 1, and few understate the best.

    Helps when there is a reward and a pile of samples, and nothing should be sampled again; a small β leaves
    few of them with any weight.

    Args:
        scores: r(x, y). Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.
        beta: β > 0, the KL price in units of the reward per nat.

    Returns:
        Weights, 1 on average over each prompt's responses, without gradient. Shape ``[N]``.

    Raises:
        ValueError: the shapes differ, or `beta` is not positive.

    Source:
        Peters and Schaal 2007, "Reinforcement learning by reward-weighted regression for operational space
        control"; with the KL price as temperature: Peng et al. 2019, arXiv 1910.00177.

    Example:
        >>> reward_weights(torch.tensor([3.0, 1.0, 7.0]).log(), torch.tensor([0, 0, 1]), beta=1.0)
        tensor([1.5000, 0.5000, 1.0000])
    """
    check_same_shape(scores=scores, tree_index=tree_index)
    if beta <= 0:
        raise ValueError(f"expected beta above 0, found {beta}")
    scores = scores.detach()
    num_trees = int(tree_index.max()) + 1 if len(tree_index) else 0
    # Relative to the best of the prompt, before β divides, so that nothing overflows.
    best = scores.new_full((num_trees,), -torch.inf).scatter_reduce(0, tree_index, scores, "amax")
    strengths = ((scores - best[tree_index]) / beta).exp()
    total = strengths.new_zeros(num_trees).index_add(0, tree_index, strengths)
    counts = tree_index.bincount(minlength=num_trees)
    return strengths * (counts / total)[tree_index]


def wpo_weights(logprobs: Tensor, log_collisions: Tensor, response_mask: Tensor) -> Tensor:
    """How on-policy a response is: its probability per token, next to that of what the policy would sample.

    w(x, y) = exp(mean_t [log π(y_t) - log Σ_v π(v)²]).

    As in the source, which multiplies a pair's loss by w(y_w)·w(y_l). Above 1 where tokens are likelier than
    draws are on average.

    Helps when pairs were not written by the policy that is trained: those that it would never say count less.
    It takes the logits of every position, and its weights are far from 1 on short responses; nothing bounds them.

    Args:
        logprobs: log π of each response token. Shape ``[N, R]``.
        log_collisions: :func:`~lit_rlhf.ops.logprobs.log_collision` of the logits that predict it. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.

    Returns:
        Weights, without gradient. Shape ``[N]``.

    Raises:
        ValueError: the shapes differ.

    Source:
        Zhou et al. 2024, arXiv 2406.11827, eq. 2, with sampled alignment.

    Example:
        >>> logprobs, mask = torch.tensor([[0.5, 0.25]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> wpo_weights(logprobs, torch.tensor([[0.25, 0.25]]).log(), mask)  # √2
        tensor([1.4142])
    """
    check_same_shape(logprobs=logprobs, log_collisions=log_collisions)
    return masked_mean(logprobs.detach() - log_collisions, response_mask, dim=1).exp()

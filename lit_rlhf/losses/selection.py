"""Learning from the reward alone: which of a prompt's responses are learnt, and the loss on them.

Letters: N responses of all prompts, R tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.ops.masking import masked_sum
from lit_rlhf.ops.shapes import check_same_shape


def best_of(scores: Tensor, tree_index: Tensor, keep: int = 1) -> Tensor:
    """The `keep` best scored responses of each prompt.

    Of equal scores the one that stands first is the better one. Draws come in random order, so the one that is kept
    is still a fair draw of them, as best-of-n has it.

    Fine-tuning on the best of n draws from π_ref has the best-of-n distribution as its optimum
    (:func:`lit_rlhf.metrics.best_of_n_probabilities`); on draws from the policy itself it is repeated without end,
    and the optimum is the best response there is.

    Args:
        scores: r(x, y); NaN = the reward failed. Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.
        keep: responses of each prompt, at least 1.

    Returns:
        Bool ``[N]``, True = kept. One that failed never is, so of a prompt with fewer scores all of them are.

    Raises:
        ValueError: the shapes differ, or `keep` is below 1.

    Source:
        From the policy as it stands: RAFT, Dong et al. 2023, arXiv 2304.06767; that to imitate the outcome of a search
        guided by the policy, and to search anew, makes both better is expert iteration, Anthony et al. 2017, arXiv
        1705.08439.

    Example:
        >>> best_of(torch.tensor([1.0, 3.0, 3.0, torch.nan, 0.0]), torch.tensor([0, 0, 0, 1, 1]))
        tensor([False,  True, False, False,  True])
    """
    check_same_shape(scores=scores, tree_index=tree_index)
    if keep < 1:
        raise ValueError(f"expected keep of 1 or more, found {keep}")
    failed = scores.isnan()
    best_first = scores.masked_fill(failed, -torch.inf).argsort(descending=True, stable=True)
    # a score may be -inf too: one that failed stands behind it
    best_first = best_first[failed[best_first].int().argsort(stable=True)]
    by_prompt = best_first[tree_index[best_first].argsort(stable=True)]
    counts = tree_index.bincount()
    starts = (counts.cumsum(0) - counts)[tree_index[by_prompt]]
    place = torch.empty_like(tree_index)
    place[by_prompt] = torch.arange(len(scores), device=scores.device) - starts
    return (place < keep) & ~failed


def imitation_loss(logprobs: Tensor, response_mask: Tensor, weights: Tensor) -> Tensor:
    """Negative log-likelihood of each response, times what the response counts.

    -w_i · Σ_t m_t log π(y_t | x, y_<t).

    With responses drawn from some q its mean over responses is that of w·(-log π) over q, least where π is q·w up to a
    factor for each prompt: with best-of-n's w of 0 and 1 the best-of-n distribution, with w = e^{r/β} on π_ref
    π_ref·e^{r/β}/Z. That takes a sum over tokens, and a mean over responses: divided by each response's tokens, or by
    those of a batch, short ones would count more, and the optimum would lean to them.

    Args:
        logprobs: log π of each response token, in nats. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.
        weights: w, 0 or more. Shape ``[N]``.

    Returns:
        Losses in nats, unreduced, ``[N]``. Gradient flows to `logprobs`.

    Raises:
        ValueError: the shapes differ.

    Source:
        Reward-weighted regression: Peters and Schaal 2007, "Reinforcement learning by reward-weighted regression for
        operational space control"; with weights of 0 and 1: RAFT, Dong et al. 2023, arXiv 2304.06767.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> imitation_loss(torch.tensor([[-1.0, -2.0], [-4.0, -9.0]]), mask, torch.tensor([2.0, 0.5]))
        tensor([6., 2.])
    """
    check_same_shape(logprobs=logprobs, response_mask=response_mask)
    likelihoods = masked_sum(logprobs, response_mask, dim=1)
    check_same_shape(weights=weights, responses=likelihoods)
    return -weights * likelihoods

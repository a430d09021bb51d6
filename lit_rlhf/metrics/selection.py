"""How much of what was drawn has a part in what is learnt."""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def effective_responses(weights: Tensor, tree_index: Tensor) -> Tensor:
    """To how many equally weighted responses those of a prompt are worth, mean over prompts.

    (Σ_i w_i)² / Σ_i w_i², over the responses i of the prompt: n where all weigh the same, 1 where one has all weight.

    Args:
        weights: 0 or more, and not all 0 in a prompt. Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.

    Returns:
        Scalar, from 1 to the most responses of a prompt.

    Raises:
        ValueError: the shapes differ.

    Source:
        Kong 1992, "A note on importance sampling using standardized weights".

    Example:
        >>> import torch
        >>> effective_responses(torch.tensor([2.0, 2.0, 0.0, 7.0]), torch.tensor([0, 0, 0, 1]))
        tensor(1.5000)
    """
    check_same_shape(weights=weights, tree_index=tree_index)
    sums, squares = (_sum_of_each(values, tree_index) for values in (weights, weights.square()))
    there = tree_index.bincount() > 0
    return (sums.square() / squares)[there].mean()


def prompts_with_spread(scores: Tensor, tree_index: Tensor) -> Tensor:
    """The share of prompts whose responses do not all have one score: of the others there is nothing to choose.

    Args:
        scores: r(x, y). Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.

    Returns:
        Scalar, 0 to 1.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> prompts_with_spread(torch.tensor([1.0, 2.0, 5.0, 5.0]), torch.tensor([0, 0, 3, 3]))
        tensor(0.5000)
    """
    check_same_shape(scores=scores, tree_index=tree_index)
    counts = tree_index.bincount()
    ends = [
        scores.new_zeros(len(counts)).scatter_reduce(0, tree_index, scores, extreme, include_self=False)
        for extreme in ("amin", "amax")
    ]
    return (ends[1] > ends[0])[counts > 0].to(scores.dtype).mean()


def _sum_of_each(values: Tensor, tree_index: Tensor) -> Tensor:
    return values.new_zeros(len(tree_index.bincount())).index_add(0, tree_index, values)

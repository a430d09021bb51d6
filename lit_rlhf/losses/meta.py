"""Meta-learning of reward models: what unlabelled samples of a policy are wanted for."""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def difference_loss(scores: Tensor, tree_index: Tensor) -> Tensor:
    """How well the scores tell a prompt's responses apart. To be raised, not lowered.

    J = 2/k² · Σ_{i<j} σ(|r(x, s_i) - r(x, s_j)|).

    As in the source, which takes a step θ' = θ + η·∇J, and then the gradient of the comparisons' loss at
    θ' for a step from θ.

    Args:
        scores: r(x, s), of samples of the present policy. Shape ``[N]``.
        tree_index: the prompt of each sample, in any order. Long ``[N]``.

    Returns:
        J per prompt, between (k-1)/(2k), where all scores are equal, and (k-1)/k. Shape ``[B]``, with B the
        largest index and one; 0 and no gradient for a prompt with one sample. Gradient flows to `scores`,
        none between two that are equal.

    Raises:
        ValueError: the shapes differ.

    Source:
        Wang et al. 2024, arXiv 2401.06080, eq. 11.

    Example:
        >>> import torch
        >>> scores = torch.tensor([1.0986, 0.0])  # σ(log 3) = 3/4
        >>> difference_loss(scores, torch.zeros(2, dtype=torch.long))
        tensor([0.3750])
    """
    check_same_shape(scores=scores, tree_index=tree_index)
    counts = tree_index.bincount()
    first, second = (tree_index[:, None] == tree_index[None, :]).triu(diagonal=1).nonzero(as_tuple=True)
    apart = (scores[first] - scores[second]).abs().sigmoid()
    sums = scores.new_zeros(len(counts)).index_add(0, tree_index[first], apart)
    return 2 * sums / counts.clamp(min=1).square()

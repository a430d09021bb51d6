"""Contrastive terms on a reward model's features: beside the comparisons, so that responses stay apart.

A *view* is a feature vector of the same text under another dropout mask. M = 2C of them in a batch of C
comparisons: those of the responses, or those of their differences.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def contrastive_views(
    better_features: Tensor, worse_features: Tensor, on: Literal["responses", "differences"]
) -> Tensor:
    """What the contrastive terms tell apart: the responses, or what makes one better than the other.

    H = {f(x, y_w), f(x, y_l)}, or {f(x, y_w) - f(x, y_l), f(x, y_l) - f(x, y_w)}, over the comparisons.

    As in the source. Bradley-Terry sees differences only, so these are the ones aligned with it; a
    difference and its opposite have similarity -1 from the start.

    Args:
        better_features: f(x, y_w), the state that the head reads. Shape ``[C, D]``.
        worse_features: f(x, y_l). Shape ``[C, D]``.
        on: ``responses`` or ``differences``.

    Returns:
        H, those of the better responses first. Shape ``[2C, D]``. Gradient flows to both.

    Raises:
        ValueError: the shapes differ.

    Source:
        Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II", arXiv 2401.06080, section 3.1.1.

    Example:
        >>> better, worse = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        >>> contrastive_views(better, worse, on="differences")
        tensor([[ 2., -1.],
                [-2.,  1.]])
    """
    check_same_shape(better_features=better_features, worse_features=worse_features)
    if on == "differences":
        better_features, worse_features = better_features - worse_features, worse_features - better_features
    return torch.cat([better_features, worse_features])


def simcse_loss(first: Tensor, second: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """How badly each feature vector finds its other view among those of the batch.

    -log [e^{cos(h_i, h'_i)/τ} / Σ_j e^{cos(h_i, h'_j)/τ}].

    As in the source, but that exact duplicates are no negatives where `same` names them: a response that
    is in two comparisons would be pushed away from itself.

    Args:
        first: h, one view of each. Shape ``[M, D]``.
        second: h', the other view, in the same order. Shape ``[M, D]``.
        temperature: τ > 0, dimensionless; 0.05 in the source.
        same: True where row and column have the same text; the diagonal is counted in any case. Bool ``[M, M]``.

    Returns:
        Losses in nats, unreduced, ``[M]``; log M where all vectors are equal. Gradient flows to both views,
        none to a vector of zeros, whose direction is not defined.

    Raises:
        ValueError: the shapes differ, or `temperature` is not positive.

    Source:
        Gao et al. 2021, arXiv 2104.08821, eq. 4; for reward models: arXiv 2401.06080, section 3.1.1.

    Example:
        >>> views = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> simcse_loss(views, views, temperature=1.0).neg().exp()  # e / (e + 1)
        tensor([0.7311, 0.7311])
    """
    check_same_shape(first=first, second=second)
    if temperature <= 0:
        raise ValueError(f"expected temperature above 0, found {temperature}")
    similarity = _directions(first) @ _directions(second).T / temperature
    positive = similarity.diagonal()
    if same is not None:
        check_same_shape(similarity=similarity, same=same)
        itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        similarity = similarity.masked_fill(same & ~itself, -torch.inf)
    return similarity.logsumexp(dim=1) - positive


def swav_loss(
    first: Tensor,
    second: Tensor,
    prototypes: Tensor,
    temperature: float,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """How badly each view foretells the cluster that the other view is assigned to.

    -Σ_k q_k log p'_k - Σ_k q'_k log p_k, with p = softmax(z·c/τ) and q by :func:`sinkhorn` without gradient.

    As in the source; features and prototypes are made unit vectors here, instead of writing to the
    parameter before each step.

    Args:
        first: z before normalisation, one view of each. Shape ``[M, D]``.
        second: the other view, in the same order. Shape ``[M, D]``.
        prototypes: c, the centres of the clusters, learned. Shape ``[K, D]``, with K clusters.
        temperature: τ > 0, dimensionless; 0.1 in the source.
        epsilon: ε > 0 of the assignment: the smaller, the harder.
        iterations: rounds of balancing.

    Returns:
        Losses in nats, unreduced, ``[M]``, both directions added. Gradient flows to both views and to the
        prototypes.

    Raises:
        ValueError: the views' shapes differ, or `temperature` or `epsilon` is not positive.

    Source:
        Caron et al. 2020, arXiv 2006.09882, eq. 1 and 2; for reward models: arXiv 2401.06080, eq. 7.

    Example:
        >>> views = torch.eye(2)
        >>> swav_loss(views, views, prototypes=torch.eye(2), temperature=1.0).div(2).neg().exp()  # e / (e + 1)
        tensor([0.7311, 0.7311])
    """
    check_same_shape(first=first, second=second)
    if temperature <= 0:
        raise ValueError(f"expected temperature above 0, found {temperature}")
    centres = _directions(prototypes)
    first_scores, second_scores = _directions(first) @ centres.T, _directions(second) @ centres.T
    first_code = sinkhorn(first_scores, epsilon, iterations)
    second_code = sinkhorn(second_scores, epsilon, iterations)
    first_logprobs = (first_scores / temperature).log_softmax(dim=1)
    second_logprobs = (second_scores / temperature).log_softmax(dim=1)
    return -(first_code * second_logprobs).sum(dim=1) - (second_code * first_logprobs).sum(dim=1)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignments to clusters that share the samples about equally, so that not all fall into one.

    Diag(u) · exp(s/ε) · Diag(v), with u and v from alternately giving each cluster, then each sample, the
    same total.

    As in the source, in logarithms: any ε is finite. Balanced over the samples given, of this process.

    Args:
        scores: s = z·c, similarity of each sample to each cluster. Shape ``[M, K]``.
        epsilon: ε > 0: the smaller, the harder the assignment.
        iterations: rounds; a few leave the clusters only roughly equal, as in the source.

    Returns:
        Probabilities of the clusters, adding up to 1 for each sample. Shape ``[M, K]``. No gradient.

    Raises:
        ValueError: `epsilon` is not positive, or `iterations` is below 1.

    Source:
        Caron et al. 2020, arXiv 2006.09882, eq. 3 to 5.

    Example:
        >>> sinkhorn(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))  # the first cluster may not have both
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    if epsilon <= 0:
        raise ValueError(f"expected epsilon above 0, found {epsilon}")
    if iterations < 1:
        raise ValueError(f"expected iterations of at least 1, found {iterations}")
    logprobs = scores / epsilon
    for _ in range(iterations):
        logprobs = logprobs.log_softmax(dim=0).log_softmax(dim=1)
    return logprobs.exp()


def _directions(features: Tensor) -> Tensor:
    """Unit vectors along the last dimension; zeros stay zeros, without a gradient."""
    lengths = features.norm(dim=-1, keepdim=True)
    return torch.where(lengths > 0, features / torch.where(lengths > 0, lengths, 1), 0)

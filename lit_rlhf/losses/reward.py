"""Reward models: what one comparison, or one rating, says of the scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_rlhf.ops.shapes import check_same_shape


def bradley_terry_loss(
    better_scores: Tensor, worse_scores: Tensor, target: Tensor | float = 1.0, margin: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy of each comparison under the Bradley-Terry model.

    -p·log σ(d) - (1-p)·log σ(-d), with d = r(x, y_w) - r(x, y_l) - m.

    With p = 1 as in the source. p = 1/2 is a tie, p = 1 - ε label smoothing, a share of votes
    disagreeing annotators. The margin of Llama 2 stands inside σ; with p < 1 it belongs to both terms, so
    that σ(d) stays one probability. A Luce model is this loss on the logarithms of its strengths.

    Args:
        better_scores: r(x, y_w), the preferred responses' scores. Shape ``[C]``.
        worse_scores: r(x, y_l). Shape ``[C]``.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        margin: m, by how much it should be better, in units of the score. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``. log 2 where the scores are equal without a margin.
        Gradient flows to both scores.

    Raises:
        ValueError: tensors of different shapes, or a number `target` outside [0, 1].

    Source:
        Stiennon et al. 2020, arXiv 2009.01325, section 3.4; margin: Touvron et al. 2023, arXiv
        2307.09288, eq. 2.

    Example:
        >>> import torch
        >>> better, worse = torch.tensor([3.0]).log(), torch.tensor([1.0]).log()  # σ(d) = 3/4
        >>> bradley_terry_loss(better, worse).neg().exp()
        tensor([0.7500])
        >>> bradley_terry_loss(better, worse, target=0.0).neg().exp()
        tensor([0.2500])
    """
    difference = _difference(better_scores, worse_scores, target, margin)
    return _cross_entropy(logsigmoid(difference), logsigmoid(-difference), target)


def robust_bradley_terry_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    flip_rate: float,
    target: Tensor | float = 1.0,
    margin: Tensor | float = 0.0,
) -> Tensor:
    """The Bradley-Terry loss, corrected so that labels flipped at random leave its mean as it was.

    [(1-ε)·L(p) - ε·L(1-p)] / (1-2ε), with L(p) the loss of :func:`bradley_terry_loss` for target p.

    Exactly unbiased: of a comparison that is seen the right way round with probability 1-ε and the wrong way
    round with ε, the mean loss is L(p). With p = 1 as in the source. Unbounded below where a
    comparison is clear (like -ε·d/(1-2ε)), so it needs few epochs or weight decay; and the variance grows by
    about 1/(1-2ε)², so a rate that is too high costs more than one that is too low.

    Args:
        better_scores: r(x, y_w), the scores of the responses that are said to be preferred. Shape ``[C]``.
        worse_scores: r(x, y_l). Shape ``[C]``.
        flip_rate: ε in [0, 1/2), the share of comparisons believed to be the wrong way round.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        margin: m, by how much it should be better, in units of the score. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``; may be negative. Gradient flows to both scores.

    Raises:
        ValueError: tensors of different shapes, a number `target` outside [0, 1], or `flip_rate`
            outside [0, 1/2).

    Source:
        Natarajan et al. 2013, "Learning with Noisy Labels", lemma 1; for preferences: Chowdhury et al. 2024,
        arXiv 2403.00409.

    Example:
        >>> import torch
        >>> better, worse = torch.tensor([3.0]).log(), torch.tensor([1.0]).log()  # σ(d) = 3/4
        >>> right = robust_bradley_terry_loss(better, worse, flip_rate=0.2)
        >>> wrong = robust_bradley_terry_loss(worse, better, flip_rate=0.2)
        >>> (0.8 * right + 0.2 * wrong).neg().exp()
        tensor([0.7500])
    """
    if not 0 <= flip_rate < 0.5:
        raise ValueError(f"expected flip_rate within [0, 0.5), found {flip_rate}")
    difference = _difference(better_scores, worse_scores, target, margin)
    # The loss is linear in p, so the correction is one of the target, which then may leave [0, 1].
    corrected = (target - flip_rate) / (1 - 2 * flip_rate)
    return _cross_entropy(logsigmoid(difference), logsigmoid(-difference), corrected)


def uniform_error_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    error_rate: float,
    target: Tensor | float = 1.0,
    margin: Tensor | float = 0.0,
) -> Tensor:
    """Cross-entropy of each comparison where some answers are drawn blindly.

    -p·log P(d) - (1-p)·log P(-d), with P(d) = (1-u)·σ(d) + u/2 and d = r(x, y_w) - r(x, y_l) - m.

    With p = 1 as in the source. The loss is never above -log(u/2), and a comparison that the model
    contradicts with confidence loses its pull (the gradient goes to 0), where Bradley-Terry pulls hardest.

    Args:
        better_scores: r(x, y_w), the preferred responses' scores. Shape ``[C]``.
        worse_scores: r(x, y_l). Shape ``[C]``.
        error_rate: u in [0, 1), the share of answers that say nothing; half of them are right by
            chance. 0.1 in the source.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        margin: m, by how much it should be better, in units of the score. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``. Gradient flows to both scores.

    Raises:
        ValueError: tensors of different shapes, a number `target` outside [0, 1], or `error_rate`
            outside [0, 1).

    Source:
        Christiano et al. 2017, arXiv 1706.03741, section 2.2.3.

    Example:
        >>> import torch
        >>> better, worse = torch.tensor([3.0]).log(), torch.tensor([1.0]).log()  # σ(d) = 3/4
        >>> uniform_error_loss(better, worse, error_rate=0.1).neg().exp()  # 0.9 · 3/4 + 0.05
        tensor([0.7250])
    """
    if not 0 <= error_rate < 1:
        raise ValueError(f"expected error_rate within [0, 1), found {error_rate}")
    difference = _difference(better_scores, worse_scores, target, margin)
    attentive, by_chance = math.log1p(-error_rate), difference.new_tensor(error_rate / 2).log()
    # In logarithms, so that a rate of 0 is Bradley-Terry at any difference.
    better = torch.logaddexp(logsigmoid(difference) + attentive, by_chance)
    worse = torch.logaddexp(logsigmoid(-difference) + attentive, by_chance)
    return _cross_entropy(better, worse, target)


def rao_kupper_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    threshold: Tensor,
    target: Tensor | float = 1.0,
    tie: Tensor | float = 0.0,
) -> Tensor:
    """Cross-entropy of better, worse and tie: Bradley-Terry with a threshold below which people see none.

    P(w ≻ l) = σ(d-θ), P(l ≻ w) = σ(-d-θ), P(tie) = (e^{2θ}-1)·σ(d-θ)·σ(-d-θ), with d = r(x, y_w) - r(x, y_l).

    The three add up to 1. A tie says that the scores are close, not that each side is half right; the
    threshold is learned with the scores. θ = log of the source's θ. As θ goes to 0 there are no ties, and
    what remains is :func:`bradley_terry_loss`.

    Args:
        better_scores: r(x, y_w), the preferred responses' scores. Shape ``[C]``.
        worse_scores: r(x, y_l). Shape ``[C]``.
        threshold: θ > 0, in units of the score. A scalar.
        target: p, the probability that `better` is better, with half of every tie in it, as in
            :class:`~lit_rlhf.records.Comparison`. Shape ``[C]``, or one number.
        tie: the share of judgements that were ties, at most 2·min(p, 1-p). Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``. Gradient flows to the scores and to the threshold.

    Raises:
        ValueError: tensors of different shapes, a number `target` outside [0, 1], or a `threshold`
            that is not a scalar.

    Source:
        Rao and Kupper 1967, "Ties in Paired-Comparison Experiments: A Generalization of the Bradley-Terry
        Model", JASA 62.

    Example:
        >>> import torch
        >>> zero, threshold = torch.zeros(1), torch.tensor(2.0).log()
        >>> rao_kupper_loss(zero, zero, threshold).neg().exp()  # 1 / (1 + 2)
        tensor([0.3333])
        >>> rao_kupper_loss(zero, zero, threshold, target=0.5, tie=1.0).neg().exp()
        tensor([0.3333])
    """
    if threshold.dim() > 0:
        raise ValueError(f"expected threshold, a scalar, found shape {list(threshold.shape)}")
    difference = _difference(better_scores, worse_scores, target, 0.0)
    if isinstance(tie, Tensor):
        check_same_shape(better_scores=better_scores, tie=tie)
    # A softplus that has underflowed to 0 would make 0 · log 0 of comparisons without ties.
    threshold = threshold.clamp(min=torch.finfo(threshold.dtype).tiny)
    better, worse = logsigmoid(difference - threshold), logsigmoid(-difference - threshold)
    log_expm1 = 2 * threshold + (-torch.expm1(-2 * threshold)).log()
    half = tie / 2
    return -(target - half) * better - (1 - target - half) * worse - tie * (better + worse + log_expm1)


def centering_penalty(better_scores: Tensor, worse_scores: Tensor) -> Tensor:
    """What keeps scores near 0 while they are trained: the squared sum of the two.

    (r(x, y_w) + r(x, y_l))².

    Comparisons leave each prompt's scores free up to a constant; this chooses it, prompt by prompt, which a
    bias taken off afterwards cannot. Multiplied by a small coefficient (0.01) and added to the loss.

    Args:
        better_scores: r(x, y_w). Shape ``[C]``.
        worse_scores: r(x, y_l). Shape ``[C]``.

    Returns:
        Penalties in squared units of the score, unreduced, ``[C]``. Gradient flows to both scores.

    Raises:
        ValueError: the shapes differ.

    Source:
        Eisenstein et al. 2023, arXiv 2312.09244; ``center_rewards_coefficient`` of TRL.

    Example:
        >>> import torch
        >>> centering_penalty(torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0]))
        tensor([16.,  0.])
    """
    check_same_shape(better_scores=better_scores, worse_scores=worse_scores)
    return (better_scores + worse_scores).square()


def rating_loss(scores: Tensor, ratings: Tensor) -> Tensor:
    """Squared error of each rated response: regression on what people said in numbers.

    (r(x, y) - g)².

    The baseline that comparisons are argued for against: people agree less on numbers than on which of two
    is better. An annotator's own offset and scale are to be taken off the ratings before.

    Args:
        scores: r(x, y). Shape ``[N]``.
        ratings: g, in the scale of the scores; NaN = not rated. Shape ``[N]``.

    Returns:
        Losses in squared units of the rating, unreduced, ``[N]``; 0 and no gradient where nobody rated.
        The mean is taken elsewhere, over the rated ones. Gradient flows to `scores`.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> rating_loss(torch.tensor([3.0, 3.0]), torch.tensor([1.0, float("nan")]))
        tensor([4., 0.])
    """
    check_same_shape(scores=scores, ratings=ratings)
    # The score stands in for what nobody gave: no difference, and no NaN on the way back.
    return (scores - torch.where(ratings.isnan(), scores.detach(), ratings)).square()


def _difference(
    better_scores: Tensor, worse_scores: Tensor, target: Tensor | float, margin: Tensor | float
) -> Tensor:
    """d = r(x, y_w) - r(x, y_l) - m, after a look at everything that has to have one shape with it."""
    check_same_shape(better_scores=better_scores, worse_scores=worse_scores)
    if isinstance(target, Tensor):
        check_same_shape(better_scores=better_scores, target=target)
    elif not 0 <= target <= 1:
        raise ValueError(f"expected target, a probability, within [0, 1], found {target}")
    if isinstance(margin, Tensor):
        check_same_shape(better_scores=better_scores, margin=margin)
    return better_scores - worse_scores - margin


def _cross_entropy(better_logprobs: Tensor, worse_logprobs: Tensor, target: Tensor | float) -> Tensor:
    return -target * better_logprobs - (1 - target) * worse_logprobs

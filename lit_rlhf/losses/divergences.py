"""Other leashes than the reverse KL: what the implicit reward is when the price is another f-divergence.

A policy that maximises E[r] - β·D_f(π‖π_ref) has r(x, y) = β·f'(π(y|x)/π_ref(y|x)) up to a constant of the
prompt. So each divergence is one function: from the log-ratio u = log π/π_ref of a response to f'(eᵘ), in
nats, shifted to be 0 where the policy is the reference (a constant, which comparisons do not see). Give it
as `divergence` to :func:`~lit_rlhf.losses.preference.dpo_loss`.

Source: Wang et al. 2023, arXiv 2309.16240.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn.functional import logsigmoid

Divergence: TypeAlias = Callable[[Tensor], Tensor]
"""From log-ratios of responses to f'(ratio), of the same shape; see this module."""

_LINEAR_BELOW = -60.0
"""Where e⁻ᵛ goes on as a line: e⁶⁰ is near what float32 can hold once it is multiplied by a log-ratio."""


def reverse_kl(logratios: Tensor) -> Tensor:
    """f'(eᵘ) of KL(π‖π_ref): the log-ratio itself, which is plain DPO.

    u, of f(t) = t·log t.

    Helps when in doubt: it is the KL price of RLHF, and its implicit reward has no upper end.

    Args:
        logratios: u = log π(y|x) - log π_ref(y|x). Any shape.

    Returns:
        u itself.
    """
    return logratios


def forward_kl(logratios: Tensor) -> Tensor:
    """f'(eᵘ) of KL(π_ref‖π), which forbids leaving out what the reference does.

    1 - e⁻ᵘ, of f(t) = -log t: :func:`alpha_divergence` at α = 1.

    Helps when responses must stay as varied as the reference's: a log-ratio below 0 is punished exponentially.
    For the same reason it is hard to train on long responses, whose log-ratios are tens of nats.

    Args:
        logratios: u = log π(y|x) - log π_ref(y|x). Any shape.

    Returns:
        The shape of `logratios`, below 1. As in the source down to u = -60, and linear from there.

    Example:
        >>> import torch
        >>> forward_kl(torch.tensor([2.0, 0.5]).log())  # 1 - 1/2, 1 - 2
        tensor([ 0.5000, -1.0000])
    """
    return alpha_divergence(logratios, alpha=1.0)


def jensen_shannon(logratios: Tensor) -> Tensor:
    """f'(eᵘ) of the Jensen-Shannon divergence, between the two KLs.

    log 2 + log σ(u), of f(t) = t·log t - (t+1)·log((t+1)/2).

    Helps when the reverse KL sharpens the policy too much: gains are bounded by log 2, while losses cost as
    they do in DPO. Bounded above, so two responses that both became far likelier are told apart no more.

    Args:
        logratios: u = log π(y|x) - log π_ref(y|x). Any shape.

    Returns:
        The shape of `logratios`, below log 2.

    Example:
        >>> import torch
        >>> jensen_shannon(torch.tensor([3.0]).log()).exp()  # 2 · 3/4
        tensor([1.5000])
    """
    return math.log(2) + logsigmoid(logratios)


def alpha_divergence(logratios: Tensor, alpha: float) -> Tensor:
    """f'(eᵘ) of the α-divergence: the reverse KL as α goes to 0, the forward KL at 1.

    (1 - e^{-αu}) / α.

    As in the source, with α = 1 allowed. TRL's ``f_alpha_divergence_coef`` is 1 - α. Where αu < -60 it goes on
    as a line, so that value and gradient stay finite.

    Helps when one wants a place between the two KLs, as for :func:`forward_kl`; α is then one more thing to tune.

    Args:
        logratios: u = log π(y|x) - log π_ref(y|x). Any shape.
        alpha: α in (0, 1], dimensionless.

    Returns:
        The shape of `logratios`, below 1/α.

    Raises:
        ValueError: `alpha` outside (0, 1].

    Example:
        >>> import torch
        >>> alpha_divergence(torch.tensor([4.0]).log(), alpha=0.5)  # 2 · (1 - 1/2)
        tensor([1.])
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"expected alpha within (0, 1], found {alpha}; reverse_kl is its limit at 0")
    scaled = alpha * logratios
    # Two clamps and not a difference of one: in the gradient e⁶⁰ - e⁶⁰ would take the rest with it.
    curve = -(-scaled.clamp(min=_LINEAR_BELOW)).expm1()
    line = math.exp(-_LINEAR_BELOW) * (scaled - _LINEAR_BELOW).clamp(max=0)
    return (curve + line) / alpha

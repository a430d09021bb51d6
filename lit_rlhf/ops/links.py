"""Link functions: how a head's unbounded output becomes something with a meaning."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = -20.0
"""Below this, log softplus(x) is x - eˣ/2 to the last bit of float64."""


def log_softplus(x: Tensor) -> Tensor:
    """Logarithm of the softplus, exact and with a finite gradient at both ends.

    log log(1 + eˣ); close to x far below zero, to log x far above.

    The Luce link has strength s = softplus(head) > 0 and prefers with probability s_w / (s_w + s_l),
    which is Bradley-Terry on log s. Taken literally, the softplus underflows to 0 near x = -104
    in float32, its logarithm is -inf and the gradient NaN.

    Args:
        x: the head's output. Any shape, float.

    Returns:
        log s, the shape and dtype of `x`. Its derivative is sigmoid(x) / softplus(x), in (0, 1].

    Source:
        The ratio: Luce 1959, *Individual Choice Behavior*, axiom 1. The softplus is one choice of a
        positive strength.

    Example:
        >>> log_softplus(torch.tensor([-1000.0, 0.0, 1000.0])).round(decimals=4)
        tensor([-1.0000e+03, -3.6650e-01,  6.9078e+00])
    """
    # Each branch sees only arguments it can take, or its NaN would reach the gradient through `where`.
    tail = x.clamp(max=_SMALL)
    body = x.clamp(min=_SMALL)
    return torch.where(x < _SMALL, tail - tail.exp() / 2, torch.logaddexp(body, torch.zeros_like(body)).log())

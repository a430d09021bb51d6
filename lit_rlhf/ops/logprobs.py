"""From logits to the log-probabilities of the tokens that were drawn, and how spread the distribution was.

Log-probabilities and entropies divide the logits by the sampling temperature, so that what is scored is the
distribution that the tokens were sampled from.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"expected a temperature above 0, found {temperature}")
    # bfloat16 has three decimal digits: a log-probability in it is too coarse for a ratio.
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(wide / temperature, dim=-1)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token under the logits at the position that predicts it.

    log softmax(z / τ)[y].

    The caller lines the two up: the logits that predict a token stand one position before it.

    Args:
        logits: z. Shape ``[..., V]``, any float dtype; softmax is taken in float32 or wider.
        tokens: y, ids in [0, V). Shape ``[...]``, long.
        temperature: τ > 0, dimensionless, the one the tokens were sampled with.

    Returns:
        Log-probabilities in nats, shape ``[...]``, float32 or wider. Gradient flows to `logits`.

    Raises:
        ValueError: the leading shapes differ, or `temperature` is not positive.

    Example:
        >>> logits = torch.tensor([[1.0, 3.0]]).log()
        >>> token_logprobs(logits, torch.tensor([1])).exp()
        tensor([0.7500])
        >>> token_logprobs(logits, torch.tensor([1]), temperature=0.5).exp()
        tensor([0.9000])
    """
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"expected logits [..., V] for tokens {list(tokens.shape)}, found {list(logits.shape)}"
        )
    return _log_softmax(logits, temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of the distribution each token is drawn from.

    -Σ_v p_v log p_v, with p = softmax(z / τ).

    Args:
        logits: z. Shape ``[..., V]``, any float dtype. -inf, a token that cannot be drawn, adds 0.
        temperature: τ > 0, dimensionless.

    Returns:
        Entropies in nats, shape ``[...]``, float32 or wider, within [0, log V]. Gradient flows to `logits`.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> token_entropy(torch.zeros(1, 4)).exp()
        tensor([4.])
    """
    logprobs = _log_softmax(logits, temperature)
    # 0 · log 0 is 0 here; without the clamp -inf would make it NaN.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)


def log_collision(logits: Tensor) -> Tensor:
    """Logarithm of the probability that two draws of the next token agree.

    log Σ_v π(v)², with π = softmax(z).

    Args:
        logits: z. Shape ``[..., V]``, any float dtype; computed in float32 or wider.

    Returns:
        Nats, at most 0, ``[...]``, without gradient.

    Example:
        >>> log_collision(torch.zeros(1, 4)).exp()
        tensor([0.2500])
    """
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    return (2 * wide).logsumexp(dim=-1) - 2 * wide.logsumexp(dim=-1)

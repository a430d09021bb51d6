"""The language-model head, applied where a counted token is predicted, in chunks that bound its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lit_rlhf.ops.logprobs import log_collision

MAX_LOGITS = 2**24
"""Logits of one chunk, tokens times vocabulary: 64 MiB in fp32. They are made again in the backward."""

CACHED_LOGITS = 2**18
"""Logits that the softmax takes at a time: 1 MiB, so that they are read from the processor's cache."""


def output_logits(causal_lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits ``[..., V]`` of final hidden states ``[..., D]``, soft-capped where the model caps them."""
    logits = causal_lm.get_output_embeddings()(hidden)
    cap = getattr(causal_lm.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def head_logprobs(causal_lm: PreTrainedModel, states: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log π of each token, ``[M]``, fp32, without keeping a ``[M, V]`` tensor for the backward.

    log softmax(z / τ)[y], softmax in fp32 or wider, as :func:`lit_rlhf.ops.logprobs.token_logprobs` has it.

    Args:
        causal_lm: has the head.
        states: hidden states that predict the tokens, ``[M, D]``.
        tokens: y, Long ``[M]``.
        temperature: τ, logits are divided by it.
    """
    return torch.cat(_over_chunks(_OwnLogitsLogprobs.apply, causal_lm, states, tokens, temperature))


def head_logprobs_and_entropy(
    causal_lm: PreTrainedModel, states: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """:func:`head_logprobs`, to the bit, and the entropy in nats of the same distributions; ``[M]`` each, fp32.

    H = −Σ_v p_v log p_v with p = softmax(z / τ), as :func:`lit_rlhf.ops.logprobs.token_entropy` has it. One pass
    over the head for both; gradient flows through both, and nothing of ``[M, V]`` is kept for it.
    """
    pieces = _over_chunks(_OwnLogitsEntropy.apply, causal_lm, states, tokens, temperature)
    logprobs, entropy = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def head_logprobs_and_collision(
    causal_lm: PreTrainedModel, states: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """:func:`head_logprobs`, to the bit, and log Σ_v p_v² of the same distributions, without gradient; ``[M]``, fp32.

    As :func:`lit_rlhf.ops.logprobs.log_collision` has it, in the same pass over the head.
    """

    def read(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        collision = torch.cat([log_collision(part) for (part,) in _cached(logits)])
        return _OwnLogitsLogprobs.apply(logits, labels), collision

    logprobs, collisions = zip(*_over_chunks(read, causal_lm, states, tokens, temperature), strict=True)
    return torch.cat(logprobs), torch.cat(collisions)


def _over_chunks(
    read: Callable[[Tensor, Tensor], Any],
    causal_lm: PreTrainedModel,
    states: Tensor,
    tokens: Tensor,
    temperature: float,
) -> list[Any]:
    """What `read` makes of the logits and tokens of each chunk; the logits are made again in the backward."""

    def read_logits(part: Tensor, labels: Tensor) -> Any:
        logits = output_logits(causal_lm, part)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # dividing by 1 would be a pass over the largest tensor of all
        return read(logits if temperature == 1 else logits / temperature, labels)

    vocabulary = causal_lm.get_output_embeddings().weight.shape[0]
    rows = max(1, MAX_LOGITS // vocabulary)
    return [
        # an adapter on the head may drop out: the second forward has to draw what the first drew
        checkpoint(read_logits, part, labels, use_reentrant=False, preserve_rng_state=causal_lm.training)
        for part, labels in zip(states.split(rows), tokens.split(rows), strict=True)
    ]


def _cached(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The logits and what belongs to them, as many rows at a time as the processor's cache holds."""
    rows = max(1, CACHED_LOGITS // logits.shape[-1])
    return zip(*(tensor.split(rows) for tensor in (logits, *others)), strict=True)


class _OwnLogitsLogprobs(torch.autograd.Function):
    """log softmax(z)[y] of logits that nobody else reads: the backward writes their gradient over them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(logits, tokens)
        return torch.cat(
            [
                part.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
                for part, labels in _cached(logits, tokens)
            ]
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """∂ log p_y / ∂z = onehot(y) − softmax(z)."""
        logits, tokens = ctx.saved_tensors
        for part, factor in _cached(logits, grad):
            torch.softmax(part, -1, out=part).mul_(-factor[:, None])
        return logits.scatter_add_(-1, tokens[:, None], grad[:, None]), None


class _OwnLogitsEntropy(torch.autograd.Function):
    """log softmax(z)[y] and −Σ p log p of logits that nobody else reads; the backward writes over them too."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, tokens)
        chosen, entropies = [], []
        for part, labels in _cached(logits, tokens):
            logprobs = part.log_softmax(-1)
            chosen.append(logprobs.gather(-1, labels[:, None]).squeeze(-1))
            entropies.append(-_p_log_p(logprobs, logprobs.exp()).sum(-1))
        return torch.cat(chosen), torch.cat(entropies)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, entropy_grad: Tensor) -> tuple[Tensor, None]:
        """∂ log p_y / ∂z = onehot(y) − p, and ∂H / ∂z = −p (log p + H)."""
        logits, tokens = ctx.saved_tensors
        for part, factor, entropy_factor in _cached(logits, grad[:, None], entropy_grad[:, None]):
            logprobs = part.log_softmax(-1)
            p = torch.exp(logprobs, out=part)
            p_log_p = _p_log_p(logprobs, p)
            entropy = -p_log_p.sum(-1, keepdim=True)
            p.mul_(-factor - entropy_factor * entropy).sub_(p_log_p.mul_(entropy_factor))
        return logits.scatter_add_(-1, tokens[:, None], grad[:, None]), None


def _p_log_p(logprobs: Tensor, p: Tensor) -> Tensor:
    """p log p, written over the log-probabilities; 0 · log 0 is 0, as of a token that cannot be drawn."""
    return logprobs.clamp_(min=torch.finfo(logprobs.dtype).min).mul_(p)

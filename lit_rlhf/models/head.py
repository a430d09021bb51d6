"""The language-model head, applied where a counted token is predicted, in chunks that bound its memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lit_rlhf.ops.logprobs import token_entropy

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

    def logprobs(part: Tensor, labels: Tensor) -> Tensor:
        logits = output_logits(causal_lm, part)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # dividing by 1 would be a pass over the largest tensor of all
        return _OwnLogitsLogprobs.apply(logits if temperature == 1 else logits / temperature, labels)

    pieces = [
        # an adapter on the head may drop out: the second forward has to draw what the first drew
        checkpoint(logprobs, part, labels, use_reentrant=False, preserve_rng_state=causal_lm.training)
        for part, labels in zip(*_chunks(causal_lm, states, tokens), strict=True)
    ]
    return torch.cat(pieces)


class _OwnLogitsLogprobs(torch.autograd.Function):
    """log softmax(z)[y] of logits that nobody else reads: the backward writes their gradient over them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(logits, tokens)
        rows = max(1, CACHED_LOGITS // logits.shape[-1])
        return torch.cat(
            [
                part.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
                for part, labels in zip(logits.split(rows), tokens.split(rows), strict=True)
            ]
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """∂ log p_y / ∂z = onehot(y) − softmax(z)."""
        logits, tokens = ctx.saved_tensors
        rows = max(1, CACHED_LOGITS // logits.shape[-1])
        for part, factor in zip(logits.split(rows), grad.split(rows), strict=True):
            torch.softmax(part, -1, out=part).mul_(-factor[:, None])
        return logits.scatter_add_(-1, tokens[:, None], grad[:, None]), None


@torch.no_grad()
def head_entropy(causal_lm: PreTrainedModel, states: Tensor, temperature: float) -> Tensor:
    """Entropy of the distribution at each state, ``[M]``, in nats, without gradient."""
    (parts,) = _chunks(causal_lm, states)
    return torch.cat([token_entropy(output_logits(causal_lm, part), temperature) for part in parts])


def _chunks(causal_lm: PreTrainedModel, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    vocabulary = causal_lm.get_output_embeddings().weight.shape[0]
    return [part.split(max(1, MAX_LOGITS // vocabulary)) for part in rows]

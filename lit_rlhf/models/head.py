"""The language-model head, applied where a counted token is predicted, in chunks that bound its memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lit_rlhf.ops.logprobs import token_entropy, token_logprobs

MAX_LOGITS = 2**24
"""Logits of one chunk, tokens times vocabulary: 64 MiB in fp32. They are made again in the backward."""


def output_logits(causal_lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits ``[..., V]`` of final hidden states ``[..., D]``, soft-capped where the model caps them."""
    logits = causal_lm.get_output_embeddings()(hidden)
    cap = getattr(causal_lm.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def head_logprobs(causal_lm: PreTrainedModel, states: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log π of each token, ``[M]``, fp32, without keeping a ``[M, V]`` tensor for the backward.

    Args:
        causal_lm: has the head.
        states: hidden states that predict the tokens, ``[M, D]``.
        tokens: Long ``[M]``.
        temperature: logits are divided by it.
    """

    def logprobs(part: Tensor, labels: Tensor) -> Tensor:
        return token_logprobs(output_logits(causal_lm, part), labels, temperature)

    pieces = [
        checkpoint(logprobs, part, labels, use_reentrant=False, preserve_rng_state=False)
        for part, labels in zip(*_chunks(causal_lm, states, tokens), strict=True)
    ]
    return torch.cat(pieces)


@torch.no_grad()
def head_entropy(causal_lm: PreTrainedModel, states: Tensor, temperature: float) -> Tensor:
    """Entropy of the distribution at each state, ``[M]``, in nats, without gradient."""
    (parts,) = _chunks(causal_lm, states)
    return torch.cat([token_entropy(output_logits(causal_lm, part), temperature) for part in parts])


def _chunks(causal_lm: PreTrainedModel, *rows: Tensor) -> list[tuple[Tensor, ...]]:
    vocabulary = causal_lm.get_output_embeddings().weight.shape[0]
    return [part.split(max(1, MAX_LOGITS // vocabulary)) for part in rows]

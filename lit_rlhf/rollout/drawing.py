"""From logits to the next tokens: the distribution that is drawn from, and the draw, on tensors in fp32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lit_rlhf.rollout.settings import SamplingSettings

BLOCK = 128
"""Tokens whose probabilities are summed first, so that only one block has to be searched token by token."""


class Distribution:
    """Logits of the model to logits of the distribution that tokens are drawn from.

    In transformers' order: bias, repetition penalty, least length, temperature, top-k, top-p, min-p.

    Args:
        settings: how to draw.
        stop_ids: the ids that end a response.
        vocab_size: V.
        device: where the logits are.

    Raises:
        ValueError: a bias or a stop for an id that the vocabulary does not have.
    """

    def __init__(
        self, settings: SamplingSettings, stop_ids: list[int], vocab_size: int, device: torch.device
    ) -> None:
        self.settings = settings
        for name, given in (
            ("logit_bias", settings.logit_bias or {}),
            ("stop_token_ids", settings.stop_token_ids),
        ):
            outside = [number for number in given if not 0 <= number < vocab_size]
            if outside:
                raise ValueError(f"{name}: expected ids from 0 to {vocab_size - 1}, found {outside}.")
        self.banned = torch.zeros(vocab_size, dtype=torch.bool, device=device)  # from short responses
        self.banned[[number for number in stop_ids if 0 <= number < vocab_size]] = True
        self.bias: Tensor | None = None
        if settings.logit_bias:
            ids = list(settings.logit_bias)
            self.bias = torch.zeros(vocab_size, device=device, dtype=torch.float32)
            self.bias[ids] = torch.tensor(list(settings.logit_bias.values()), device=device)
        self.cuts = []
        if settings.temperature > 0:
            if settings.top_k is not None:
                self.cuts.append(TopKLogitsWarper(settings.top_k))
            if settings.top_p is not None and settings.top_p < 1:
                self.cuts.append(TopPLogitsWarper(settings.top_p))
            if settings.min_p:
                self.cuts.append(MinPLogitsWarper(settings.min_p))

    def of(self, logits: Tensor, steps: Tensor, seen: Tensor | None) -> Tensor:
        """Logits ``[n, V]``, fp32, of the distribution that each row's next token is drawn from.

        Args:
            logits: the model's, ``[n, V]``.
            steps: Long ``[n]``, tokens that each response has.
            seen: Bool ``[n, V]``, ids that prompt or response hold; needed for a repetition penalty.
        """
        logits = logits.float()
        if self.bias is not None:
            logits = logits + self.bias
        if self.settings.repetition_penalty != 1:
            assert seen is not None
            penalty = self.settings.repetition_penalty
            logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self.settings.min_new_tokens:
            short = steps < self.settings.min_new_tokens
            logits = logits.masked_fill(short[:, None] & self.banned, -torch.inf)
        if self.settings.temperature not in (0, 1):
            logits = logits / self.settings.temperature
        for cut in self.cuts:
            logits = cut(None, logits)
        return logits


def draw(logits: Tensor, uniform: Tensor | None, with_entropy: bool = False) -> tuple[Tensor, ...]:
    """One token a row by inverting the cumulative distribution, with its log-probability and the entropy.

    Args:
        logits: ``[n, V]``, fp32.
        uniform: Double ``[n]`` in [0, 1); None takes the most likely token, whose log-probability is then that of
            these logits, since a point mass has none.
        with_entropy: whether the entropy is wanted; else it is 0.
    Returns:
        tokens Long ``[n]``, logprobs ``[n]``, entropy ``[n]`` in nats, the latter two fp32.
    """
    normalizer = logits.logsumexp(-1)
    tokens, probabilities = None, None
    if uniform is not None or with_entropy:
        probabilities = (logits - normalizer[:, None]).exp_()
    if uniform is None:
        tokens = logits.argmax(-1)
    else:
        assert probabilities is not None
        tokens = invert_cumulative(probabilities, uniform)
    logprobs = logits.gather(1, tokens[:, None]).squeeze(1) - normalizer
    if not with_entropy:
        return tokens, logprobs, torch.zeros_like(logprobs)
    assert probabilities is not None
    # H = lse − Σ p·z; where z is −∞, p is 0 and so is the product
    finite = logits.clamp(min=torch.finfo(logits.dtype).min)
    with torch.autocast(logits.device.type, enabled=False):  # which takes this product for one of a network
        return tokens, logprobs, normalizer - torch.linalg.vecdot(probabilities, finite)


def invert_cumulative(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first id whose cumulative probability is more than `uniform` times the total, Long ``[n]``.

    First among blocks of ids, then within one. An id of probability 0 is never taken.

    Args:
        probabilities: ``[n, V]``, not necessarily of sum 1.
        uniform: Double ``[n]`` in [0, 1).
    """
    width = probabilities.shape[1]
    if width % BLOCK:
        probabilities = pad(probabilities, (0, -width % BLOCK))
    blocks = probabilities.unflatten(1, (-1, BLOCK))
    block_ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    threshold = _below(uniform * block_ends[:, -1], block_ends[:, -1])
    # where there is no first, because probabilities are not numbers, the last: still an id
    block = torch.searchsorted(block_ends, threshold[:, None], right=True).clamp(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, block_ends.gather(1, (block - 1).clamp(min=0)), 0.0).squeeze(1)
    chosen = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK)).squeeze(1)
    ends = chosen.double().cumsum(-1)
    inside = _below(threshold - before, ends[:, -1])
    place = torch.searchsorted(ends, inside[:, None], right=True)
    return (block * BLOCK + place).squeeze(1).clamp(max=width - 1)


def _below(threshold: Tensor, total: Tensor) -> Tensor:
    """The threshold, less than the total also where rounding has made it equal, so that something lies above it."""
    return torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))

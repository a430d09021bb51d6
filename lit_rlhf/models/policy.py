"""The policy: per-token log-probabilities of the responses of a batch of trees, and one decoding step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.loading import output_logits
from lit_rlhf.models.padded import gather_positions, unfold
from lit_rlhf.ops.logprobs import token_entropy, token_logprobs
from lit_rlhf.records import ResponseTrees


class PolicyOutput(NamedTuple):
    """Grids ``[N, R]``, zero where the response mask is False."""

    logprobs: Tensor
    entropy: Tensor
    """In nats; without gradient, for logging."""


class PolicyNetwork(nn.Module):
    """A causal language model that reads response trees.

    Args:
        causal_lm: any transformers decoder with a language-model head.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        self.causal_lm = causal_lm

    def forward(self, trees: ResponseTrees, temperature: float = 1.0) -> PolicyOutput:
        """Log-probability and entropy at every counted response token.

        The head is applied only where a counted token is predicted.

        Args:
            trees: the batch.
            temperature: logits are divided by it, here as in sampling, so that both are one distribution.
        """
        rows = unfold(trees)
        hidden = self.causal_lm.base_model(input_ids=rows.input_ids, use_cache=False).last_hidden_state
        counted = trees.response_grid_mask()
        logits = output_logits(self.causal_lm, gather_positions(hidden, rows.predicting)[counted])
        tokens = trees.grid(trees.input_ids)[counted]
        logprobs = token_logprobs(logits, tokens, temperature)
        entropy = token_entropy(logits.detach(), temperature)
        grid = logprobs.new_zeros(counted.shape)
        return PolicyOutput(
            grid.masked_scatter(counted, logprobs), grid.masked_scatter(counted, entropy.to(grid.dtype))
        )

    def next_token_logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        """Logits ``[N, V]`` of the next token, and the cache grown by `input_ids`.

        Args:
            input_ids: Long ``[N, S]``, the tokens that the cache lacks (the prompts at first, then one a row).
            attention_mask: Bool ``[N, S_total]`` over cached and new tokens, True where a token counts.
            position_ids: Long ``[N, S]``.
            cache: a transformers cache, or None at first.
        """
        output = self.causal_lm(
            input_ids=input_ids,
            attention_mask=attention_mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1], output.past_key_values


def sequence_logprobs(output: PolicyOutput) -> Tensor:
    """log π(y|x) ``[N]``: the sum over each response's counted tokens."""
    return torch.sum(output.logprobs, dim=1)

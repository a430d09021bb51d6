"""The policy: per-token log-probabilities of the responses of a batch of trees, and one decoding step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.decoding import Feed, next_token_states
from lit_rlhf.models.head import (
    head_logprobs,
    head_logprobs_and_collision,
    head_logprobs_and_entropy,
    output_logits,
)
from lit_rlhf.models.reading import predicting_states
from lit_rlhf.records import ResponseTrees


class PolicyOutput(NamedTuple):
    """Grids ``[N, R]``, fp32, zero where the response mask is False; and the states that they were read from."""

    logprobs: Tensor
    entropy: Tensor | None
    """In nats; None where it was not asked for."""
    states: Tensor
    """``[M, D]``: the trunk's last states, those that predict the M counted tokens, in the order of the flat row."""
    collision: Tensor | None = None
    """log Σ_v π(v)², in nats, without gradient; None where it was not asked for."""


class NextTokens(NamedTuple):
    """Of M prompts or rows."""

    logits: Tensor
    """``[M, V]``."""
    states: Tensor
    """``[M, D]``: the trunk's last states, which the logits were read from."""
    values: Tensor | None = None
    """``[M]``, where a critic reads these states too."""


class PolicyNetwork(nn.Module):
    """A causal language model that reads response trees.

    Args:
        causal_lm: any transformers decoder with a language-model head.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        self.causal_lm = causal_lm

    def forward(
        self,
        trees: ResponseTrees,
        temperature: float = 1.0,
        with_entropy: bool = False,
        with_collision: bool = False,
    ) -> PolicyOutput:
        """Log-probability, and entropy or collision if asked, at every counted response token.

        The head is applied only where a counted token is predicted.

        Args:
            trees: the batch.
            temperature: logits are divided by it, here as in sampling, so that both are one distribution.
            with_entropy: whether to take the entropy too, which costs another pass over the logits.
            with_collision: whether to take the probability that two draws agree in the place of the entropy; as dear.
        """
        states = predicting_states(self.causal_lm.base_model, trees)
        counted = trees.response_grid_mask()
        tokens = trees.input_ids[trees.response_mask]
        entropy = collision = None
        if with_collision:
            logprobs, collision = head_logprobs_and_collision(self.causal_lm, states, tokens, temperature)
        elif with_entropy:
            logprobs, entropy = head_logprobs_and_entropy(self.causal_lm, states, tokens, temperature)
        else:
            logprobs = head_logprobs(self.causal_lm, states, tokens, temperature)
        grid = logprobs.new_zeros(counted.shape)
        return PolicyOutput(
            grid.masked_scatter(counted, logprobs),
            None if entropy is None else grid.masked_scatter(counted, entropy),
            states,
            None if collision is None else grid.masked_scatter(counted, collision),
        )

    def next_token_logits(self, feed: Feed) -> NextTokens:
        """What comes next, at the end of each prompt or after the newest token of each row.

        Args:
            feed: the tokens that have not been seen yet; their keys and values are put away.
        """
        states = next_token_states(self.causal_lm.base_model, feed)
        return NextTokens(output_logits(self.causal_lm, states), states)


def sequence_logprobs(output: PolicyOutput) -> Tensor:
    """log π(y|x) ``[N]``: the sum over each response's counted tokens."""
    return torch.sum(output.logprobs, dim=1)

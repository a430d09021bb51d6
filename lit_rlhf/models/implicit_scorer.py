"""A policy and its reference as a scorer: the reward that direct methods leave in a policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.reading import Attention
from lit_rlhf.records import ResponseTrees


class ImplicitScorer(nn.Module):
    """One score a response: β·log π(y|x)/π_ref(y|x), summed over its counted tokens.

    Equal to the reward that the policy is optimal for, up to a constant of the prompt: scores of one prompt's responses
    compare, those of different prompts do not.

    Args:
        policy: π.
        reference: π_ref, which reads the same ids.
        beta: β, units of the reward per nat.

    Source:
        Rafailov et al. 2023, arXiv 2305.18290, eq. 5.
    """

    def __init__(self, policy: PolicyNetwork, reference: PolicyNetwork, beta: float) -> None:
        super().__init__()
        self.policy = policy
        self.reference = reference
        self.beta = beta

    @property
    def models(self) -> list[PreTrainedModel]:
        """What reads the responses."""
        return [self.policy.causal_lm, self.reference.causal_lm]

    @torch.no_grad()
    def forward(self, trees: ResponseTrees) -> Tensor:
        """Scores ``[N]``, fp32."""
        policy, reference = (sequence_logprobs(network(trees)) for network in (self.policy, self.reference))
        return self.beta * (policy - reference)


def load_implicit_scorer(
    policy: str, reference: str, beta: float, attention: Attention = "auto"
) -> ImplicitScorer:
    """The scorer of two causal language models, in eval mode.

    Args:
        policy: folder or hub name of π.
        reference: folder or hub name of π_ref.
        beta: β.
        attention: over trees or over padded rows.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one of the two is no causal language model, or they have other vocabularies.
    """
    models = load_causal_lm(policy, attention), load_causal_lm(reference, attention)
    ours, theirs = (model.config.get_text_config().vocab_size for model in models)
    if ours != theirs:
        raise ValueError(
            f"{reference}: expected the policy's vocabulary of {ours} tokens, found {theirs}: the reference reads the "
            "ids of the policy. Give the model that the policy was trained from."
        )
    return ImplicitScorer(PolicyNetwork(models[0]), PolicyNetwork(models[1]), beta).eval()

"""Policy and critic in one module: one trainable network, one forward, one optimizer."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.records import ResponseTrees


class ActorCriticOutput(NamedTuple):
    """Grids ``[N, R]``, zero where the response mask is False."""

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor


class ActorCritic(nn.Module):
    """The network that PPO trains.

    Args:
        policy: what is being aligned.
        critic: its own trunk and head; the value before each response token.

    Raises:
        ValueError: the critic has several components.
    """

    def __init__(self, policy: PolicyNetwork, critic: ScorerNetwork) -> None:
        super().__init__()
        if critic.num_components > 1:
            raise ValueError(
                f"model.critic: expected a model with one head, found {critic.num_components} components. Give another "
                "one, or null: it can be the reward all the same."
            )
        self.policy = policy
        self.critic = critic

    def forward(
        self, trees: ResponseTrees, temperature: float = 1.0, with_entropy: bool = False
    ) -> ActorCriticOutput:
        """Log-probabilities and values at every counted response token, and entropies if asked."""
        logprobs, entropy = self.policy(trees, temperature, with_entropy)
        return ActorCriticOutput(logprobs, entropy, self.critic.values(trees))

    def next_token_logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        """See :meth:`PolicyNetwork.next_token_logits`."""
        return self.policy.next_token_logits(input_ids, attention_mask, position_ids, cache)

"""Policy and critic in one module: one trainable network, one forward, one optimizer."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from lit_rlhf.models.adapter_critic import AdapterCritic
from lit_rlhf.models.decoding import Feed
from lit_rlhf.models.lora import CRITIC, LoraAdapter
from lit_rlhf.models.lora_weights import is_of_adapter
from lit_rlhf.models.policy import NextTokens, PolicyNetwork
from lit_rlhf.models.reading import Reading, end_states
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.records import ResponseTrees

Critic: TypeAlias = ScorerNetwork | ValueHead | AdapterCritic


class ActorCriticOutput(NamedTuple):
    """Grids ``[N, R]``, fp32, zero where the response mask is False; gradient flows through all of them."""

    logprobs: Tensor
    entropy: Tensor | None
    """In nats; None where it was not asked for."""
    values: Tensor | None
    """The value before each token; None where it was not asked for, or there is no critic."""


class ActorCritic(nn.Module):
    """The network that PPO trains.

    Args:
        policy: what is being aligned.
        critic: a trunk and head of its own; or a value head, which reads the policy's states in the policy's own
            pass; or an adapter on the policy's trunk with a head, which takes a pass of its own; or None, where
            advantages need no values.

    Raises:
        ValueError: the critic has several components.
    """

    def __init__(self, policy: PolicyNetwork, critic: Critic | None) -> None:
        super().__init__()
        if isinstance(critic, ScorerNetwork) and critic.num_components > 1:
            raise ValueError(
                f"model.critic: expected a model with one head, found {critic.num_components} components. Give another "
                "one, or null: it can be the reward all the same."
            )
        self.policy = policy
        self.critic = critic

    def forward(
        self,
        trees: ResponseTrees,
        temperature: float = 1.0,
        with_entropy: bool = False,
        with_values: bool = True,
    ) -> ActorCriticOutput:
        """Log-probabilities at every counted response token, and entropies and values if asked.

        Args:
            trees: the batch.
            temperature: logits are divided by it, as in sampling.
            with_entropy: whether to take the entropy of each token's distribution.
            with_values: whether to ask the critic, where there is one; without it the policy runs alone.
        """
        seen = self.policy(trees, temperature, with_entropy)
        values = self._values(trees, seen.states) if with_values else None
        return ActorCriticOutput(seen.logprobs, seen.entropy, values)

    def _values(self, trees: ResponseTrees, states: Tensor) -> Tensor | None:
        if self.critic is None:
            return None
        if not isinstance(self.critic, ValueHead):
            return self._own_values(trees)
        counted, values = trees.response_grid_mask(), self.critic(states)
        grid: Tensor = values.new_zeros(counted.shape).masked_scatter(counted, values)
        return grid

    def values(self, trees: ResponseTrees) -> Tensor:
        """The value before each counted response token, grid ``[N, R]``, from a critic with a pass of its own."""
        return self._own_values(trees)

    def _own_values(self, trees: ResponseTrees) -> Tensor:
        # not `values`: FSDP2 drops what it has gathered behind a method that it knows, within another too
        if isinstance(self.critic, AdapterCritic):
            return self.critic.values(self.policy.causal_lm.base_model, trees)
        assert isinstance(self.critic, ScorerNetwork)
        return self.critic.values(trees)

    def read(self, trees: ResponseTrees, adapter: LoraAdapter, name: str, prompts: bool) -> Reading:
        """The end states of the policy's trunk with another of its adapters, for a reward model on the same trunk."""
        with adapter.active(name):
            return end_states(self.policy.causal_lm.base_model, trees, prompts)

    def policy_parameters(self) -> list[nn.Parameter]:
        """What is trained of the policy; of a trunk with a value head too, which the value loss moves as well."""
        named = self.policy.named_parameters()
        return [weight for name, weight in named if weight.requires_grad and not is_of_adapter(name, CRITIC)]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What is trained of the critic alone: its network, or its adapter and head where the trunk is the policy's."""
        if self.critic is None:
            return []
        adapter = [weight for name, weight in self.policy.named_parameters() if is_of_adapter(name, CRITIC)]
        return adapter + [weight for weight in self.critic.parameters() if weight.requires_grad]

    def next_token_logits(self, feed: Feed) -> NextTokens:
        """See :meth:`PolicyNetwork.next_token_logits`; with values where the critic reads the policy's states."""
        seen = self.policy.next_token_logits(feed)
        return seen._replace(values=self.critic(seen.states)) if isinstance(self.critic, ValueHead) else seen

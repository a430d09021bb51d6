"""The networks of PPO from its arguments: policy and critic in one, and the reference beside them."""

from __future__ import annotations

import copy
from typing import Any, Literal

from torch import nn

from lit_rlhf.models.actor_critic import ActorCritic, Critic
from lit_rlhf.models.adapter_critic import AdapterCritic
from lit_rlhf.models.loading import check_same_vocabulary, disable_dropout, load_causal_lm
from lit_rlhf.models.lora import CRITIC, LoraAdapter, add_lora
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import (
    AdapterOff,
    Frozen,
    Reference,
    check_adapter_off,
    moving_reference,
)
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.models.value_head import ValueHead

SHARED = "shared"
"""The critic that is a head on the policy's trunk; a folder of that name is ``./shared``."""
ON_ADAPTER = "adapter"
"""The critic that is a second adapter on the policy's frozen trunk, with a head."""


def build_actor_critic(
    model: str | nn.Module,
    critic: str | None,
    wants_critic: bool,
    attention: Attention,
    lora: dict[str, Any] | None,
) -> tuple[ActorCritic, LoraAdapter | None]:
    """What PPO trains, without dropout, and the policy's adapters.

    Args:
        model: the policy: a folder, a hub name, or a causal language model already built.
        critic: a folder, whose head is kept where it is a reward model; ``shared`` = a value head on the policy's
            trunk; ``adapter`` = a second adapter and a value head on it; None = a copy of the policy's trunk with a
            head of zeros.
        wants_critic: whether the advantages need values; else there is no critic.
        attention: over trees or over padded rows.
        lora: of the policy, from :func:`lit_rlhf.models.lora_settings.lora_settings`; a critic is trained in full.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a critic is given where none is wanted, or it cannot read its ids, or there are no adapters.
    """
    if critic == ON_ADAPTER and lora is None:
        raise ValueError(
            "model.critic: adapter needs model.lora: it is a second adapter on the policy's frozen trunk. Give "
            "model.lora, or take model.critic shared."
        )
    if critic is not None and not wants_critic:
        raise ValueError(
            f"model.critic: expected null, found {critic}: these advantages need no values. A critic goes with "
            "advantage: gae, and with advantage: reinforce and baseline: value."
        )
    policy = PolicyNetwork(load_causal_lm(model, attention))
    # made before the adapters come: a copy of the trunk has none
    network = ActorCritic(policy, _build_critic(critic, policy, attention) if wants_critic else None)
    disable_dropout(network)
    adapter = add_lora(network, policy.causal_lm, lora)
    if isinstance(network.critic, AdapterCritic):
        assert adapter is not None
        adapter.add(CRITIC)
        network.critic.adapter = adapter
    return network, adapter


def _build_critic(critic: str | None, policy: PolicyNetwork, attention: Attention) -> Critic:
    if critic == SHARED:
        return ValueHead(policy.causal_lm.config.get_text_config().hidden_size)
    if critic == ON_ADAPTER:
        return AdapterCritic(policy.causal_lm.config.get_text_config().hidden_size)
    if critic is not None:
        loaded = load_scorer(critic, attention=attention)
        check_same_vocabulary("critic", loaded.trunk, policy.causal_lm)
        return loaded
    network = ScorerNetwork(copy.deepcopy(policy.causal_lm.base_model))
    network.zero_head()
    return network


def build_reference(
    reference: str | dict[str, Any] | None,
    reference_storage: Literal["frozen", "adapter_off"],
    network: ActorCritic,
    adapter: LoraAdapter | None,
    attention: Attention,
) -> Reference:
    """What the policy's KL is measured to; made before the policy is trained.

    Args:
        reference: a folder; ``{every: n}`` or ``{decay: τ}`` = one that moves; None = the policy as it starts.
        reference_storage: ``frozen`` holds a second model; ``adapter_off`` takes the policy's adapters off for the
            reference's forward.
        network: from :func:`build_actor_critic`.
        adapter: the policy's, from there.
        attention: of a model from a folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the arguments contradict one another, or the reference cannot read the policy's ids.
    """
    policy = network.policy
    if reference_storage == "adapter_off":
        check_adapter_off(adapter is not None, reference, "frozen")
        assert adapter is not None
        return AdapterOff(policy, adapter)
    if isinstance(reference, str):
        loaded = PolicyNetwork(load_causal_lm(reference, attention))
        check_same_vocabulary("reference", loaded.causal_lm, policy.causal_lm)
        return Frozen(loaded)
    start = _without_adapters(policy, adapter)
    return Frozen(start) if reference is None else moving_reference(reference, start, adapter)


def _without_adapters(policy: PolicyNetwork, adapter: LoraAdapter | None) -> PolicyNetwork:
    """A copy of the policy as it was before its adapters, to the bit."""
    if adapter is None:
        return copy.deepcopy(policy)
    return PolicyNetwork(copy.deepcopy(adapter.tuner).unload())

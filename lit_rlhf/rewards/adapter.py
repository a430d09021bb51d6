"""Rewards that are adapters on the policy's trunk: they need the policy, which other rewards do not."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.tokenization import load_tokenizer
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.adapter_scorer import load_adapter_scorer
from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.rewards.model import ModelReward


def with_adapter_rewards(
    spec: Any,
    key: str,
    network: ActorCritic,
    adapter: LoraAdapter | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Any:
    """`spec` with the reward itself in place of every ``{adapter: folder}``, in lists and ensembles too.

    Args:
        spec: see :func:`lit_rlhf.rewards.build.build_reward`.
        key: what the config calls it, for errors.
        network: the policy's trunk in it gets the adapters.
        adapter: the policy's; None = full weights.
        tokenizer: the policy's.

    Raises:
        FileNotFoundError: there is no such adapter.
        ValueError: the policy has no adapters, or this one does not belong to its model.
    """
    if isinstance(spec, list):
        return [
            with_adapter_rewards(part, f"{key}[{place}]", network, adapter, tokenizer)
            for place, part in enumerate(spec)
        ]
    if not isinstance(spec, dict):
        return spec
    if set(spec) != {"adapter"}:
        inner = {
            n: with_adapter_rewards(spec[n], f"{key}.{n}", network, adapter, tokenizer)
            for n in ("reward", "ensemble")
            if n in spec
        }
        return {**spec, **inner}
    if adapter is None:
        raise ValueError(
            f"model.{key}.adapter needs model.lora: without adapters the trunk is trained, and the reward would move "
            f"with it. Give model.lora, or the reward model's merged export (model.{key}: <run>/export)."
        )
    folder = str(spec["adapter"])
    name = f"reward_{len(adapter.tuner.peft_config)}"
    scorer = load_adapter_scorer(folder, network, adapter, name, key)
    reward = ModelReward(scorer, tokenizer, load_tokenizer(folder))
    reward.name = folder
    return reward

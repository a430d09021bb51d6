"""From the parsed arguments of ``fit`` to what decides about memory; neither data nor weights are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lit_rlhf
from lit_rlhf.cli.plan.moments import Forward, Run
from lit_rlhf.cli.plan.optimizer import imported, optimizer_cost
from lit_rlhf.cli.plan.rows import SAMPLING, Rows
from lit_rlhf.cli.plan.spread import read_spread, read_widths
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.models.flex_attention import HEAD_SIZES
from lit_rlhf.models.loading import looks_local
from lit_rlhf.models.lora_settings import lora_settings
from lit_rlhf.models.memory import Trained
from lit_rlhf.models.memory_ranks import Network
from lit_rlhf.models.network_size import adapters_of, size_of, with_heads
from lit_rlhf.modules.direct_methods import METHODS

PHASES = {
    "sft": "SFTModule",
    "reward": "RewardModule",
    "dpo": "DPOModule",
    "ppo": "PPOModule",
    "online-dpo": "OnlineDPOModule",
    "expert-iteration": "ExpertIterationModule",
}
FULL_WEIGHTS = Trained(weights=True)
ON_THE_TRUNK = ("shared", "adapter")
"""Critics that are a head on the policy's own trunk."""


class Settings:
    """The arguments of a run, as memory is concerned by them.

    Args:
        config: what ``fit`` parsed.
    """

    def __init__(self, config: Any) -> None:
        self.trainer = config.trainer
        self.model: Any = config.model.init_args
        self.phase = phase_of(config.model.class_path)
        if config.data is None:
            refuse(
                "there is no data module, whose limits say how long rows are.",
                "Give one, such as --data PairDataModule.",
            )
        self.data: Any = config.data.init_args
        self.notes: list[str] = []
        """What was taken for granted."""
        self.spread = read_spread(config.trainer, self.notes)
        self.widths, self.reward_widths = read_widths(config.trainer.precision)
        self.cuda = config.trainer.accelerator != "cpu"
        self.rows = Rows(
            self.phase,
            self.model,
            self.data,
            config.data.class_path.rsplit(".", 1)[-1],
            config.trainer.accumulate_grad_batches,
            self.spread,
            self.notes,
        )

    @property
    def wants_critic(self) -> bool:
        """Whether PPO's advantages need values."""
        advantage, baseline = self.model.get("advantage"), self.model.get("baseline")
        return self.phase == "ppo" and (
            advantage == "gae" or (advantage == "reinforce" and baseline == "value")
        )

    def run(self) -> Run:
        """Everything that decides about memory."""
        policy, critic, frozen = self._trained(), self._critic(), self._reference()
        row = self.rows.micro_batch()
        trained = [policy, *critic]
        passes = [policy, replace(policy, language_model=False)] if self._critic_on_adapter else trained
        rollout = None
        looks = [Forward(network, row) for network in frozen]
        if self.phase in SAMPLING:
            judges = [self.model.get("reward"), (self.model.get("annotator") or {}).get("annotator")]
            frozen += [self._reward(name, "reward") for spec in judges for name in reward_models(spec)]
            frozen += [
                self._reward(name, "gold reward") for name in reward_models(self.model.get("gold_reward"))
            ]
            rollout, looks = self.rows.rollout([*trained, *frozen], row, self.cuda, self.spread), []
        elif self.model.get("reference_storage") == "adapter_off":
            looks = [Forward(policy, row)]
        execution = self.model.get("execution") or {}
        cost = optimizer_cost(self.model.get("optimizer"), self.cuda)
        if not cost.known:
            self.notes.append("what the optimizer keeps could not be seen: counted as AdamW's")
        size = policy.size
        largest = max(size.vocabulary * size.hidden if policy.trained == FULL_WEIGHTS else 0, size.hidden)
        return Run(
            phase=self.phase,
            networks=(*trained, *frozen),
            updates=tuple(Forward(network, row) for network in passes),
            looks=tuple(looks),
            rollout=rollout,
            spread=self.spread,
            cuda=self.cuda,
            flex=self.cuda and self.model.get("attention") != "padded" and size.head_size in HEAD_SIZES,
            accumulates=self.rows.accumulate > 1,
            checkpointing=bool(execution.get("activation_checkpointing")),
            offload_activations=self.cuda and bool(execution.get("offload_activations")),
            state_per_weight=cost.state,
            step_per_weight=cost.update,
            step_weights=round(cost.one_by_one * largest * self.widths.weights),
        )

    def _trained(self) -> Network:
        name, scorer = self.model["model"], self.phase == "reward"
        size, lora = size_of(name, scorer), lora_settings(self.model.get("lora"))
        named = "model" if self.phase in ("sft", "reward") else "policy"
        network = Network(named, size, self.widths, FULL_WEIGHTS, size.parameters, 0, not scorer)
        if lora is not None:
            trained, added = adapters_of(name, scorer, json.dumps(lora, sort_keys=True))
            count = 2 * added if self._critic_on_adapter else added
            network = replace(network, trained=trained, trained_parameters=count, added_parameters=count)
            network = replace(network, packed=self._packed(network))
        value_head = self.wants_critic and self.model.get("critic") in ON_THE_TRUNK
        if not (scorer or value_head):
            return network
        headed = with_heads(size, 1)  # trained in full whatever is adapted
        more = headed.parameters - size.parameters
        return replace(network, size=headed, trained_parameters=network.trained_parameters + more)

    @property
    def _critic_on_adapter(self) -> bool:
        """Whether the critic is a second adapter on the policy's trunk, through which it takes a pass of its own."""
        return self.wants_critic and self.model.get("critic") == "adapter"

    def _packed(self, network: Network) -> int:
        """Weights of the layers that are stored in four bits."""
        lora = lora_settings(self.model.get("lora")) or {}
        full = lora.get("base_weights", "full") == "full"
        return 0 if full else network.size.layers * network.size.layer_weights

    def _critic(self) -> list[Network]:
        given = self.model.get("critic")
        if not self.wants_critic or given in ON_THE_TRUNK:
            return []
        size = with_heads(size_of(given or self.model["model"], scorer=True), 1)
        return [Network("critic", size, self.widths, FULL_WEIGHTS, size.parameters, 0, language_model=False)]

    @property
    def has_reference(self) -> bool:
        """Whether the method compares with a reference policy at all."""
        return self.phase != "dpo" or METHODS[self.model.get("loss") or "sigmoid"].reference

    def _reference(self) -> list[Network]:
        if self.model.get("reference_storage") != "frozen" or not self.has_reference:
            return []
        given = self.model.get("reference")
        size = size_of(given if isinstance(given, str) else self.model["model"])
        network = Network("reference", size, self.widths)
        return [network if isinstance(given, str) else replace(network, packed=self._packed(network))]

    def _reward(self, folder: str, name: str) -> Network:
        size = with_heads(size_of(folder, scorer=True), 1)
        return Network(name, size, self.reward_widths, language_model=False)


def phase_of(class_path: str) -> str:
    """The phase of a module's class, ours or one derived from it.

    Raises:
        SystemExit: it is neither.
    """
    kind = imported(class_path)
    for phase, name in PHASES.items():
        if isinstance(kind, type) and issubclass(kind, getattr(lit_rlhf, name)):
            return phase
    refuse(f"plan knows {', '.join(PHASES.values())} and classes derived from them; found {class_path}.")


def reward_models(spec: Any) -> list[str]:
    """The folders and hub names of reward models in what a config gives as a reward; functions hold no weights.

    >>> reward_models([{"reward": "./a", "weight": 1.0}, {"reward": "my_package.brevity"}])
    ['./a']
    """
    return list(_models_in(spec))


def _models_in(spec: Any) -> Iterator[str]:
    if isinstance(spec, str):
        served = spec.startswith(("http://", "https://"))  # whose weights are somewhere else
        if not served and (looks_local(spec) or "/" in spec or Path(spec).is_dir()):
            yield spec
    elif isinstance(spec, list):
        for entry in spec:
            yield from _models_in(entry)
    elif hasattr(spec, "get"):
        yield from _models_in(spec.get("ensemble") or spec.get("reward"))

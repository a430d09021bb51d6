"""A reward model on the policy's frozen trunk: the adapter and the heads that its run has exported."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.components import Components
from lit_rlhf.models.lora import BASE_CHECKSUM, LoraAdapter, base_checksum
from lit_rlhf.models.lora_state import when_settled
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.reading import Reading
from lit_rlhf.models.scorer import Link, ScorerNetwork
from lit_rlhf.models.stored_scorer import restore_components, restore_head
from lit_rlhf.records import ResponseTrees

PEFT_PREFIX = "base_model.model."
"""Of the names in peft's files."""

log = logging.getLogger(__name__)


class AdapterScorer(ScorerNetwork):
    """A scorer whose trunk is that of a policy, which it does not own: heads of its own, and the trunk's adapter.

    In eval mode; nothing of the policy is moved, frozen or saved with it.

    Args:
        network: holds the trunk, and runs it.
        adapter: that of the trunk.
        name: the reward model's in it.
        link: see :class:`ScorerNetwork`.
        components: see there.
    """

    def __init__(
        self,
        network: ActorCritic,
        adapter: LoraAdapter,
        name: str,
        link: Link = "bradley_terry",
        components: Components | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # heads that are put in at once
            super().__init__(network.policy.causal_lm.base_model, link, components)
        del self.trunk
        self._policy = (network, adapter, name)  # in a tuple it is no submodule

    def __getattr__(self, name: str) -> Any:
        if name == "trunk":  # read off and never registered
            return self._policy[0].policy.causal_lm.base_model
        return super().__getattr__(name)

    def _read(self, trees: ResponseTrees) -> Reading:
        """What :meth:`ScorerNetwork.read` says; through the network that owns the trunk."""
        network, adapter, name = self._policy
        with evaluating(network):
            return network.read(trees, adapter, name, self.gate is not None)


def load_adapter_scorer(
    folder: str, network: ActorCritic, adapter: LoraAdapter, name: str, key: str
) -> AdapterScorer:
    """The reward model whose adapter `folder` holds, on the policy's trunk.

    Args:
        folder: what a reward run with `lora` writes as ``export-adapter``.
        network: its policy's trunk gets the adapter, frozen.
        adapter: the policy's.
        name: of the new one.
        key: what the config calls it, for errors.

    Raises:
        FileNotFoundError: there is no adapter.
        ValueError: it is no reward model's, or was trained on another model than the policy starts from.
    """
    path = Path(folder).expanduser()
    file = path / "adapter_model.safetensors"
    if not (path / "adapter_config.json").is_file() or not file.is_file():
        raise FileNotFoundError(
            f"model.{key}.adapter: expected a folder with adapter_config.json and {file.name}, as a reward run with "
            f"model.lora writes it beside its export (<run>/export-adapter), found none in {folder!r}."
        )
    with safe_open(file, "pt") as stored:
        told = stored.metadata() or {}
        tensors = {part: stored.get_tensor(part) for part in stored.keys()}  # noqa: SIM118  # it is no mapping
    head = tensors.pop(f"{PEFT_PREFIX}score.weight", None)
    if head is None or "score_link" not in told:
        raise ValueError(f"model.{key}.adapter: {folder!r} is an adapter without a reward model's head.")
    trunk = network.policy.causal_lm.base_model
    when_settled(trunk, lambda: _check_base(folder, trunk, told.get(BASE_CHECKSUM), key))
    config = LoraConfig.from_pretrained(path)
    config.modules_to_save, config.inference_mode = None, False
    _put_adapter(folder, adapter, name, config, tensors, key)
    numbers = {n: value if n == "score_link" else _plain(value) for n, value in told.items()}
    components = Components.of(numbers.get("score_components"))
    scorer = AdapterScorer(network, adapter, name, numbers["score_link"], components)
    if components is None:
        stored_head: Any = SimpleNamespace(
            config=SimpleNamespace(**numbers), score=SimpleNamespace(weight=head)
        )
        restore_head(scorer, stored_head)
    else:
        restore_components(scorer, str(path))
    return scorer


def _plain(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _check_base(folder: str, trunk: nn.Module, stored: str | None, key: str) -> None:
    if stored is None:
        log.warning("%s does not say which model it was trained on; it is taken as the policy's.", folder)
    elif int(stored) != base_checksum(trunk):
        raise ValueError(
            f"model.{key}.adapter: {folder!r} was trained on another model than model.model, whose weights it would "
            "stand on. Train the reward model from the folder that the policy starts from, or give its merged export "
            f"(model.{key}: <run>/export)."
        )


def _put_adapter(
    folder: str,
    adapter: LoraAdapter,
    name: str,
    config: LoraConfig,
    tensors: dict[str, Tensor],
    key: str,
) -> None:
    named = {f"model.{part.removeprefix(PEFT_PREFIX)}": tensor for part, tensor in tensors.items()}
    try:
        adapter.add(name, config, trained=False)
        found = set_peft_model_state_dict(adapter.tuner, named, adapter_name=name)
        wrong = [part for part in found.missing_keys if f".{name}." in part] + list(found.unexpected_keys)
    except (RuntimeError, ValueError) as error:
        wrong = [str(error)]
    if wrong:
        raise ValueError(
            f"model.{key}.adapter: {folder!r} does not fit the model that the policy starts from: {wrong[0]}. Train "
            "the reward model from the folder that the policy starts from."
        )

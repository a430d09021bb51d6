"""LoRA by peft (Hu et al. 2022): small trained matrices beside frozen layers, put into a network in place."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, LoraModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as FAMILY_TARGETS
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lit_rlhf.models.lora_settings import peft_fields
from lit_rlhf.models.lora_state import checksum, refuse_adapters, save_without_the_frozen, settle_checksum
from lit_rlhf.models.lora_weights import draw_adapter, is_of_adapter
from lit_rlhf.models.quantized import is_quantized, merged_in_full, quantize_base

__all__ = ["LoraAdapter", "add_lora", "settle_checksum", "weights_without_adapters"]

ADAPTER = "default"
"""peft's name for the adapter that a phase trains: the policy's, the reward model's."""
BASE_CHECKSUM = "base_checksum"
"""Under which an exported reward adapter says what :func:`base_checksum` its trunk has."""
CRITIC = "critic"
"""That of PPO's critic on the policy's trunk."""

log = logging.getLogger(__name__)


class LoraAdapter:
    """The adapters of a network: what takes them off for a while, or adds them into the weights.

    Not an ``nn.Module`` on purpose: the matrices are the network's own parameters, and are not to be registered
    twice. Made by :func:`add_lora`.

    Args:
        model: its layers are replaced in place, and every weight of its own is frozen.
        config: peft's config.
    """

    def __init__(self, model: PreTrainedModel, config: LoraConfig) -> None:
        with torch.random.fork_rng(devices=[]):  # peft's own draws, in place of which come ours
            self.tuner = LoraModel(model, config, ADAPTER)
        self._trained: list[str] = []
        self._begin(ADAPTER, trained=True)

    def add(self, name: str, config: LoraConfig | None = None, trained: bool = True) -> None:
        """Put another adapter onto the same weights; it computes where :meth:`active` says so.

        Args:
            name: in peft's layers.
            config: its own; None = as that of the first.
            trained: whether its weights are; those of the others stay as they were.
        """
        self.tuner.peft_config[name] = copy.deepcopy(config or self.config)
        with torch.random.fork_rng(devices=[]):
            self.tuner.inject_adapter(self.tuner.model, name)
        self._begin(name, trained)

    def _begin(self, name: str, trained: bool) -> None:
        self._trained += [name] * trained
        self.layers: list[Any] = [m for m in self.tuner.model.modules() if isinstance(m, BaseTunerLayer)]
        draw_adapter(self.layers, name, self.tuner.peft_config[name].init_lora_weights == "gaussian")
        for layer in self.layers:  # layers that the others have not begin with the new one
            layer._active_adapter = [ADAPTER]
        for path, weight in self.tuner.model.named_parameters():  # peft trains those of the active one alone
            if ".lora_" in path:
                weight.requires_grad_(any(is_of_adapter(path, adapter) for adapter in self._trained))

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        """The network with another of its adapters inside the block; what is trained stays what it is."""
        try:
            for layer in self.layers:
                layer._active_adapter = [name]
            yield
        finally:
            for layer in self.layers:
                layer._active_adapter = [ADAPTER]

    @property
    def config(self) -> LoraConfig:
        """peft's config, with the targets as peft settled them."""
        config: LoraConfig = self.tuner.peft_config[ADAPTER]
        return config

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network without its adapters inside the block; for forwards without gradient."""
        # not by peft's enable_adapters, which changes what is trained as well
        try:
            for layer in self.layers:
                layer._disable_adapters = True
            yield
        finally:
            for layer in self.layers:
                layer._disable_adapters = False

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the adapters added into its weights; the model itself stays as it is.

        It takes the memory of the model once more, for as long as it is held; of a quantized one that of fp32.
        """
        if is_quantized(self.tuner.model):
            return merged_in_full(self.tuner, ADAPTER)
        merging = copy.deepcopy(self.tuner)
        model: PreTrainedModel = merging.merge_and_unload(safe_merge=True, adapter_names=[ADAPTER])
        return model

    def weights(self) -> dict[str, Tensor]:
        """The adapters' weights by the names that peft's files give them, counted from the model."""
        stored = get_peft_model_state_dict(self.tuner, adapter_name=ADAPTER, save_embedding_layers=False)
        return {name.removeprefix("model."): weight for name, weight in stored.items()}

    def layer_names(self) -> list[str]:
        """The adapted layers, counted from the model."""
        return [
            name
            for name, layer in self.tuner.model.named_modules()
            if layer in self.layers and (ADAPTER in layer.lora_A or ADAPTER in layer.lora_embedding_A)
        ]

    def target_names(self) -> list[str]:
        """The last part of the adapted layers' names, each once."""
        return sorted({name.rsplit(".", 1)[-1] for name in self.layer_names()})


def add_lora(
    network: nn.Module, model: PreTrainedModel, settings: dict[str, Any] | None
) -> LoraAdapter | None:
    """Put adapters into `model`, which is `network` or the part of it to adapt, and freeze its own weights.

    Targets are peft's for the model's family, else ``all-linear``. The second factor starts at 0, so that the
    network gives what it gave. From then on the network's ``state_dict`` holds what is trained and not the frozen
    weights; they stay as they are when it is loaded, and have to be those that the adapters were trained on.

    Args:
        network: what is trained and saved; parts of it outside `model` go on being trained in full.
        model: a decoder, with its language-model head or without.
        settings: from :func:`lit_rlhf.models.lora_settings.lora_settings`; None = full weights, and the network
            is left as it is.

    Raises:
        ValueError: no layer has such a name, or one that shares its weights with another was to be adapted.
    """
    if settings is None:
        network.register_load_state_dict_pre_hook(refuse_adapters)
        return None
    quantize_base(model, settings)
    targets = settings.get("target_modules") or FAMILY_TARGETS.get(model.config.model_type, "all-linear")
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # as GPT-2's layers are
    tied = _tied_weight(model)
    try:
        config = LoraConfig(
            **{**peft_fields(settings), "target_modules": targets, "fan_in_fan_out": transposed}
        )
        config.base_model_name_or_path = model.name_or_path or None
        adapter = LoraAdapter(model, config)
    except (ValueError, TypeError) as error:
        linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
        raise ValueError(
            f"model.lora: {error} The linear layers of {type(model).__name__} are {', '.join(sorted(linear))}; "
            "target_modules takes a list of these, a regular expression, or all-linear."
        ) from error
    _refuse_tied(adapter, tied)
    save_without_the_frozen(network)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log.info(
        f"LoRA r={config.r} on {', '.join(adapter.target_names())}: {trained:,} of {total:,} weights are trained "
        f"({100 * trained / total:.1f} %)"
    )
    return adapter


def base_checksum(trunk: nn.Module) -> int:
    """What tells whether two adapters stand on the same trunk, whatever else is around it, in fp32 or bf16.

    Every rank must call it where weights are spread over ranks.
    """
    weights = sorted(weights_without_adapters(trunk), key=lambda pair: pair[0])
    return int(checksum((weight for _, weight in weights), torch.bfloat16))


def weights_without_adapters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A model's own weights under the names that they have where it has no adapters."""
    for name, weight in model.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), weight


def _tied_weight(model: PreTrainedModel) -> nn.Parameter | None:
    """The weight that input embeddings and language-model head share; None where they do not."""
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    return head.weight if tied else None


def _refuse_tied(adapter: LoraAdapter, tied: nn.Parameter | None) -> None:
    for name, layer in adapter.tuner.model.named_modules():
        if isinstance(layer, BaseTunerLayer) and layer.get_base_layer().weight is tied:
            raise ValueError(
                f"model.lora.target_modules: {name} of {type(adapter.tuner.model).__name__} is one of the two that "
                "share their weights, input embeddings and head: an adapter on one could not be merged without "
                "changing the other. Leave it out."
            )

"""LoRA by peft (Hu et al. 2022): small trained matrices beside frozen layers, put into a network in place."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, LoraModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as FAMILY_TARGETS
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

CHECKSUM = "lora_base_checksum"
"""A buffer of the network: which frozen weights its adapters were trained on."""

ADAPTER = "default"
"""peft's name for the one adapter that there is."""

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
        self.tuner = LoraModel(model, config, ADAPTER)
        self.layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]

    @property
    def config(self) -> LoraConfig:
        """peft's config, with the targets as peft settled them."""
        config: LoraConfig = self.tuner.peft_config[ADAPTER]
        return config

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network without its adapters inside the block; for forwards without gradient."""
        try:
            for layer in self.layers:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self.layers:
                layer.enable_adapters(True)

    def merged(self) -> PreTrainedModel:
        """A copy of the model with the adapters added into its weights; the model itself stays as it is.

        It takes the memory of the model once more, for as long as it is held.
        """
        model: PreTrainedModel = copy.deepcopy(self.tuner).merge_and_unload(safe_merge=True)
        return model

    def weights(self) -> dict[str, Tensor]:
        """The adapters' weights by the names that peft's files give them, counted from the model."""
        stored = get_peft_model_state_dict(self.tuner, adapter_name=ADAPTER, save_embedding_layers=False)
        return {name.removeprefix("model."): weight for name, weight in stored.items()}

    def layer_names(self) -> list[str]:
        """The adapted layers, counted from the model."""
        return [name for name, layer in self.tuner.model.named_modules() if layer in self.layers]

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
        network.register_load_state_dict_pre_hook(_refuse_adapters)
        return None
    targets = settings.get("target_modules") or FAMILY_TARGETS.get(model.config.model_type, "all-linear")
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # as GPT-2's layers are
    tied = _tied_weight(model)
    try:
        config = LoraConfig(**{**settings, "target_modules": targets, "fan_in_fan_out": transposed})
        config.base_model_name_or_path = model.name_or_path or None
        adapter = LoraAdapter(model, config)
    except (ValueError, TypeError) as error:
        linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
        raise ValueError(
            f"model.lora: {error} The linear layers of {type(model).__name__} are {', '.join(sorted(linear))}; "
            "target_modules takes a list of these, a regular expression, or all-linear."
        ) from error
    _refuse_tied(adapter, tied)
    _save_without_the_frozen(network)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log.info(
        f"LoRA r={config.r} on {', '.join(adapter.target_names())}: {trained:,} of {total:,} weights are trained "
        f"({100 * trained / total:.1f} %)"
    )
    return adapter


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


def _save_without_the_frozen(network: nn.Module) -> None:
    frozen = sorted(name for name, weight in network.named_parameters() if not weight.requires_grad)
    network.register_buffer(CHECKSUM, _checksum([network.get_parameter(name) for name in frozen]))
    network.register_state_dict_post_hook(partial(_leave_frozen_out, frozen))
    network.register_load_state_dict_pre_hook(partial(_put_frozen_in, frozen))


@torch.no_grad()
def _checksum(weights: list[nn.Parameter]) -> Tensor:
    """A number of the weights' bits; sums of whole numbers are the same on every device."""
    as_whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = torch.zeros((), dtype=torch.int64)
    for number, weight in enumerate(weights, 1):
        bits = weight.contiguous().view(as_whole[weight.element_size()])
        total += number * bits.sum(dtype=torch.int64).cpu()
    return total


def _leave_frozen_out(
    frozen: list[str], network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any
) -> None:
    for name in frozen:
        if not network.get_parameter(name).requires_grad:  # somebody may have thawed it
            state.pop(prefix + name, None)


def _refuse_adapters(network: nn.Module, state: dict[str, Any], prefix: str, *strictness: Any) -> None:
    if prefix + CHECKSUM in state:
        raise ValueError(
            "The checkpoint holds LoRA weights: it was written with model.lora, which is null now."
        )


def _put_frozen_in(
    frozen: list[str], network: nn.Module, state: dict[str, Any], prefix: str, *strictness: Any
) -> None:
    missing = [name for name in frozen if prefix + name not in state]
    if not missing:
        return
    stored = state.get(prefix + CHECKSUM)
    if stored is None:
        raise ValueError("The checkpoint holds no LoRA weights: it was written with model.lora: null.")
    if stored.item() != network.get_buffer(CHECKSUM).item():
        raise ValueError(
            "The checkpoint holds LoRA weights that were trained on another model than this one. Give the model "
            "that the run started from."
        )
    for name in missing:
        state[prefix + name] = network.get_parameter(name).detach()

"""The sizes of a model from its ``config.json`` alone: built on the meta device, where weights take no memory."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as FAMILY_TARGETS
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lit_rlhf.models.loading import is_scorer_folder, resolve_model_name
from lit_rlhf.models.lora_settings import peft_fields
from lit_rlhf.models.memory import NetworkSize, Trained


def outline(name: str, scorer: bool = False) -> PreTrainedModel:
    """The model of a folder or hub name on the meta device: exact in its parameters, without any weight.

    Args:
        name: a folder with a ``config.json`` in it, which is all that is read; or a hub name.
        scorer: whether its language-model head is left off, as scorers leave it.

    Raises:
        FileNotFoundError: no such folder, or no config in it.
    """
    name = resolve_model_name(name)
    kind = AutoModelForSequenceClassification if is_scorer_folder(name) else AutoModelForCausalLM
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(AutoConfig.from_pretrained(name), dtype=torch.float32)
    model.tie_weights()
    return model.base_model if scorer else model


def network_size(model: PreTrainedModel) -> NetworkSize:
    """Sizes of `model`, which may be on the meta device."""
    config = model.config.get_text_config()
    trunk = model.base_model
    layers = getattr(trunk, "layers", None) or getattr(trunk, "h", None)
    largest: Any = max(layers or [trunk], key=_count)
    total, count = _count(model), config.num_hidden_layers
    inside = sum(map(_count, layers)) if layers else 0
    head = model.get_output_embeddings()
    matrices = [part for part in largest.modules() if isinstance(part, nn.Linear | Conv1D)]
    return NetworkSize(
        hidden=config.hidden_size,
        layers=count,
        heads=config.num_attention_heads,
        key_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
        gated=any(name.endswith("gate_proj") for name, _ in largest.named_modules()),
        parameters=total,
        layer_parameters=_count(largest),
        layer_weights=sum(part.weight.numel() for part in matrices),
        root_parameters=total - inside,
        tied=head is not None and head.weight is model.get_input_embeddings().weight,
    )


@lru_cache(maxsize=64)
def size_of(name: str, scorer: bool = False) -> NetworkSize:
    """Sizes of a model of a folder or hub name; see :func:`outline`."""
    return network_size(outline(name, scorer))


@lru_cache(maxsize=64)
def adapters_of(name: str, scorer: bool, settings: str) -> tuple[Trained, int]:
    """What is trained of a model with LoRA, and how many parameters the adapters add.

    Args:
        name: as :func:`outline` takes it.
        scorer: as there.
        settings: JSON of what :func:`lit_rlhf.models.lora_settings.lora_settings` gives.

    Raises:
        ValueError: no layer has such a name.
    """
    return adapters(outline(name, scorer), json.loads(settings))


def adapters(model: PreTrainedModel, settings: dict[str, Any]) -> tuple[Trained, int]:
    """See :func:`adapters_of`; `model`, on the meta device, gets the adapters."""
    settings = {name: value for name, value in settings.items() if name != "base_weights"}  # not peft's
    targets = settings.get("target_modules") or FAMILY_TARGETS.get(model.config.model_type, "all-linear")
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    config = LoraConfig(**{**peft_fields(settings), "target_modules": targets, "fan_in_fan_out": transposed})
    with torch.device("meta"):
        LoraModel(model, config, "default")
    names = {name for name, _ in model.named_parameters() if ".lora_A." in name}
    adapted = frozenset(name.split(".lora_A.")[0].rsplit(".", 1)[-1] for name in names)
    added = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    return Trained(weights=False, adapted=adapted, rank=config.r), added


def with_heads(size: NetworkSize, heads: int) -> NetworkSize:
    """A trunk's size with so many scalar heads on it, each a vector and a bias."""
    added = heads * (size.hidden + 1)
    return replace(size, parameters=size.parameters + added, root_parameters=size.root_parameters + added)


def _count(module: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())

"""Frozen weights in 4 bits (NF4 of Dettmers et al. 2023, QLoRA) by bitsandbytes, on GPUs and CPUs."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from peft import LoraModel
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel


def quantize_base(model: PreTrainedModel, settings: dict[str, Any] | None) -> None:
    """Put the linear maps of the decoder's layers into 4 bits, in place, where ``lora.base_weights`` is ``nf4``.

    Embeddings, norms and the language-model head stay as they are. A weight takes a bit more than half a byte, and is
    off by up to a tenth of the largest of its 64 neighbours: the model is another one from then on, its reference and
    its export too.

    Args:
        model: with weights; a quantized one is left as it is.
        settings: from :func:`lit_rlhf.models.lora_settings.lora_settings`.

    Raises:
        ImportError: bitsandbytes is not installed.
        ValueError: the model has no such maps, or no weights yet.
    """
    if settings is None or settings.get("base_weights", "full") == "full" or is_quantized(model):
        return
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "model.lora.base_weights: nf4 does not go with a strategy that spreads weights over ranks: packed weights "
            "cannot be read in parts. Take trainer.strategy ddp, or base_weights: full."
        )
    layers = _bitsandbytes().nn
    head = model.get_output_embeddings()
    found = [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear and m is not head]
    if not found:
        raise ValueError(
            f"model.lora.base_weights: {type(model).__name__} has no linear maps that could be quantized. Leave it out."
        )
    for name, linear in found:
        packed = layers.Linear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, quant_type="nf4"
        )
        # on some CPUs it would else turn its weights, in eval mode, into a form that cannot be trained on any more
        packed.support_avx512bf16_for_cpu = False
        packed.weight = layers.Params4bit(
            linear.weight.detach(), requires_grad=False, quant_type="nf4", module=packed
        )
        packed.bias = linear.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, packed.to(linear.weight.device).train(linear.training))
    model.is_loaded_in_4bit = True  # what peft asks, to put its own kind of layer around


def is_quantized(model: nn.Module) -> bool:
    """Whether :func:`quantize_base` was at work here."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def merged_in_full(tuner: LoraModel, adapter: str) -> PreTrainedModel:
    """A copy of the model in fp32 with the adapter added to its dequantized weights.

    It gives what the quantized model with its adapter gives, but for rounding; what quantization has lost stays lost.

    Args:
        tuner: peft's, which stays as it is.
        adapter: the name of the one that is merged.
    """
    copied = copy.deepcopy(tuner)
    adapted = {
        id(layer.get_base_layer()): layer for layer in copied.modules() if isinstance(layer, BaseTunerLayer)
    }
    for name, packed in list(copied.model.named_modules()):
        if not hasattr(getattr(packed, "weight", None), "quant_state") or isinstance(packed, BaseTunerLayer):
            continue
        linear = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None, device="meta")
        linear.weight = nn.Parameter(_dequantized(packed.weight), requires_grad=False)
        linear.bias = packed.bias
        parent, _, leaf = name.rpartition(".")
        setattr(copied.model.get_submodule(parent), leaf, linear)
        if id(packed) in adapted:  # peft's own merge of such layers would quantize anew
            LoraLinear.merge(adapted[id(packed)], safe_merge=True, adapter_names=[adapter])
    for layer in adapted.values():
        if not layer.merged:
            layer.merge(safe_merge=True, adapter_names=[adapter])
    for layer in adapted.values():
        layer.merged_adapters = []  # they are in the weights; unloading is not to take them off again
    model: PreTrainedModel = copied.unload()
    model.is_loaded_in_4bit = False
    return model


def _dequantized(weight: Any) -> Tensor:
    whole: Tensor = _bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)
    return whole.to(torch.float32)


def _bitsandbytes() -> Any:
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise ImportError(
            "model.lora.base_weights: nf4 needs bitsandbytes, which is not installed here. Install the extra "
            "(pip install 'lit-rlhf[quantized]'), or take base_weights: full."
        ) from error

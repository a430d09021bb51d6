"""How adapters begin: drawn on the CPU in one order, wherever the frozen weights are or are not yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lit_rlhf.models.sharding import like, whole

UNSETTLED = "waits_for_frozen_weights"
"""A mark on DoRA's magnitudes that could not be computed yet."""


def is_of_adapter(name: str, adapter: str) -> bool:
    """Whether a parameter is one of an adapter's, by its full name.

    >>> is_of_adapter("layers.0.q_proj.lora_A.default.weight", "default")
    True
    """
    parts = name.split(".")
    return any(part.startswith("lora_") and adapter in parts[n + 1 :] for n, part in enumerate(parts))


def draw_adapter(layers: list[Any], adapter: str, gaussian: bool) -> None:
    """Draw an adapter's weights anew as peft does, in the order of the layers, from a seed of the global stream.

    One number is taken from that stream, whatever the model. Where frozen weights are on the meta device, on which
    peft has made the adapter, it comes to the CPU; DoRA's magnitudes then wait for :func:`settle_magnitudes`.

    Args:
        layers: peft's, in the order of the model's modules.
        adapter: its name in them.
        gaussian: whether the first factor is normal with standard deviation 1/r, and not uniform.
    """
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    for layer in layers:
        if adapter in layer.lora_A:
            first, second = layer.lora_A[adapter], layer.lora_B[adapter]
            shape, device = first.weight.shape, _real(first.weight.device)
            drawn = torch.empty(shape)
            if gaussian:
                drawn.normal_(std=1 / shape[0], generator=generator)
            else:  # kaiming_uniform_ with a = √5
                drawn.uniform_(-1 / math.sqrt(shape[1]), 1 / math.sqrt(shape[1]), generator=generator)
            _put(first, "weight", drawn.to(device))
            _put(second, "weight", torch.zeros(second.weight.shape, device=device))
        elif adapter in layer.lora_embedding_A:
            first_factors, second_factors = layer.lora_embedding_A, layer.lora_embedding_B
            shape, device = second_factors[adapter].shape, _real(second_factors[adapter].device)
            drawn = torch.empty(shape).normal_(generator=generator)
            _put(first_factors, adapter, torch.zeros(first_factors[adapter].shape, device=device))
            _put(second_factors, adapter, drawn.to(device))
    for _, magnitude in _magnitudes(layers, adapter):
        if magnitude.weight.is_meta:
            _put(magnitude, "weight", torch.zeros(magnitude.weight.shape))
            setattr(magnitude, UNSETTLED, True)


@torch.no_grad()
def settle_magnitudes(network: nn.Module) -> None:
    """Set DoRA's magnitudes that wait for the frozen weights: the norms of their rows, as of an adapter of zeros.

    Every rank must call it where the weights are spread over ranks; each is gathered for a moment.
    """
    layers: list[Any] = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for adapter in sorted({name for layer in layers for name in layer.lora_A}):
        for layer, magnitude in _magnitudes(layers, adapter):
            if not getattr(magnitude, UNSETTLED, False):
                continue
            base = layer.get_base_layer()
            weight = whole(base.weight)
            by_output = weight.T if isinstance(base, Conv1D) else weight
            norms = torch.linalg.norm(by_output, dim=1).to(magnitude.weight.dtype)
            magnitude.weight.copy_(like(magnitude.weight, norms))
            setattr(magnitude, UNSETTLED, False)


def _magnitudes(layers: list[Any], adapter: str) -> Iterator[tuple[Any, Any]]:
    for layer in layers:
        if adapter in layer.lora_magnitude_vector:
            yield layer, layer.lora_magnitude_vector[adapter]


def _real(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "meta" else device


def _put(holder: Any, name: str, content: Tensor) -> None:
    held = getattr(holder, name)
    if held.is_meta:
        setattr(holder, name, nn.Parameter(content.to(held.dtype), held.requires_grad))
    else:
        held.data.copy_(content)

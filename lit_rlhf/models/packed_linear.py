"""Linear maps from weights laid out for a few rows at a time, for decoding on a CPU.

With sixteen rows a plain multiplication in fp32 reaches about a third of the processor's rate, because the weights
are read in an order that its caches do not like. oneDNN lays a weight out once; the products are then twice as fast.
A rollout reads each weight hundreds of times and pays one copy for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from lit_rlhf.models import last_layer

FEWEST_WEIGHTS = 2**17
"""Smaller maps are in the cache whatever their layout, and oneDNN takes longer to begin."""
MOST_WEIGHTS = 2**28
"""That are copied, of a network: 1 GiB."""


def is_plain(weight: Tensor) -> bool:
    """Whether it is a plain fp32 tensor on a CPU: not spread over ranks, not quantized."""
    return type(weight.data) is Tensor and weight.device.type == "cpu" and weight.dtype == torch.float32


def is_altered(part: nn.Module) -> bool:
    """Whether it computes something else than its class says; the hooks that leave out what is not read do not."""
    hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
    return "forward" in vars(part) or any(hook.__module__ != last_layer.__name__ for hook in hooks)


def pays_to_pack(weight: Tensor) -> bool:
    """Whether a laid out copy of the weight can be made, and is faster."""
    return is_plain(weight) and weight.numel() >= FEWEST_WEIGHTS and torch.backends.mkldnn.is_available()


def packed_map(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """x -> x Wᵀ + b for a W ``[out, in]`` that does not change, laid out for oneDNN where that pays."""
    if not pays_to_pack(weight):
        return partial(linear, weight=weight, bias=bias)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return partial(_multiply, laid_out, bias)


@contextmanager
def packed_linear_maps(parts: Iterable[nn.Module], most_weights: int = MOST_WEIGHTS) -> Iterator[None]:
    """Within the block the linear maps among `parts` are computed from laid out copies of their weights.

    For forwards without gradient, in which no weight changes. The parameters stay where they are; the copies take
    as much memory again, and are dropped behind the block.

    Args:
        parts: the first come first.
        most_weights: that are copied; a map beyond that stays as it is.
    """
    swapped: list[nn.Linear | Conv1D] = []
    try:
        for part in parts:
            if type(part) not in (nn.Linear, Conv1D) or is_altered(part):
                continue
            weight: Tensor = part.weight.detach()  # type: ignore[operator]
            if not pays_to_pack(weight) or weight.numel() > most_weights:
                continue
            most_weights -= weight.numel()
            by_output = weight if isinstance(part, nn.Linear) else weight.T.contiguous()
            mapping = packed_map(by_output, part.bias)  # type: ignore[arg-type]
            part.forward = partial(_linear, part.forward, mapping)
            swapped.append(part)
        yield
    finally:
        for part in swapped:
            del part.forward


def _linear(plain: Callable[[Tensor], Tensor], mapping: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    if hidden.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return plain(hidden)
    return mapping(hidden)


def _multiply(laid_out: Tensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(hidden, laid_out, bias, "none", [], "")

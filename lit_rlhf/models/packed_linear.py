"""Linear maps from weights laid out for a few rows at a time, for decoding on a CPU.

With sixteen rows a plain multiplication in fp32 reaches about a third of the processor's rate, because the weights
are read in an order that its caches do not like. oneDNN lays a weight out once; the products are then twice as fast.
A rollout reads each weight hundreds of times and pays one copy for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

FEWEST_WEIGHTS = 2**16
"""Smaller maps are in the cache whatever their layout."""


def can_pack(weight: Tensor) -> bool:
    """Whether a laid out copy of the weight can be made: a plain fp32 tensor on a CPU with oneDNN."""
    return (
        type(weight.data) is Tensor
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= FEWEST_WEIGHTS
        and torch.backends.mkldnn.is_available()
    )


@contextmanager
def packed_linear_maps(network: nn.Module) -> Iterator[None]:
    """Within the block the network's linear maps are computed from laid out copies of their weights.

    For forwards without gradient, in which no weight changes. The parameters stay where they are; the copies take
    as much memory again, and are dropped behind the block.
    """
    packed: list[nn.Linear | Conv1D] = [
        part
        for part in network.modules()
        if type(part) in (nn.Linear, Conv1D) and can_pack(part.weight)  # type: ignore[arg-type]
    ]
    try:
        for part in packed:
            weight = part.weight.detach()
            weight = weight if isinstance(part, nn.Linear) else weight.T.contiguous()
            laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            part.forward = partial(_linear, part, part.forward, laid_out)  # type: ignore[method-assign]
        yield
    finally:
        for part in packed:
            del part.forward


def _linear(
    part: nn.Linear | Conv1D, plain: Callable[[Tensor], Tensor], laid_out: Tensor, hidden: Tensor
) -> Tensor:
    if hidden.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return plain(hidden)
    return torch.ops.mkldnn._linear_pointwise(hidden, laid_out, part.bias, "none", [], "")

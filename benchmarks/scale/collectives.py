"""Collectives as they are called: kind, purpose and bytes of each, whoever calls it.

Every one goes through torch's dispatcher, those that DDP's reducer starts in C++ too, so a dispatch mode sees all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "broadcast"]
Purpose = Literal["weights", "gradients", "objects", "bookkeeping"]
"""Weights gathered; gradients reduced; python objects, such as the rollouts; and counts, flags, norms and buffers."""

SMALL = 64
"""Most numbers of a tensor that is a count, a flag, a norm or a logged value."""
NOTHING_SENT = ("barrier", "monitored_barrier_", "wait_tensor", "_wrap_tensor_autograd", "check_for_nan")
"""Operators beside the collectives: no tensor of theirs goes to another rank."""


@dataclass(frozen=True)
class Tally:
    """Of some collectives."""

    calls: float = 0
    payload: float = 0
    """Bytes of the whole tensors: of what an all-gather gives, of what a reduce-scatter takes."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.calls + other.calls, self.payload + other.payload)

    def times(self, factor: float) -> Tally:
        return Tally(self.calls * factor, self.payload * factor)


Tallies = dict[tuple[Kind, Purpose], Tally]


def sent_share(kind: Kind, ranks: int) -> float:
    """Bytes that one rank sends, of a collective's payload, where `ranks` form a ring.

    (n − 1)/n for an all-gather and a reduce-scatter, 2(n − 1)/n for an all-reduce, which is one of each. A broadcast
    passes through all ranks but the last: (n − 1)/n on average.
    """
    return (2 if kind == "all_reduce" else 1) * (ranks - 1) / ranks


def sent(tallies: Mapping[tuple[Kind, Purpose], Tally], ranks: int, purpose: Purpose | None = None) -> float:
    """Bytes that one rank sends for collectives of a purpose, or of all."""
    return sum(
        tally.payload * sent_share(kind, ranks)
        for (kind, why), tally in tallies.items()
        if purpose in (None, why)
    )


class CollectiveCounter(TorchDispatchMode):
    """Within the block, tallies the collectives of each stage.

    Set :attr:`stage` when another one begins. What is counted is what the process asks for; a group of one rank is
    asked too, and sends nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = "start"
        self.stages: dict[str, Counter[tuple[Kind, Purpose]]] = {}
        self._payloads: dict[str, Counter[tuple[Kind, Purpose]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it comes again as what it is made of
        if func.namespace in ("c10d", "_c10d_functional"):
            for kind, tensor, factor in collective(func, args):
                self._note(kind, tensor, factor, func.namespace)
        return func(*args, **(kwargs or {}))

    def _note(self, kind: Kind, tensor: Tensor, factor: int, namespace: str) -> None:
        key = kind, purpose(kind, tensor, namespace)
        self.stages.setdefault(self.stage, Counter())[key] += 1
        payload = factor * tensor.numel() * tensor.element_size()
        self._payloads.setdefault(self.stage, Counter())[key] += payload

    def tallies(self) -> dict[str, Tallies]:
        """By stage."""
        return {
            stage: {key: Tally(calls, self._payloads[stage][key]) for key, calls in counts.items()}
            for stage, counts in self.stages.items()
        }


def collective(func: Any, args: Any) -> Iterator[tuple[Kind, Tensor, int]]:
    """Of a dispatched operator: its kind, a tensor, and how often that fits into the payload.

    Raises:
        NotImplementedError: it sends something and is not known here.
    """
    name = func._schema.name.partition("::")[2]
    if name in NOTHING_SENT:
        return
    elif name in ("allreduce_", "broadcast_", "allreduce_coalesced_"):
        kind: Kind = "broadcast" if name == "broadcast_" else "all_reduce"
        for tensor in args[0]:
            yield kind, tensor, 1
    elif name == "all_reduce":
        yield "all_reduce", args[0], 1
    elif name == "_allgather_base_":
        yield "all_gather", args[0], 1
    elif name == "allgather_":
        for tensors in args[0]:
            yield "all_gather", tensors[0], len(tensors)
    elif name == "all_gather_into_tensor":
        yield "all_gather", args[0], args[1]
    elif name == "_reduce_scatter_base_":
        yield "reduce_scatter", args[1], 1
    elif name == "reduce_scatter_tensor":
        yield "reduce_scatter", args[0], 1
    elif any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
        raise NotImplementedError(f"{func}: expected a collective that is known here. Add what it sends.")


def purpose(kind: Kind, tensor: Tensor, namespace: str) -> Purpose:
    """What a collective is for, as its tensor and its caller show: norms of DTensors come by `_c10d_functional`."""
    if kind == "reduce_scatter":
        return "gradients"
    if tensor.dtype in (torch.uint8, torch.int8) and tensor.numel() > SMALL:
        return "objects"
    if kind == "all_gather" and tensor.is_floating_point():
        return "weights"
    large = tensor.is_floating_point() and tensor.numel() > SMALL
    return "gradients" if kind == "all_reduce" and large and namespace == "c10d" else "bookkeeping"

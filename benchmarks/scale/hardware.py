"""Named machines, and how long a collective takes on them: a model, with its assumptions as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.scale.collectives import Kind, Purpose, Tally, sent_share

GIGA = 1e9
MICRO = 1e-6


@dataclass(frozen=True)
class Hardware:
    """GPUs of one kind in nodes; from its maker's data sheet but for the shares, which are assumed.

    Args:
        name: of the GPU.
        flops: dense bf16 operations a second at most.
        memory_rate: bytes a second of its memory.
        link_rate: bytes a second that it sends to the others of its node.
        network_rate: bytes a second of its network card; each GPU has one.
        gpus_a_node: in one node.
        flops_share: what matrices reach of `flops`.
        memory_share: what a decoding step reaches of `memory_rate`.
        bus_share: what a large collective reaches of the slowest link on its way.
    """

    name: str
    flops: float
    memory_rate: float
    link_rate: float = 450 * GIGA
    network_rate: float = 50 * GIGA
    gpus_a_node: int = 8
    flops_share: float = 0.5
    memory_share: float = 0.8
    bus_share: float = 0.8

    def bus_rate(self, ranks: int) -> float:
        """Bytes a second of a ring through all ranks.

        Between nodes there are as many rings as network cards, each with its part of the data: the slowest of a GPU's
        links to its node and of the cards of a node together.
        """
        across = self.link_rate if ranks <= self.gpus_a_node else self.gpus_a_node * self.network_rate
        return self.bus_share * min(self.link_rate, across)

    def assumptions(self) -> dict[str, Any]:
        """Every number, for the conditions of a row."""
        return asdict(self)


MACHINES = (
    Hardware("H100 SXM", flops=989e12, memory_rate=3.35e12),
    Hardware("H200 SXM", flops=989e12, memory_rate=4.8e12),
)
BASE, RING_NEAR, RING_FAR, TREE_NEAR, TREE_FAR = (time * MICRO for time in (8.4, 3.4, 14.0, 4.0, 14.0))
"""Seconds of a collective, and of a hop within a node and between nodes: those of NCCL's own tuning model
(``src/graph/tuning.cc``, protocol Simple)."""


def latency(kind: Kind, ranks: int, gpus_a_node: int) -> float:
    """Seconds that a collective takes however small it is: a ring's hops, and a tree's for an all-reduce."""
    if ranks == 1:
        return 0.0
    near, nodes = min(ranks, gpus_a_node), math.ceil(ranks / gpus_a_node)
    if kind == "all_reduce":
        return BASE + 2 * ((near - 1) * TREE_NEAR + math.log2(nodes) * TREE_FAR)
    return BASE + (ranks - nodes) * RING_NEAR + (nodes - 1) * RING_FAR


def collective_seconds(kind: Kind, tally: Tally, ranks: int, machine: Hardware) -> float:
    """Of some collectives of one kind, one behind the other."""
    moving = tally.payload * sent_share(kind, ranks) / machine.bus_rate(ranks)
    return moving + tally.calls * latency(kind, ranks, machine.gpus_a_node)


def seconds(tallies: Mapping[tuple[Kind, Purpose], Tally], ranks: int, machine: Hardware) -> float:
    """Of all of them, one behind the other."""
    return sum(collective_seconds(kind, tally, ranks, machine) for (kind, _), tally in tallies.items())

"""How a network's weights, gradients and optimizer state are shared out over ranks: arithmetic, nothing is loaded.

What is whole and what is in parts is that of the ZeRO stages (Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054, section 5); what is gathered for a moment is FSDP2's, with one layer ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lit_rlhf.models.memory import FULL, NetworkSize, Trained, Widths

Kind = Literal["single", "ddp", "fsdp2", "fsdp1", "deepspeed_1", "deepspeed_2", "deepspeed_3"]

SPREADS_WEIGHTS = ("fsdp2", "fsdp1", "deepspeed_3")
"""Strategies under which a rank holds a part of each weight that is trained."""
SPREADS_GRADIENTS = (*SPREADS_WEIGHTS, "deepspeed_2")
SPREADS_OPTIMIZER = (*SPREADS_GRADIENTS, "deepspeed_1")
KEEPS_MASTERS = ("deepspeed_1", "deepspeed_2", "deepspeed_3")
"""Under mixed precision their weights are half as wide, and the optimizer has its own in fp32."""
DEEPSPEED_BUCKET = 200_000_000
"""Elements of the buffer that DeepSpeed reduces gradients in, Lightning's default."""
GATHERED_LAYERS = 2
"""Layers that are whole at once: the one that computes, and the next."""


@dataclass(frozen=True)
class Spread:
    """How a run is spread over ranks."""

    kind: Kind = "single"
    data_parallel: int = 1
    """Ranks that see different rows; weights are spread over them."""
    tensor_parallel: int = 1
    """Ranks that compute each layer together."""
    offload: bool = False
    """Whether weights in parts, their gradients and optimizer state lie in the memory of the CPU."""
    offload_optimizer: bool = False
    """Whether the optimizer's state alone does."""
    wraps_layers: bool = True
    """Whether each layer is gathered by itself; else the whole network at once."""
    reshards: bool = True
    """Whether a layer's weights are dropped behind its forward."""
    gathers_narrow: bool = True
    """Whether layers are gathered in the precision that they compute in, where it is another than that of weights."""
    whole_while_sampling: bool = False
    """Whether all layers of a policy are gathered while it samples."""

    @property
    def ranks(self) -> int:
        """All ranks."""
        return self.data_parallel * self.tensor_parallel

    def stored(self, widths: Widths) -> int:
        """Bytes of a weight that is trained."""
        return widths.compute if self.kind in KEEPS_MASTERS else widths.weights


@dataclass(frozen=True)
class Network:
    """A network that a run holds on each rank."""

    name: str
    size: NetworkSize
    widths: Widths
    trained: Trained | None = None
    """None = it is frozen."""
    trained_parameters: int = 0
    added_parameters: int = 0
    """Of adapters, which are not in `size`."""
    language_model: bool = True
    """Whether it has a language-model head."""
    packed: int = 0
    """Weights of its layers that are stored in four bits, with a scale in fp32 for every 64 of them."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.size.parameters + self.added_parameters


def is_spread(network: Network, spread: Spread) -> bool:
    """Whether a rank holds a part of each of its weights: under FSDP2 frozen networks too, elsewhere those trained."""
    trained = network.trained is not None
    return spread.kind == "fsdp2" or (trained and spread.kind in SPREADS_WEIGHTS)


def weight_bytes(network: Network, spread: Spread) -> int:
    """Bytes of its weights on a rank's device."""
    width = network.widths.weights if network.trained is None else spread.stored(network.widths)
    if not is_spread(network, spread):
        packed = network.packed // 2 + network.packed // 64 * FULL
        return (network.parameters - network.packed) * width + packed
    return 0 if spread.offload else _share(network, network.parameters, spread) * width


def gradient_bytes(network: Network, spread: Spread) -> int:
    """Bytes of its gradients on a rank's device, between two updates."""
    width = spread.stored(network.widths)
    if spread.kind not in SPREADS_GRADIENTS:
        return network.trained_parameters * width
    return 0 if spread.offload else _share(network, network.trained_parameters, spread) * width


def _share(network: Network, count: int, spread: Spread) -> int:
    """A rank's part of so many parameters: tensor parallelism cuts layers, and leaves the root whole."""
    root = network.size.root_parameters if count >= network.size.parameters else 0
    return part(root, spread.data_parallel) + part(count - root, spread.ranks)


def optimizer_bytes(network: Network, spread: Spread, state_per_weight: float) -> int:
    """Bytes of the optimizer's state on a rank's device, masters that DeepSpeed keeps among it.

    Args:
        network: trained.
        spread: over which ranks.
        state_per_weight: bytes of state to a byte of weight: 2 for Adam, which has two tensors of the weight's kind.
    """
    if spread.offload or spread.offload_optimizer:
        return 0
    width = float(network.widths.weights) * state_per_weight
    if spread.kind in KEEPS_MASTERS and network.widths.compute < FULL:
        width = FULL * (state_per_weight + 1)
    count = network.trained_parameters
    return round((_share(network, count, spread) if spread.kind in SPREADS_OPTIMIZER else count) * width)


def bucket_bytes(network: Network, spread: Spread) -> int:
    """Bytes of the buffers that gradients are reduced in: DDP's hold them all once more."""
    if spread.kind == "ddp":
        return network.trained_parameters * network.widths.weights
    if spread.kind in KEEPS_MASTERS:
        return min(DEEPSPEED_BUCKET, network.trained_parameters) * network.widths.compute
    return 0


def root_bytes(network: Network, spread: Spread) -> int:
    """Bytes of what is outside the layers, gathered: it stays so from its first use to its backward."""
    if not is_spread(network, spread) or not spread.wraps_layers:
        return 0
    return network.size.root_parameters * _root_width(network, spread)


def gathered_layer_bytes(network: Network, spread: Spread) -> int:
    """Bytes of the layers that are gathered at once, or of the network where it is gathered as a whole."""
    if not is_spread(network, spread):
        return 0
    if not spread.wraps_layers:
        return network.parameters * network.widths.compute
    count = GATHERED_LAYERS if spread.reshards else network.size.layers
    return count * _layer(network, spread) * _layer_width(network, spread)


def sampling_layer_bytes(network: Network, spread: Spread) -> int:
    """Bytes of the layers that are gathered at once while the network draws responses."""
    if spread.whole_while_sampling:
        spread = replace(spread, reshards=False)
    return gathered_layer_bytes(network, spread)


def whole_gradient_bytes(network: Network, spread: Spread) -> int:
    """Bytes of gradients before they are shared out: the root's and a layer's, and both laid out to be reduced."""
    if not is_spread(network, spread) or network.trained is None:
        return 0
    if not network.trained.weights:
        adapters = part(network.added_parameters, network.size.layers)
        return adapters * (_layer_width(network, spread) + network.widths.weights)
    if not spread.wraps_layers:
        return network.parameters * network.widths.compute
    layer = _layer(network, spread) * (_layer_width(network, spread) + network.widths.weights)
    return layer + 2 * network.size.root_parameters * _root_width(network, spread)


def _layer(network: Network, spread: Spread) -> int:
    adapters = part(network.added_parameters, network.size.layers)
    return part(network.size.layer_parameters + adapters, spread.tensor_parallel)


def _layer_width(network: Network, spread: Spread) -> int:
    return network.widths.compute if spread.gathers_narrow else network.widths.weights


def _root_width(network: Network, spread: Spread) -> int:
    """FSDP2's root is gathered as it is stored: sums over the vocabulary, and heads that give scores, are in full."""
    return network.widths.weights if spread.kind == "fsdp2" else network.widths.compute


def part(count: int, ranks: int) -> int:
    """The largest rank's share."""
    return -(-count // ranks)

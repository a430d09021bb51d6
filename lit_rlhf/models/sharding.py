"""A network spread over ranks: each holds a part of every weight and gathers a layer's when it computes it (FSDP2).

A gathered layer is dropped again behind it; gradients are averaged over the ranks and kept in parts, as the
optimizer's state is. The root of a network, embeddings and head, stays gathered from its first use to its backward.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

FORWARDS = ("next_token_logits", "values", "read", "forward_with_disagreement")
"""Methods of networks that read weights outside `forward`; they gather them too."""

WHOLE_WHILE_SAMPLING = "whole_while_sampling"
"""What a sharded network is told of :func:`whole_while_sampling`."""


def shard(
    network: nn.Module,
    mesh: DeviceMesh,
    reshard_after_forward: bool = True,
    cpu_offload: bool = False,
    gathered_in: torch.dtype | None = None,
    whole_while_sampling: bool = False,
) -> None:
    """Spread `network` over the ranks of `mesh`, in place: every decoder layer by itself, and the rest together.

    Its parameters become ``DTensor`` of the same names; what is on the meta device stays there, in parts.

    Args:
        network: a root: what is called from outside, and whose inner modules nobody else calls.
        mesh: one dimension, the ranks that see different data.
        reshard_after_forward: whether a layer is gathered anew in the backward, or kept from the forward.
        cpu_offload: whether parts lie in the memory of the CPU, and layers go to the device when they are gathered.
        gathered_in: the precision in which a layer's weights are sent and held while it computes, where that is
            another than their own: under autocast, which would cast them anyway, half the bytes. Gradients are
            averaged in fp32.
        whole_while_sampling: whether every rank holds all layers from the first token that it draws to the last, in
            place of gathering them for every token.
    """
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if cpu_offload else OffloadPolicy()
    precision = MixedPrecisionPolicy(gathered_in, torch.float32 if gathered_in else None, None, False)
    for layer in decoder_layers(network):
        fully_shard(
            layer,
            mesh=mesh,
            reshard_after_forward=reshard_after_forward,
            offload_policy=offload,
            mp_policy=precision,
        )
    fully_shard(network, mesh=mesh, offload_policy=offload)
    setattr(network, WHOLE_WHILE_SAMPLING, whole_while_sampling and reshard_after_forward)
    for name in FORWARDS:
        if callable(getattr(network, name, None)):
            register_fsdp_forward_method(network, name)


@contextmanager
def whole_while_sampling(network: nn.Module) -> Iterator[None]:
    """Within the block layers stay gathered, where :func:`shard` was told to: nothing is sent for each token."""
    keeps = getattr(network, WHOLE_WHILE_SAMPLING, False)
    layers = [layer for layer in decoder_layers(network) if isinstance(layer, FSDPModule)] if keeps else []
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
            layer.reshard()


def decoder_layers(network: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers of every transformers decoder in `network`, in order."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]


def is_sharded(network: nn.Module) -> bool:
    """Whether a forward gathers weights from other ranks, so that all of them must run it together."""
    return isinstance(network, FSDPModule)


def reshard(network: nn.Module) -> None:
    """Drop what a forward has left gathered, so that every parameter is this rank's part."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of one that is spread over ranks, every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, given: Tensor) -> Tensor:
    """`given`, which is whole on every rank, spread as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return given
    # every rank has it: nothing is sent
    spread = torch.distributed.tensor.distribute_tensor(
        given, tensor.device_mesh, tensor.placements, src_data_rank=None
    )
    # the mesh's kind of device is not where parts lie that are offloaded
    return with_part(tensor, spread.to_local().to(tensor.device))


def with_part(tensor: DTensor, part: Tensor) -> DTensor:
    """A tensor that is spread as `tensor` is, of which this rank has `part`."""
    return DTensor.from_local(
        part,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean over all ranks of the gradients of parameters that are whole on each of them."""
    for parameter in parameters:
        if parameter.grad is None:  # on this rank; others may have one
            parameter.grad = torch.zeros_like(parameter)
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad.div_(torch.distributed.get_world_size())


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients, in parts and whole ones, so that the norm of all of them together is at most `max_norm`.

    Returns:
        The norm before, a scalar, the same on every rank.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    kinds = [[g for g in gradients if isinstance(g, DTensor) == spread] for spread in (True, False)]
    norms = [whole(torch.nn.utils.get_total_norm(kind)) for kind in kinds if kind]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        own_part(gradient).mul_(factor)
    return norm


class Outline:
    """A network's form without its weights, kept from before it was spread, to be filled when it is exported.

    Args:
        network: not spread yet.
        beside: what belongs to it and is to be copied along, such as its adapters.
    """

    def __init__(self, network: nn.Module, beside: Any = None) -> None:
        # each weight is copied as one without content
        memo: dict[int, Any] = {
            id(weight): nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
            for weight in network.parameters()
        }
        self._copy: tuple[nn.Module, Any] = copy.deepcopy((network, beside), memo)

    @contextmanager
    def filled(self, network: nn.Module) -> Iterator[tuple[nn.Module, Any] | None]:
        """The whole network on rank 0, in the memory of its CPU, and what was copied along; None on other ranks.

        Weights are gathered one by one, so every rank must come here.

        Args:
            network: as it is now, spread.
        """
        reshard(network)
        first = torch.distributed.get_rank() == 0
        for name, weight in network.named_parameters():
            gathered = whole(weight.detach())
            if first:
                self._put(name, gathered.to("cpu", copy=True))
            del gathered
        for name, buffer in network.named_buffers():
            if first:
                held = self._copy[0].get_buffer(name)
                held.copy_(buffer)
        try:
            yield self._copy if first else None
        finally:
            if first:
                for name, weight in list(self._copy[0].named_parameters()):
                    self._put(name, weight.detach().to("meta"))

    def _put(self, name: str, content: Tensor) -> None:
        parent, _, leaf = name.rpartition(".")
        module = self._copy[0].get_submodule(parent)
        held = module._parameters[leaf]
        assert held is not None
        fresh = nn.Parameter(content, held.requires_grad)
        for other in self._copy[0].modules():  # tied weights are one parameter under two names
            for key, value in other._parameters.items():
                if value is held:
                    other._parameters[key] = fresh

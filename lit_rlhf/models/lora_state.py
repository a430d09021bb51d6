"""What a network with adapters saves: what is trained, and which frozen weights it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_rlhf.models.lora_weights import settle_magnitudes
from lit_rlhf.models.sharding import own_part

CHECKSUM = "lora_base_checksum"
"""A buffer of the network: which frozen weights its adapters were trained on."""
OURS = "lora_base_checksum_here"
"""The same as a plain number: torch's distributed loading writes into buffers before anybody can compare."""
WAITING = "waiting_for_weights"
"""A trunk's checks that need its weights."""
NOT_YET = 0
"""The checksum of weights that have not been read."""


def save_without_the_frozen(network: nn.Module) -> None:
    """From now on the network's ``state_dict`` holds what is trained; frozen weights stay as they are in loading.

    Where they have no content yet, :func:`settle_checksum` is to be called once they have.
    """
    weights = _frozen_base(network)
    waits = any(weight.is_meta for _, weight in weights)
    number = torch.tensor(NOT_YET) if waits else checksum(weight for _, weight in weights)
    network.register_buffer(CHECKSUM, number)
    setattr(network, OURS, number.item())
    network.register_state_dict_post_hook(_leave_frozen_out)
    network.register_load_state_dict_pre_hook(_put_frozen_in)


def settle_checksum(network: nn.Module) -> None:
    """Do what had to wait for the frozen weights: their checksum, and DoRA's magnitudes. Else nothing.

    Every rank of the default group must call it where the weights are spread over ranks: behind
    :func:`lit_rlhf.models.deferred_weights.read_weights`, and before a checkpoint is loaded.

    Args:
        network: what :func:`lit_rlhf.models.lora.add_lora` was given, or anything that holds it.
    """
    for module in network.modules():
        if getattr(module, OURS, None) == NOT_YET:
            number = checksum(weight for _, weight in _frozen_base(module))
            module.get_buffer(CHECKSUM).copy_(number)
            setattr(module, OURS, number.item())
        if hasattr(module, OURS):
            _ask_for_no_frozen(module)
        for check in module.__dict__.pop(WAITING, []):
            check()
    settle_magnitudes(network)


def _ask_for_no_frozen(network: nn.Module) -> None:
    """Where weights are spread over ranks Lightning loads them one by one, past all hooks, and misses the frozen.

    It leaves out what a module names as not to be stored.
    """
    for module in network.modules():
        for name, weight in module._parameters.items():
            if isinstance(weight, DTensor) and not weight.requires_grad:
                module._non_persistent_buffers_set.add(name)


@torch.no_grad()
def checksum(weights: Iterable[Tensor], width: torch.dtype | None = None) -> Tensor:
    """A number of the weights' bits, a scalar on the CPU; sums of whole numbers are the same on every device.

    And the same however weights are spread over ranks, all of which then have to call it.

    Args:
        weights: in an order that counts.
        width: the weights are rounded to it first; None = not.
    """
    as_whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = torch.zeros((), dtype=torch.int64)
    spread, device = False, torch.device("cpu")
    for number, weight in enumerate(weights, 1):
        part = own_part(weight)
        counts = True
        if isinstance(weight, DTensor):
            spread, device = True, part.device
            coordinate, placements = weight.device_mesh.get_coordinate(), weight.placements
            # of ranks that hold the same part one counts it
            counts = coordinate is not None and not any(
                place and not placement.is_shard()
                for place, placement in zip(coordinate, placements, strict=True)
            )
        if counts and part.numel():
            part = part.to(width or part.dtype).contiguous()
            total += number * part.view(as_whole[part.element_size()]).sum(dtype=torch.int64).cpu()
    if spread:
        total = total.to(device)
        torch.distributed.all_reduce(total)
    return total.cpu()


def _frozen_base(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The frozen weights of the model itself, sorted by the names that they have where there are no adapters."""
    named = [
        (name.replace(".base_layer.", "."), weight)
        for name, weight in network.named_parameters()
        if not weight.requires_grad and ".lora_" not in name
    ]
    return sorted(named, key=lambda pair: pair[0])


def _frozen(network: nn.Module) -> list[str]:
    """With adapters that are not trained here, which are read again from where they are stored; and a tied weight
    under both of its names."""
    named = network.named_parameters(remove_duplicate=False)
    return [name for name, weight in named if not weight.requires_grad]


def _leave_frozen_out(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    frozen = {prefix + name for name in _frozen(network)}  # as it is now: somebody may have thawed one
    for name in [name for name in state if not frozen.isdisjoint(_with_what_it_is_part_of(name))]:
        del state[name]


def _with_what_it_is_part_of(name: str) -> Iterator[str]:
    """``a.weight.scale``, ``a.weight``, ``a``: a quantized weight has parts of its own in a state."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def refuse_adapters(network: nn.Module, state: dict[str, Any], prefix: str, *strictness: Any) -> None:
    """A hook of networks without adapters, before a state is loaded.

    Raises:
        ValueError: the state holds adapters.
    """
    if prefix + CHECKSUM in state:
        raise ValueError(
            "The checkpoint holds LoRA weights: it was written with model.lora, which is null now."
        )


def _put_frozen_in(network: nn.Module, state: dict[str, Any], prefix: str, *strictness: Any) -> None:
    missing = [name for name in _frozen(network) if prefix + name not in state]
    stored = state.get(prefix + CHECKSUM)
    if stored is None:
        if missing:
            raise ValueError("The checkpoint holds no LoRA weights: it was written with model.lora: null.")
        return
    check_base(network, stored)
    for name in missing:
        state[prefix + name] = network.get_parameter(name).detach()


def check_base(network: nn.Module, stored: Tensor) -> None:
    """Refuse adapters that were trained on other frozen weights; hooks do it, where a state is loaded as a whole.

    Args:
        network: what :func:`lit_rlhf.models.lora.add_lora` was given.
        stored: what the state that is to be loaded has as :data:`CHECKSUM`.

    Raises:
        ValueError: they were.
    """
    if stored.item() != getattr(network, OURS):
        raise ValueError(
            "The checkpoint holds LoRA weights that were trained on another model than this one. Give the model "
            "that the run started from."
        )


def when_settled(trunk: nn.Module, check: Callable[[], None]) -> None:
    """Do `check` now, or where weights of the trunk have no content yet in :func:`settle_checksum`."""
    if any(weight.is_meta for weight in trunk.parameters()):
        setattr(trunk, WAITING, [*getattr(trunk, WAITING, []), check])
    else:
        check()

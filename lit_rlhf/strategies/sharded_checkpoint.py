"""A checkpoint folder that many ranks wrote together, as the one dictionary that every other strategy reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.optim import Optimizer

from lit_rlhf.models.sharding import like

REST = "meta.pt"
"""The file of what is no weight and no optimizer state; rank 0 writes it last."""


def read_sharded_checkpoint(
    folder: str | Path, with_optimizers: bool = True, weights_only: bool | None = True
) -> dict[str, Any]:
    """A Lightning checkpoint with whole tensors, in the memory of the CPU.

    Lightning's own consolidation reads the folders of its first FSDP strategy alone.

    Args:
        folder: what `fsdp2` wrote with ``save_distributed_checkpoint``.
        with_optimizers: whether optimizer states are read too; an export has no use for them.
        weights_only: of what is no tensor: refuse code in the file.

    Raises:
        FileNotFoundError: the folder is no such checkpoint, or was not written to its end.
    """
    folder = Path(folder)
    if not (folder / REST).is_file():
        raise FileNotFoundError(
            f"{folder}: expected a sharded checkpoint, found no {REST}: it is written last, so the folder was not "
            "finished. Give an earlier checkpoint."
        )
    rest: dict[str, Any] = torch.load(folder / REST, map_location="cpu", weights_only=weights_only)
    tensors: dict[str, Any] = {}
    _load_state_dict(
        tensors,
        storage_reader=FileSystemReader(folder),
        planner=_EmptyStateDictLoadPlanner(keys=None if with_optimizers else {"state_dict"}),
        no_dist=True,
    )
    checkpoint = {**rest, "state_dict": tensors.pop("state_dict")}
    if with_optimizers:
        states = [tensors[f"optimizer_{number}"] for number in range(len(tensors))]
        checkpoint["optimizer_states"] = [_by_number(state) for state in states]
    return checkpoint


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with parameters counted through its groups, as optimizers have it, and not by name."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number_of = {name: number for number, name in enumerate(names)}
    return {
        "state": {number_of[name]: held for name, held in state.get("state", {}).items()},
        "param_groups": [
            {**group, "params": [number_of[name] for name in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def check_same_weights(model: nn.Module, path: Path, weights_only: bool | None) -> None:
    """Refuse a checkpoint of another model, which Lightning's loading would take in part without a word.

    Args:
        model: what the checkpoint is to be loaded into.
        path: the checkpoint, a file or a folder.
        weights_only: of a file: refuse code in it.

    Raises:
        ValueError: it has other weights, or of other shapes; the message names the first.
    """
    if path.is_dir():
        stored = {
            name.removeprefix("state_dict."): tuple(entry.size)
            for name, entry in FileSystemReader(path).read_metadata().state_dict_metadata.items()
            if name.startswith("state_dict.") and isinstance(entry, TensorStorageMetadata)
        }
    else:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
        stored = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differ = sorted(name for name in {**stored, **here} if stored.get(name) != here.get(name))
    if differ:
        name = differ[0]
        raise ValueError(
            f"{path}: its weights do not fit this model: {name} has the shape {stored.get(name)} there and "
            f"{here.get(name)} here, and {len(differ) - 1} more differ. Give the model, model.lora and data that the "
            "run was started with."
        )


@torch.no_grad()
def load_whole_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """What a single process or rank 0 saved of an optimizer, spread as its parameters are.

    Args:
        optimizer: with as many parameters, in the same order.
        state: its ``state_dict`` with whole tensors; a parameter that was never updated has no entry, and gets none.

    Raises:
        ValueError: the state is of other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if len(parameters) != len(numbers):
        raise ValueError(
            f"The checkpoint's optimizer has {len(numbers)} parameters, this run's has {len(parameters)}: give the "
            "model, model.lora and what else is trained as the run had it."
        )
    for parameter, number in zip(parameters, numbers, strict=True):
        held = state["state"].get(number)
        if held is None:  # never updated; what a roll-back undoes goes too
            optimizer.state.pop(parameter, None)
        else:
            optimizer.state[parameter] = {name: _spread(parameter, value) for name, value in held.items()}
    _settle_groups(optimizer, state["param_groups"])


def load_optimizer_parts(model: nn.Module, optimizer: Optimizer, name: str, folder: str | Path) -> None:
    """What all ranks saved of an optimizer in a folder; every rank must call it.

    Args:
        model: holds the optimizer's parameters, spread.
        optimizer: without a state.
        name: of the optimizer there.
        folder: the checkpoint.
    """
    state: Any = get_optimizer_state_dict(
        model, optimizer
    )  # begins a state for each parameter, to be read into
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    distributed_checkpoint.load(
        {name: state}, checkpoint_id=folder, planner=DefaultLoadPlanner(allow_partial_load=True)
    )
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for path, parameter in model.named_parameters():
        if id(parameter) not in trained:
            continue
        if any(key.startswith(f"{name}.state.{path}.") for key in stored):
            optimizer.state[parameter] = state["state"][path]
        else:
            optimizer.state.pop(parameter, None)
    _settle_groups(optimizer, state["param_groups"])


def _spread(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.dim():
        return value
    return like(parameter, value).clone()


def _settle_groups(optimizer: Optimizer, stored: list[dict[str, Any]]) -> None:
    for group, before in zip(optimizer.param_groups, stored, strict=True):
        group.update({key: value for key, value in before.items() if key != "params"})

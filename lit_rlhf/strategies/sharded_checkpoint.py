"""A checkpoint folder that many ranks wrote together, as the one dictionary that every other strategy reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

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

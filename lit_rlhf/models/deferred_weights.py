"""Models without their weights, until each rank has settled its part and reads that alone from the folder.

A run over many ranks builds its networks on the meta device, spreads them, and lets every rank read its slices of the
safetensors files: no process loads a whole model.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from lit_rlhf.models.sharding import with_part
from lit_rlhf.models.stored_weights import stored_names

STORED = "stored_parameters"
"""What a module that owns parameters without content knows of them: ``{own name: (folder, name there)}``."""

_deferring: ContextVar[bool] = ContextVar("deferring", default=False)
log = logging.getLogger(__name__)


@contextmanager
def deferred_weights() -> Iterator[None]:
    """Within the block models from folders are built without their weights; :func:`read_weights` reads them later.

    `lit-rlhf fit` does it where the strategy spreads weights over ranks. In your own project::

        with deferred_weights():
            module = SFTModule("model")
        Trainer(strategy="fsdp2", ...).fit(module, data)
    """
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


def open_without_weights(auto_class: Any, name: str) -> PreTrainedModel | None:
    """The model of a folder with parameters on the meta device and real buffers, where that is asked for and works.

    Args:
        auto_class: such as ``AutoModelForCausalLM``.
        name: the folder; of a hub name the weights are loaded at once.

    Returns:
        None where weights are to be loaded at once: outside :func:`deferred_weights`, or where the stored names are
        not the model's own (an older layout, which transformers renames in loading), which is said.
    """
    if not _deferring.get() or not Path(name).is_dir():
        return None
    config = AutoConfig.from_pretrained(name)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = auto_class.from_config(config, dtype=torch.float32)
    model.tie_weights()
    model.name_or_path = model.config._name_or_path = name
    if (Path(name) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(name)
    stored = stored_names(name) if any(Path(name).glob("*.safetensors")) else set()
    lacking = [parameter for parameter, _ in model.named_parameters() if parameter not in stored]
    if lacking:
        log.warning(
            "%s holds no %s under that name: every rank loads this model whole before it keeps its part. Save it once "
            "with transformers' save_pretrained to avoid that.",
            name,
            lacking[0],
        )
        return None
    for prefix, module in model.named_modules():
        names = {leaf: f"{prefix}.{leaf}" if prefix else leaf for leaf in module._parameters}
        setattr(module, STORED, {leaf: (name, full) for leaf, full in names.items()})
    return model


def has_deferred(network: nn.Module) -> bool:
    """Whether parameters of `network` have no content yet."""
    return any(parameter.is_meta for parameter in network.parameters())


def read_weights(network: nn.Module, device: torch.device | str) -> None:
    """Give every parameter without content this rank's part of it, from the folder that it is stored in.

    Every rank of the network's mesh must call it.

    Args:
        network: spread over ranks, or not.
        device: where the parts are to lie.

    Raises:
        RuntimeError: a parameter without content was not made by :func:`open_without_weights`.
    """
    fresh: dict[int, nn.Parameter] = {}
    rounds: list[dict[str, dict[str, Tensor]]] = []  # networks may hold one stored tensor several times
    for path, module in network.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in fresh:
                if leaf not in getattr(module, STORED, {}):
                    raise RuntimeError(
                        f"{path}.{leaf} has no content, and no folder that it could be read from."
                    )
                folder, name = getattr(module, STORED)[leaf]
                empty = _empty_like(parameter, device)
                fresh[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
                target = next((r for r in rounds if name not in r.get(folder, {})), None)
                if target is None:
                    rounds.append(target := {})
                target.setdefault(folder, {})[name] = fresh[id(parameter)].detach()
            module._parameters[leaf] = fresh[id(parameter)]
    for folders in rounds:
        for folder, tensors in folders.items():
            alone = not any(isinstance(tensor, DTensor) for tensor in tensors.values())
            reader = HuggingFaceStorageReader(folder)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*load in a single process")  # as it is meant
                distributed_checkpoint.load(tensors, storage_reader=reader, no_dist=alone)


def _empty_like(parameter: Tensor, device: torch.device | str) -> Tensor:
    if not isinstance(parameter, DTensor):
        return torch.empty_like(parameter, device=device)
    return with_part(parameter, torch.empty_like(parameter.to_local(), device=device))

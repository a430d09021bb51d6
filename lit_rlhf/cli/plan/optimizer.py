"""What an optimizer keeps of each weight, and needs for a moment: seen by letting one of its kind make a step."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch

ADAM = 2.0
"""Bytes of Adam's state to a byte of weight: two tensors of the weight's kind."""


class OptimizerCost(NamedTuple):
    """Bytes to a byte of the weights that are trained."""

    state: float
    """What is kept between updates."""
    update: float
    """What one update of all weights together needs for a moment."""
    one_by_one: float
    """What an update needs of the largest weight, where weights are updated one by one."""
    known: bool = True
    """Whether it could be seen; else it is counted as Adam's."""


def optimizer_cost(optimizer: Any, cuda: bool) -> OptimizerCost:
    """The cost of what the config has as ``model.optimizer``.

    Args:
        optimizer: its class path and arguments; anything else is the modules' default, AdamW.
        cuda: whether weights are on a GPU, where torch's optimizers update them all in one go.
    """
    path, arguments = "torch.optim.AdamW", {}
    if hasattr(optimizer, "get") and optimizer.get("class_path"):
        path, given = optimizer.get("class_path"), optimizer.get("init_args")
        arguments = {} if given is None else dict(vars(given))
    fused = bool(arguments.pop("fused", False))
    together = arguments.get("foreach")
    together = cuda if together is None else together
    seen = _state(path, arguments)
    if seen is None:
        return OptimizerCost(ADAM, float(together), 0.0 if together else ADAM, known=False)
    kept, adam = seen
    if not adam or fused:  # others work in place, as far as torch's own go
        return OptimizerCost(kept, 0.0, 0.0)
    # the square roots of the second moments; one by one also their quotients
    return OptimizerCost(kept, 1.0, 0.0) if together else OptimizerCost(kept, 0.0, 2.0)


def _state(path: str, arguments: dict[str, Any]) -> tuple[float, bool] | None:
    """Bytes of state to a byte of weight, and whether it is Adam's kind; None where no step can be made here."""
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    try:
        optimizer = imported(path)([weight], **arguments)
        optimizer.step()
    except Exception:  # somebody's own optimizer, of which nothing is known
        return None
    state = optimizer.state[weight]
    kept = sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor) and value.dim())
    return kept / weight.nbytes, "exp_avg_sq" in state


def imported(path: str) -> Any:
    """What a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)

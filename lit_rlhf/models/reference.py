"""References: held, not registered, so that checkpoints, optimizers and wrappers never see them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.modes import evaluating


class Frozen:
    """Holds a network in eval mode without gradients. Not an ``nn.Module`` on purpose.

    As a plain object it stays out of ``parameters()``, ``state_dict()`` and Lightning's wrappers; whoever
    holds it moves it to its device.

    Args:
        network: taken over as it is; see :meth:`copy_of` for one that goes on training elsewhere.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False).eval()

    @classmethod
    def copy_of(cls, network: nn.Module) -> Frozen:
        """A frozen copy of `network`, which is left as it was."""
        return cls(copy.deepcopy(network))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.network(*args, **kwargs)

    def to(self, device: torch.device | str) -> Frozen:
        """Move the held network."""
        self.network.to(device)
        return self


class AdapterOff:
    """A network as it was before its adapters: the same weights with the adapters taken off, no second copy.

    In eval mode and without gradients inside a call, and back to what it was after it, on errors too.

    Args:
        network: goes on training elsewhere.
        adapter: its adapters.
    """

    def __init__(self, network: nn.Module, adapter: LoraAdapter) -> None:
        self.network = network
        self.adapter = adapter

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), evaluating(self.network), self.adapter.off():
            return self.network(*args, **kwargs)

    def to(self, device: torch.device | str) -> AdapterOff:
        """Nothing: it is where the network is."""
        return self

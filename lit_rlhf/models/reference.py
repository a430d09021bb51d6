"""References: held, not registered, so that checkpoints, optimizers and wrappers never see them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.sharding import is_sharded, like, own_part, reshard, whole, with_part

COARSE = (torch.bfloat16, torch.float16)
"""In two or three digits a slow average stands still: old + 0.01·(new − old) is old again."""


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
        """Move the held network; one that is spread over ranks is where it is to be."""
        if not is_sharded(self.network):
            self.network.to(device)
        return self

    def networks(self) -> list[nn.Module]:
        """What is held, to be spread over ranks."""
        return [self.network]

    @contextmanager
    def drawing(self, policy: nn.Module) -> Iterator[Any]:
        """The network that responses of the reference are drawn from, inside the block.

        Args:
            policy: the network that is trained, whatever else it holds.
        """
        yield self.network


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

    def networks(self) -> list[nn.Module]:
        """None of its own."""
        return []

    @contextmanager
    def drawing(self, policy: nn.Module) -> Iterator[Any]:
        """The policy itself, whose adapters are off inside the block."""
        with self.adapter.off():
            yield policy


class MovingReference(Frozen):
    """A reference that follows the policy: its iterate of some iterations ago, or a moving average of its weights.

    With adapters it holds the policy's weights with them merged, so that an average is one of whole weights and not
    of the adapters' two factors. Which of the two settings is given decides; the other is None.

    Args:
        network: the policy as it starts, taken over as it is.
        every: n: the policy as it was at the start of the last iteration whose number n divides.
        decay: τ: at the start of each iteration old weights become τ·old + (1 − τ)·policy.
        adapter: of the policy that it follows; None = full weights.

    Source:
        Gorbatovski et al. 2024 (https://arxiv.org/abs/2404.09656), hard and soft update, there for DPO; in PPO the
        moving average is that of Xu et al. 2024 (https://arxiv.org/abs/2404.10719). They count updates, not iterations.
    """

    def __init__(
        self,
        network: nn.Module,
        every: int | None = None,
        decay: float | None = None,
        adapter: LoraAdapter | None = None,
    ) -> None:
        super().__init__(network)
        self.every = every
        self.decay = decay
        self.adapter = adapter
        self.iteration = -1
        self._wide: dict[str, Tensor] = {}  # averages of coarse weights, in fp32
        self._loaded: dict[str, Tensor] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._settle()
        return super().__call__(*args, **kwargs)

    @contextmanager
    def drawing(self, policy: nn.Module) -> Iterator[Any]:
        self._settle()
        yield self.network

    @torch.no_grad()
    def advance(self, policy: nn.Module, iteration: int) -> None:
        """Follow the policy to the start of an iteration, before its rollout.

        Where that was done for it already, as in a checkpoint from within its rollout, nothing happens.

        Args:
            policy: as it stands; of the same kind as the network held.
            iteration: its number, from 0.
        """
        if iteration == self.iteration:
            return
        self._settle()
        self.iteration = iteration
        if self.every is not None and iteration % self.every:
            return
        if self.adapter is not None:
            policy = PolicyNetwork(self.adapter.merged())
        for network in (policy, self.network):
            reshard(network)  # both are then spread alike
        held = dict(self.network.named_parameters())
        for name, weight in policy.named_parameters():
            ours, theirs = own_part(held[name]), own_part(weight)
            if self.decay is None:
                ours.copy_(theirs)
            else:
                self._average(name, ours, theirs, 1 - self.decay)
        for ours, theirs in zip(self.network.buffers(), policy.buffers(), strict=True):
            ours.copy_(theirs)  # tables and counts: the average of two would be neither

    def start_anew(self) -> None:
        """Count iterations from 0 again: the run that begins does not continue another."""
        self.iteration = -1

    def _average(self, name: str, held: Tensor, weight: Tensor, share: float) -> None:
        """Move `held` by `share` of the way to `weight`."""
        if held.dtype not in COARSE:
            held.lerp_(weight.to(held.dtype), share)
            return
        wide = self._wide.get(name, held).to(held.device, torch.float32)
        self._wide[name] = wide.lerp_(weight.float(), share)
        held.copy_(wide)

    def state_dict(self) -> dict[str, Any]:
        """The iteration it has followed to, and its weights, each once."""
        weights = self._loaded
        if weights is None:
            reshard(self.network)
            weights = {name: self._whole(name, held) for name, held in self.network.named_parameters()}
            if is_sharded(self.network) and torch.distributed.get_rank():
                weights = {}  # rank 0 writes
        return {"iteration": self.iteration, "weights": {name: w.detach() for name, w in weights.items()}}

    def _whole(self, name: str, held: Tensor) -> Tensor:
        """What is saved of a weight; of one that is spread all of it, on rank 0 and in the memory of its CPU."""
        if not isinstance(held, DTensor):
            return self._wide.get(name, held)
        gathered = whole(with_part(held, self._wide.get(name, held.to_local())))
        return gathered.new_empty(0) if torch.distributed.get_rank() else gathered.cpu()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where the state was saved.

        Raises:
            ValueError: the weights are those of another model.
        """
        shapes = {name: tuple(held.shape) for name, held in self.network.named_parameters()}
        found = {name: tuple(weight.shape) for name, weight in state["weights"].items()}
        if shapes != found:
            name = next(name for name in {**shapes, **found} if shapes.get(name) != found.get(name))
            raise ValueError(
                f"The checkpoint's moving reference is of another model: {name} has the shape {found.get(name)} there "
                f"and {shapes.get(name)} here. Give the model and model.lora that the run started with."
            )
        self.iteration = state["iteration"]
        self._loaded = dict(state["weights"])

    @torch.no_grad()
    def _settle(self) -> None:
        """Put loaded weights in: at the first use, when the network has the precision that it was saved in."""
        if self._loaded is None:
            return
        loaded, self._loaded, self._wide = self._loaded, None, {}
        with torch.inference_mode(
            False
        ):  # a validation may be the first to look, and training averages them after it
            reshard(self.network)
            for name, held in self.network.named_parameters():
                part = own_part(like(held, loaded[name]))
                own_part(held).copy_(part)
                if self.decay is not None and held.dtype in COARSE:
                    self._wide[name] = part.to(held.device, torch.float32, copy=True)


Reference: TypeAlias = Frozen | AdapterOff


def moving_reference(
    settings: dict[str, Any], network: nn.Module, adapter: LoraAdapter | None = None
) -> MovingReference:
    """A reference that follows the policy as ``{every: n}`` or ``{decay: τ}`` says.

    Args:
        settings: what the config has as ``model.reference``.
        network: the policy as it starts, taken over as it is.
        adapter: of the policy that it follows.

    Raises:
        ValueError: another key than ``every`` and ``decay``, more or fewer than one, or a number out of range.
    """
    if list(settings) not in (["every"], ["decay"]):
        raise ValueError(
            "model.reference: expected {every: n} (the policy of the last iteration that n divides) or {decay: τ} "
            f"(a moving average of the policy), found {settings}."
        )
    ((name, number),) = settings.items()
    sensible = isinstance(number, int | float) and not isinstance(number, bool)
    if name == "every":
        if not (sensible and number >= 1 and number == int(number)):
            raise ValueError(
                f"model.reference.every: expected a whole number of iterations from 1, found {number!r}."
            )
        return MovingReference(network, every=int(number), adapter=adapter)
    if not (sensible and 0 < number < 1):
        raise ValueError(
            f"model.reference.decay: expected more than 0 and less than 1, found {number!r}. {{every: 1}} is the "
            "policy at the start of the iteration, null the policy as it starts."
        )
    return MovingReference(network, decay=number, adapter=adapter)


def check_adapter_off(adapted: bool, reference: object, instead: str) -> None:
    """Refuse ``reference_storage: adapter_off`` where there are no adapters, or another reference is asked for.

    Args:
        adapted: whether the policy has adapters.
        reference: what the config has as ``model.reference``.
        instead: the storages of the phase that hold a reference of its own, for the message.
    """
    if not adapted:
        raise ValueError(
            "model.reference_storage: adapter_off needs model.lora: without adapters the policy's own weights are "
            f"trained, and none are left to be the reference. Give model.lora, or use {instead}."
        )
    if reference is not None:
        raise ValueError(
            f"model.reference: expected null with reference_storage: adapter_off, whose reference is the policy "
            f"without its adapters; found {reference}. Use {instead} with a reference of its own."
        )

"""How the decoder layers are run in training: what is kept for the backward, where, and through which compiler.

Transformers' decoder layers hand their forward in training to a function, which is there for activation
checkpointing and may run it in any way. All of this goes through it: nothing is wrapped and nothing replaced, so
that names of modules, keys of checkpoints and copies of the model stay what they are, hooks (those of FSDP2 too)
stay outside, and what runs in eval mode, as sampling, references and validation do, is run as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from lit_rlhf.models.loading import has_dropout
from lit_rlhf.models.sharding import decoder_layers
from lit_rlhf.models.tree_attention import NAME, tree_attention

BACKEND = "inductor"
"""What ``torch.compile`` compiles with."""
OFFLOADED_FROM = {"cuda"}
"""Kinds of device whose memory is worth sparing."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How training runs the decoder layers; no number changes but by rounding.

    Args:
        activation_checkpointing: keep of each layer what goes into it, and compute the rest again in the backward: a
            quarter to a third more time, and memory for one layer's activations in place of all.
        offload_activations: keep what the backward needs in the host's memory; on a GPU. With
            `activation_checkpointing` that is what goes into each layer, without it all that the layers save.
        compile: run each layer through ``torch.compile``, compiled once for rows of all lengths. Attention over trees
            stays as it is. The first updates take the time that compiling takes.
    """

    activation_checkpointing: bool = False
    offload_activations: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not bool:
                raise ValueError(f"model.execution.{name}: expected true or false, found {value!r}.")


def set_execution(network: nn.Module, settings: Execution | None) -> None:
    """Let the network's decoder layers run as `settings` say, in train mode; None = as they are.

    Args:
        network: holds one decoder or several, with their adapters where they get some. Without dropout it is put into
            train mode.
        settings: how.

    Raises:
        ValueError: the family's layers cannot, or the model has dropout and is in eval mode, where nothing of this
            has an effect.
    """
    if settings is None or settings == Execution():
        return
    layers = decoder_layers(network)
    if not layers:
        raise ValueError(
            "model.execution: the layers of this model do not let their forward be run in another way. Leave it out."
        )
    if not all(layer.training for layer in layers):
        if has_dropout(network):
            raise ValueError(
                "model.execution has an effect in train mode alone, and the model given is in eval mode, with dropout "
                "that train mode would turn on. Call its train(), or set its dropout to 0."
            )
        network.train()
    if settings.offload_activations and not torch.cuda.is_available():
        log.warning(
            "model.execution.offload_activations: there is no GPU here, and activations are in the host's memory "
            "already. Nothing is offloaded."
        )
    if settings.compile:
        if any(any(getattr(module, "use_dora", {}).values()) for module in network.modules()):
            raise ValueError(
                "model.execution.compile: peft's DoRA cannot be compiled in one piece, and what is computed again in "
                "the backward might be cut into other pieces. Leave compile out, or model.lora.use_dora."
            )
        AttentionInterface.register(NAME, torch.compiler.disable(_attention_with_veiled_segments))
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = LayerRunner(settings)


@dataclass(frozen=True)
class LayerRunner:
    """Runs the forward of one decoder layer in training.

    Args:
        settings: how.
        around: see :func:`run_around`; None = nothing.
    """

    settings: Execution

    def __call__(self, forward: partial[Any], hidden: Tensor, *others: Any) -> Any:
        """What the layer's forward gives.

        Args:
            forward: the layer's, with the layer and its named arguments in it.
            hidden: ``[1, T, D]`` or ``[N, S, D]``.
            others: further arguments by position.
        """
        run: Callable[..., Any] = forward
        if self.settings.compile:
            named = {n: _Veiled(v) if isinstance(v, list) else v for n, v in forward.keywords.items()}
            run = partial(_compiled(_innermost(forward.func), BACKEND), *forward.args, **named)
        with self._offloading(hidden):
            if not self.settings.activation_checkpointing:
                return run(hidden, *others)
            # outside of what is compiled: the backward then runs again what the forward ran, to the same numbers
            again = _AdaptersAsNow(forward.args[0])
            return checkpoint(
                run, hidden, *others, use_reentrant=False, context_fn=lambda: (nullcontext(), again)
            )

    def _offloading(self, hidden: Tensor) -> AbstractContextManager[Any]:
        wanted = self.settings.offload_activations and hidden.device.type in OFFLOADED_FROM
        return (
            saved_tensors_hooks(_to_host, _to_device) if wanted and torch.is_grad_enabled() else nullcontext()
        )


class _AdaptersAsNow:
    """A block in which a layer's adapters are on and off as they were when this was made."""

    def __init__(self, layer: nn.Module) -> None:
        tuned = [module for module in layer.modules() if isinstance(module, BaseTunerLayer)]
        self._states = [(module, module._active_adapter, module._disable_adapters) for module in tuned]

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()

    def _swap(self) -> None:
        for number, (module, active, disabled) in enumerate(self._states):
            self._states[number] = module, module._active_adapter, module._disable_adapters
            module._active_adapter, module._disable_adapters = active, disabled


def _innermost(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's own forward. FSDP2 makes a subclass of the layer's class, whose forward transformers wraps again."""
    while forward.__code__.co_name == "forward_with_checkpointing":
        forward = forward.__wrapped__  # type: ignore[attr-defined]
    return forward


@lru_cache
def _compiled(forward: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """The forward of a class of layers, compiled at its first call, for all layers and all lengths."""
    compiled = torch.compile(forward, dynamic=True, backend=backend)

    def run(*inputs: Any, **named: Any) -> Any:
        with torch._dynamo.config.patch(
            skip_nnmodule_hook_guards=False,  # the last layer has hooks that the others have not
            force_nn_module_property_static_shapes=False,  # and notes down what is of another length in every batch
            recompile_limit=64,  # over kinds of layers, with and without gradient and autocast; eight by default
        ):
            return compiled(*inputs, **named)

    return run


class _Veiled:
    """A list that is handed through a compiled layer without being looked into.

    What a batch's segments are differs with every batch, and would be compiled into the layers.
    """

    def __init__(self, held: list[Any]) -> None:
        self.held = held


def _attention_with_veiled_segments(*tensors: Any, **others: Any) -> Any:
    unveiled: dict[str, Any] = {
        name: value.held if isinstance(value, _Veiled) else value for name, value in others.items()
    }
    return tree_attention(*tensors, **unveiled)


def _to_host(saved: Tensor) -> Tensor | tuple[torch.device, Tensor]:
    """What ``torch.autograd.graph.save_on_cpu`` does, but for weights, which stay on the device anyway."""
    origin = (
        saved if saved._base is None else saved._base
    )  # a linear map saves its weight's transpose, a view
    if isinstance(origin, nn.Parameter) or saved.device.type not in OFFLOADED_FROM:
        return saved
    held = torch.empty(saved.shape, dtype=saved.dtype, layout=saved.layout, pin_memory=saved.is_cuda)
    return saved.device, held.copy_(saved)


def _to_device(held: Tensor | tuple[torch.device, Tensor]) -> Tensor:
    if isinstance(held, Tensor):
        return held
    device, saved = held
    return saved.to(device, non_blocking=saved.is_pinned())

"""Each decoder layer computed by several ranks together: heads and hidden features shared out (Megatron's way).

Queries, keys, values, gate and up projections are cut by their outputs, the projections behind them by their inputs,
so that a layer adds up over the ranks twice: behind its attention and behind its feed-forward network (Shoeybi et al.
2019, section 3). Everything else is whole on each rank.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2")
"""Model types with these projections and no norms on single heads."""

PLAN: dict[str, type[ColwiseParallel] | type[RowwiseParallel]] = {
    "self_attn.q_proj": ColwiseParallel,
    "self_attn.k_proj": ColwiseParallel,
    "self_attn.v_proj": ColwiseParallel,
    "self_attn.o_proj": RowwiseParallel,
    "mlp.gate_proj": ColwiseParallel,
    "mlp.up_proj": ColwiseParallel,
    "mlp.down_proj": RowwiseParallel,
}
"""How each part of a layer is cut."""


def split_layers(network: nn.Module, layers: list[nn.Module], mesh: DeviceMesh) -> None:
    """Cut the decoder layers of `network` over the ranks of `mesh`, in place, before it is sharded.

    Args:
        network: in which every parameter becomes a ``DTensor`` on `mesh`.
        layers: its decoder layers.
        mesh: one dimension: ranks that see the same data.

    Raises:
        ValueError: the model is of a family without a plan, its heads cannot be shared out evenly, or it has adapters.
    """
    for model in (module for module in network.modules() if isinstance(module, PreTrainedModel)):
        _check(model, mesh.size())
    for layer in layers:
        parallelize_module(layer, mesh, {name: style() for name, style in PLAN.items()})
        for name in PLAN:
            _before_other_hooks(layer.get_submodule(name))
    whole: dict[int, nn.Parameter] = {}  # weights that two modules share go on being one
    for module in network.modules():
        own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
        if own and not any(isinstance(parameter, DTensor) for parameter in own.values()):
            for name, parameter in own.items():
                module._parameters[name] = whole.get(id(parameter), parameter)
            # becomes one value on all ranks, computed on plain tensors as before
            distribute_module(module, mesh, None, _as_replicas, _as_plain)
            _before_other_hooks(module)
            whole |= {id(parameter): module.get_parameter(name) for name, parameter in own.items()}


def _check(model: PreTrainedModel, ranks: int) -> None:
    config = model.config.get_text_config()
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"trainer.strategy.tensor_parallel_size: there is no plan for {type(model).__name__}, "
            f"only for {', '.join(FAMILIES)}. Leave it at 1: fsdp2 spreads the weights all the same."
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = getattr(config, name)
        if count % ranks:
            raise ValueError(
                f"trainer.strategy.tensor_parallel_size: {ranks} ranks cannot share {name} ({count}) evenly."
            )
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(
            "trainer.strategy.tensor_parallel_size: adapters (model.lora) are not cut over ranks. Leave it at 1."
        )


def _before_other_hooks(module: nn.Module) -> None:
    """Let what turns outputs into plain tensors come first: hooks that were there work on these."""
    hooks = module._forward_hooks
    if len(hooks) > 1 and isinstance(hooks, OrderedDict):
        hooks.move_to_end(next(reversed(hooks)), last=False)


def _as_replicas(module: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
    return tuple(
        DTensor.from_local(value, mesh, [Replicate()], run_check=False) if type(value) is Tensor else value
        for value in inputs
    )


def _as_plain(module: nn.Module, outputs: Any, mesh: DeviceMesh) -> Any:
    return outputs.to_local() if isinstance(outputs, DTensor) else outputs

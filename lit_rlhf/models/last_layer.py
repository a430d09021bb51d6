"""The last layer, run only at the positions whose final state is read.

Earlier layers must compute every token, because later ones look at them. Behind the last attention nobody looks
any more: a reward model reads one state a response, a policy none but those that predict response tokens. So the
last layer needs the keys and values of all tokens, and queries, attention's output and the feed-forward network
only where it is read. That saves up to a layer but its keys and values, and changes no state that is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

AROUND_ATTENTION = ("q_proj", "o_proj", "c_proj", "out_proj")
"""Names of attention's maps to queries and from its output, in the families that have them apart."""


class _Read:
    """What the attention of the last layer was told, for the networks around and behind it."""

    def __init__(self) -> None:
        self.positions: Tensor | None = None
        self.row_length = 0


def leave_out_unread(model: PreTrainedModel) -> None:
    """Let the model take ``read_positions`` (Long ``[M]``, distinct), where its last layer has the usual form.

    States at other positions are then without meaning; a call without them is computed in full. A model that
    takes them already is left as it is.
    """
    layer = _last_layer(model)
    if layer is None or not _works_by_position(layer.mlp) or hasattr(layer.mlp, "read"):
        return
    attention = layer.self_attn if hasattr(layer, "self_attn") else layer.attn
    attention.read = _Read()
    # Hooks and no replaced forward: they are copied along with the layer. The attention is told and not the
    # layer, whose own hooks stay outside when activation checkpointing runs it again.
    layer.register_forward_pre_hook(_forget)
    attention.register_forward_pre_hook(_note, with_kwargs=True)
    around = [getattr(attention, name) for name in AROUND_ATTENTION if hasattr(attention, name)]
    for network in (layer.mlp, *(part for part in around if _works_by_position(part))):
        network.read = attention.read
        network.register_forward_pre_hook(_take)
        network.register_forward_hook(_put_back)


def read_by(attention: nn.Module) -> Tensor | None:
    """Positions, in order, whose attention is read, where the layer is the last one; None = all."""
    read = getattr(attention, "read", None)
    return None if read is None else read.positions


def distinct_positions(read: Tensor, length: int) -> Tensor:
    """The distinct positions among `read`, in order, of a row of `length` tokens."""
    marked = torch.zeros(length, dtype=torch.bool, device=read.device)
    marked[read] = True
    return marked.nonzero().squeeze(-1)


def _last_layer(model: PreTrainedModel) -> Any:
    trunk = model.base_model
    layers = getattr(trunk, "layers", None) or getattr(trunk, "h", None)
    if not isinstance(layers, nn.ModuleList):
        return None
    layer = layers[-1]
    usual = hasattr(layer, "mlp") and (hasattr(layer, "self_attn") or hasattr(layer, "attn"))
    return layer if usual else None


def _works_by_position(network: nn.Module) -> bool:
    """Linear maps and what has no weights between them: no routing, no mixing of positions."""
    holders = [part for part in network.modules() if next(part.parameters(recurse=False), None) is not None]
    return all(isinstance(part, nn.Linear | Conv1D) for part in holders)


def _forget(layer: Any, args: Any) -> None:
    layer.mlp.read.positions = None


def _note(attention: Any, args: Any, kwargs: dict[str, Any]) -> None:
    attention.read.positions = kwargs.get("read_positions")


def _take(network: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if network.read.positions is None:
        return None
    (hidden,) = args
    network.read.row_length = hidden.shape[1]
    return (hidden[:, network.read.positions],)


def _put_back(network: Any, args: Any, output: Tensor) -> Tensor:
    if network.read.positions is None:
        return output
    row = output.new_zeros(1, network.read.row_length, output.shape[-1])
    return row.index_copy(1, network.read.positions, output)

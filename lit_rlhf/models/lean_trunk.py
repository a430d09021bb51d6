"""The trunks of four families in few operations, for decoding on a CPU.

A step of decoding computes a few rows. In a small model most of its time goes into calling modules and into
operations that are smaller than what it takes to start them. Here the same numbers are computed from copies of the
weights that lie as a step wants them: queries, keys and values are one map, so are the gate and what it gates, the
norms' weights and the scaling of queries are in the maps behind and before them, and big maps are laid out for
oneDNN. That leaves some twenty operations a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from lit_rlhf.models.key_value_store import NextTokenAttention
from lit_rlhf.models.packed_linear import MOST_WEIGHTS, is_altered, is_plain, packed_linear_maps, packed_map

KNOWN = {
    LlamaModel: (modeling_llama.LlamaDecoderLayer, modeling_llama.LlamaAttention, modeling_llama.LlamaMLP),
    MistralModel: (
        modeling_mistral.MistralDecoderLayer,
        modeling_mistral.MistralAttention,
        modeling_mistral.MistralMLP,
    ),
    Qwen2Model: (modeling_qwen2.Qwen2DecoderLayer, modeling_qwen2.Qwen2Attention, modeling_qwen2.Qwen2MLP),
    Qwen3Model: (modeling_qwen3.Qwen3DecoderLayer, modeling_qwen3.Qwen3Attention, modeling_qwen3.Qwen3MLP),
}
"""Trunks whose forward was read, with the classes of a layer, its attention and its network."""
NORMS = (
    modeling_llama.LlamaRMSNorm,
    modeling_mistral.MistralRMSNorm,
    modeling_qwen2.Qwen2RMSNorm,
    modeling_qwen3.Qwen3RMSNorm,
)


class LeanOutput(NamedTuple):
    """What is read of a trunk's output. Transformers' own takes ten times as long to make as this."""

    last_hidden_state: Tensor
    """``[1, n, D]``."""


@contextmanager
def decoding_from_copies(causal_lm: PreTrainedModel) -> Iterator[None]:
    """Within the block the model computes next tokens from copies of its weights, where that is faster.

    Trunks of the families in :data:`KNOWN` take the few operations of this module for the newest tokens of rows, and
    their own forward for prompts, which are many rows at once; the linear maps of other families, and every head, are
    laid out for oneDNN. The copies hold at most :data:`MOST_WEIGHTS` weights, 1 GiB, all together; what is beyond is
    read where it is.

    For forwards without gradient, in which no weight changes. The parameters stay where they are; the copies are
    dropped behind the block, and the model's own forwards are back.
    """
    trunk: Any = causal_lm.base_model
    left, known = MOST_WEIGHTS, is_known(trunk)
    if known:
        left -= _layer_weights(trunk)
        trunk.forward = partial(_forward, LeanTrunk(trunk), trunk.forward)
    head = causal_lm.get_output_embeddings()
    try:
        with packed_linear_maps([head] if known else [head, *causal_lm.modules()], left):
            yield
    finally:
        if known:
            del trunk.forward


def _forward(lean: LeanTrunk, usual: Callable[..., Any], **inputs: Any) -> Any:
    decoding = inputs.get("decoding")
    if not isinstance(decoding, NextTokenAttention) or torch.is_autocast_enabled("cpu"):
        return usual(**inputs)
    return LeanOutput(lean(inputs["input_ids"], inputs["position_ids"], decoding))


def _layer_weights(trunk: Any) -> int:
    return sum(weight.numel() for weight in trunk.layers.parameters())


def is_known(trunk: Any) -> bool:
    """Whether the trunk is, part by part, what :class:`LeanTrunk` computes, in plain fp32 on a CPU."""
    if type(trunk) not in KNOWN:
        return False
    layer_class, attention_class, network_class = KNOWN[type(trunk)]
    classes = {layer_class, attention_class, network_class, *NORMS}
    classes |= {type(trunk), type(trunk.rotary_emb), nn.ModuleList, nn.Embedding, nn.Linear, SiLUActivation}
    return (
        all(type(part) in classes and not is_altered(part) for part in trunk.modules())
        and all(type(layer) is layer_class for layer in trunk.layers)
        and all(is_plain(weight) for weight in trunk.parameters())
        and 2 * trunk.rotary_emb.inv_freq.numel() == trunk.layers[0].self_attn.head_dim
        and _layer_weights(trunk) <= MOST_WEIGHTS
    )


class LeanTrunk:
    """States of the newest token of every row.

    Args:
        trunk: of a known family.
    """

    def __init__(self, trunk: Any) -> None:
        self.embed, self.rotate = trunk.embed_tokens, trunk.rotary_emb
        self.layers = [_Layer(layer) for layer in trunk.layers[: trunk.config.num_hidden_layers]]
        self.weight = _norm_weight(trunk.norm)
        self.floor = _floor(trunk.norm)

    def __call__(self, input_ids: Tensor, position_ids: Tensor, decoding: NextTokenAttention) -> Tensor:
        """``[1, n, D]`` of tokens and positions Long ``[1, n]``."""
        hidden = self.embed(input_ids)[0]
        cos, sin = self.rotate(hidden, position_ids)
        cos, sin = cos.transpose(0, 1), sin.transpose(0, 1).clone()
        sin[..., : sin.shape[-1] // 2].neg_()
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, decoding)
        return (_normalized(hidden, self.floor) * self.weight)[None]


class _Layer:
    def __init__(self, layer: Any) -> None:
        attention, network = layer.self_attn, layer.mlp
        self.number, self.width = attention.layer_idx, attention.head_dim
        self.window = getattr(attention, "sliding_window", None)
        if type(attention) is modeling_mistral.MistralAttention:
            self.window = getattr(attention.config, "sliding_window", None)
        maps = attention.q_proj, attention.k_proj, attention.v_proj
        self.queries, self.keys, _ = (part.out_features // self.width for part in maps)
        query_scale = attention.scaling
        self.head_weight: Tensor | None = None
        if isinstance(attention, modeling_qwen3.Qwen3Attention):
            query_weight, query_scale = _norm_weight(attention.q_norm) * query_scale, 1.0
            both = [query_weight] * self.queries + [_norm_weight(attention.k_norm)] * self.keys
            self.head_weight, self.head_floor = torch.stack(both), _floor(attention.q_norm)
        self.project = _fused(maps, layer.input_layernorm, query_scale)
        self.output = packed_map(attention.o_proj.weight.detach(), attention.o_proj.bias)
        self.gate_and_up = _fused([network.gate_proj, network.up_proj], layer.post_attention_layernorm)
        self.down = packed_map(network.down_proj.weight.detach(), network.down_proj.bias)
        self.floors = _floor(layer.input_layernorm), _floor(layer.post_attention_layernorm)

    def __call__(self, hidden: Tensor, cos: Tensor, sin: Tensor, decoding: NextTokenAttention) -> Tensor:
        count, queries, keys = len(hidden), self.queries, self.keys
        heads = self.project(_normalized(hidden, self.floors[0])).view(count, -1, self.width)
        turned, value = heads[:, : queries + keys], heads[:, queries + keys :]
        if self.head_weight is not None:
            turned = _normalized(turned, self.head_floor) * self.head_weight
        # the halves of a head change places, and the sine's first half is negative
        turned = torch.addcmul(turned * cos, turned.roll(self.width // 2, -1), sin)
        query, key = turned[:, :queries], turned[:, queries:]
        attended = decoding.attend_rows(self.number, query, key, value, self.window)
        hidden.add_(self.output(attended.view(count, -1)))
        gate, up = self.gate_and_up(_normalized(hidden, self.floors[1])).chunk(2, -1)
        return hidden.add_(self.down(silu(gate).mul_(up)))


def _fused(maps: Sequence[nn.Linear], norm: Any, first_scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The maps as one, the first of them scaled, behind what is left of a norm whose weight is in the map."""
    weight = torch.cat([part.weight.detach() for part in maps])
    bias = None
    if any(part.bias is not None for part in maps):
        zeros = [weight.new_zeros(part.out_features) for part in maps]
        biases: list[Tensor] = [
            zero if part.bias is None else part.bias for part, zero in zip(maps, zeros, strict=True)
        ]
        bias = torch.cat(biases).detach()
        bias[: maps[0].out_features] *= first_scale
    weight[: maps[0].out_features] *= first_scale
    weight *= _norm_weight(norm)
    return packed_map(weight, bias)


def _normalized(hidden: Tensor, floor: Tensor) -> Tensor:
    """x / √(Σx² + Dε): the rms norm but for its weight and √D, which :func:`_norm_weight` has."""
    return hidden / torch.hypot(torch.linalg.vector_norm(hidden, dim=-1, keepdim=True), floor)


def _norm_weight(norm: Any) -> Tensor:
    weight: Tensor = norm.weight.detach() * norm.weight.numel() ** 0.5
    return weight


def _floor(norm: Any) -> Tensor:
    """√(Dε)."""
    return torch.tensor((norm.weight.numel() * norm.variance_epsilon) ** 0.5)

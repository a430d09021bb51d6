"""Llamas as lists of shapes: what is gathered together, and what of it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHAPE_8B = {
    **{"hidden": 4096, "layers": 32, "heads": 32, "key_value_heads": 8},
    **{"intermediate": 14336, "vocabulary": 128256},
}
"""Llama 3 8B: 8.03 billion parameters, embeddings and head not tied."""
ADAPTED = ("q_proj", "v_proj")
"""Maps that get adapters where nothing else is asked for: peft's for a Llama."""
NORMALISATION = 12
"""Bytes of a scorer's gain, offset and weight."""


@dataclass(frozen=True)
class Parameter:
    """A weight: `rows` are spread over ranks, the last part padded to be as long as the others."""

    rows: int
    row: int
    """Numbers of a row."""
    trained: bool = True

    @property
    def numel(self) -> int:
        return self.rows * self.row

    def padded(self, ranks: int) -> int:
        """Numbers of all ranks' parts together."""
        return ranks * -(-self.rows // ranks) * self.row


Group = tuple[Parameter, ...]
"""Parameters that are gathered at once: those of a layer, or of what is in no layer."""


@dataclass(frozen=True)
class Network:
    """What is spread over ranks as one.

    Args:
        layers: a group each.
        root: embeddings, last norm and head.
        buffers: bytes of those in fp32, rotary tables above all, and of whole numbers: DDP sends them from rank 0.
    """

    layers: tuple[Group, ...]
    root: Group
    buffers: tuple[int, int]

    @property
    def groups(self) -> tuple[Group, ...]:
        return (*self.layers, self.root)

    @property
    def parameters(self) -> list[Parameter]:
        return [parameter for group in self.groups for parameter in group]

    @property
    def numel(self) -> int:
        return sum(parameter.numel for parameter in self.parameters)

    @property
    def trained(self) -> int:
        """Numbers that gradients are for."""
        return sum(parameter.numel for parameter in self.parameters if parameter.trained)


def layer(shape: Mapping[str, int], lora: int | None = None) -> Group:
    """A decoder layer of a Llama; with adapters of rank `lora` nothing but these is trained."""
    width, inner = shape["hidden"], shape["intermediate"]
    key_values = width * shape.get("key_value_heads", shape["heads"]) // shape["heads"]
    maps = {
        **{"q_proj": (width, width), "k_proj": (key_values, width), "v_proj": (key_values, width)},
        **{"o_proj": (width, width), "gate_proj": (inner, width), "up_proj": (inner, width)},
        **{"down_proj": (width, inner)},
    }
    trained = lora is None
    group = [Parameter(rows, columns, trained) for rows, columns in maps.values()]
    group += [Parameter(width, 1, trained)] * 2
    for name in ADAPTED if lora is not None else ():
        rows, columns = maps[name]
        group += [Parameter(lora or 0, columns), Parameter(rows, lora or 0)]
    return tuple(group)


def policy(shape: Mapping[str, int], lora: int | None = None) -> Network:
    """A Llama with its language-model head."""
    trained = lora is None
    embeddings = Parameter(shape["vocabulary"], shape["hidden"], trained)
    root = (embeddings, Parameter(shape["hidden"], 1, trained), embeddings)
    return Network((layer(shape, lora),) * shape["layers"], root, _buffers(shape, lora))


def scorer(shape: Mapping[str, int], lora: int | None = None, bias: bool = True) -> Network:
    """A Llama with a scalar head, which is trained with adapters too."""
    trained = lora is None
    root = (
        Parameter(shape["vocabulary"], shape["hidden"], trained),
        Parameter(shape["hidden"], 1, trained),
        Parameter(1, shape["hidden"]),
        *([Parameter(1, 1)] if bias else []),
    )
    tables, sums = _buffers(shape, lora)
    buffers = tables + NORMALISATION, sums
    return Network((layer(shape, lora),) * shape["layers"], root, buffers)


def actor_critic(actor: Network, critic: Network) -> Network:
    """Both in one, with one root."""
    (tables, sums), (more_tables, more_sums) = actor.buffers, critic.buffers
    buffers = tables + more_tables, sums + more_sums
    return Network(actor.layers + critic.layers, actor.root + critic.root, buffers)


def shared_actor_critic(actor: Network, shape: Mapping[str, int]) -> Network:
    """A value head on the policy's own states."""
    head = (Parameter(1, shape["hidden"]), Parameter(1, 1))
    return Network(actor.layers, actor.root + head, actor.buffers)


def _buffers(shape: Mapping[str, int], lora: int | None) -> tuple[int, int]:
    frequencies = shape["hidden"] // shape["heads"] // 2
    tables = 2 * 4 * frequencies  # as they are, and as they were before any scaling
    return tables, 0 if lora is None else 8  # of the weights that the adapters belong to

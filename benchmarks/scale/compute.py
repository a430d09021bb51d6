"""What a GPU has to compute and to read for a step of each phase, from sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.scale.hardware import Hardware
from benchmarks.scale.networks import layer

TRAINED, ADAPTED = 4, 3
"""Forwards' worth of a micro-batch: forward, layers again in the backward (activation checkpointing), gradients of the
states, and those of the weights where they are trained."""
BF16 = 2


@dataclass(frozen=True)
class Tree:
    """A prompt with K responses, each distinct token once."""

    prompt: int
    response: int
    responses: int = 1

    @property
    def tokens(self) -> int:
        return self.prompt + self.responses * self.response

    @property
    def looks(self) -> int:
        """Pairs of positions of which the later looks at the earlier, or a position at itself."""
        within = self.prompt * (self.prompt + 1) // 2
        return within + self.responses * (
            self.response * self.prompt + self.response * (self.response + 1) // 2
        )


def layer_weights(shape: Mapping[str, int]) -> int:
    """Of all layers, without norms."""
    return shape["layers"] * sum(weight.numel for weight in layer(shape) if weight.row > 1)


def forward_flops(shape: Mapping[str, int], tree: Tree, head: bool = True) -> float:
    """Operations of one forward, by the account of :func:`benchmarks.speed.flops.forward_flops`.

    Args:
        shape: of the decoder.
        tree: what it reads.
        head: whether the language-model head predicts the response tokens; else a score is read.
    """
    flops = 2 * layer_weights(shape) * tree.tokens
    flops += 4 * shape["hidden"] * shape["layers"] * tree.looks
    return flops + (2 * shape["hidden"] * shape["vocabulary"] * tree.responses * tree.response if head else 0)


def forward_seconds(shape: Mapping[str, int], tree: Tree, machine: Hardware, head: bool = True) -> float:
    """Of one forward, where matrices reach the share of the peak that the machine states."""
    return forward_flops(shape, tree, head) / (machine.flops * machine.flops_share)


def decode_step_seconds(shape: Mapping[str, int], rows: int, tokens: float, machine: Hardware) -> float:
    """Of one new token for each of `rows` rows that hold `tokens` tokens on average, everything in bf16.

    What takes longer of reading, all weights but the embeddings once and each row's keys and values, and computing.
    """
    weights = layer_weights(shape) + shape["hidden"] * shape["vocabulary"]
    key_value_width = shape["hidden"] * shape.get("key_value_heads", shape["heads"]) // shape["heads"]
    held = 2 * shape["layers"] * key_value_width * tokens * rows
    reading = BF16 * (weights + held) / (machine.memory_rate * machine.memory_share)
    flops = rows * (2 * weights + 4 * shape["hidden"] * shape["layers"] * tokens)
    return max(reading, flops / (machine.flops * machine.flops_share))

"""What a decoding step has to read, and how fast the machine reads memory at most."""

from __future__ import annotations

import torch

from benchmarks.speed.flops import now
from benchmarks.speed.job import Job
from benchmarks.speed.rows import SIZES

COPIED = {"cpu": 2**26, "cuda": 2**30}
"""Bytes of the tensor that is copied, far more than any cache holds."""


def weight_bytes(size: str, each: int) -> int:
    """Of the weights that a step reads, `each` bytes a number: all but the embeddings, of which it reads a few rows."""
    shape = SIZES[size]
    width, heads = shape["hidden"], shape["heads"]
    key_value_width = width * shape.get("key_value_heads", heads) // heads
    layer = 2 * width * width + 2 * width * key_value_width + 3 * width * shape["intermediate"]
    return each * (shape["layers"] * layer + width * shape["vocabulary"])


def key_value_bytes(size: str, tokens: int, each: int) -> int:
    """Of the keys and values of so many tokens, over all layers."""
    shape = SIZES[size]
    key_value_width = shape["hidden"] * shape.get("key_value_heads", shape["heads"]) // shape["heads"]
    return each * 2 * shape["layers"] * key_value_width * tokens


def decode_bytes(job: Job) -> float:
    """Read by the average decoding step of rows of equal lengths: weights once, and each row's tokens so far.

    The first token of a response comes from its prompt's forward, so there is one step less than there are tokens.
    """
    each = 2 if job.bf16 else 4
    rows, length = job.batch * job.responses, job.lengths[1]
    tokens = rows * (job.prompt + length / 2)
    return weight_bytes(job.size, each) + key_value_bytes(job.size, 1, each) * tokens


def copy_bytes_per_second(device: str, repeats: int = 8) -> float:
    """Bytes read and written by the best of several copies of a large tensor."""
    source = torch.ones(COPIED[device] // 4, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(repeats):
        start = now(device)
        target.copy_(source)
        best = max(best, 2 * COPIED[device] / (now(device) - start))
    return best

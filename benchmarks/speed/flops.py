"""What a DPO step cannot do without, and what the machine can do at most."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmarks.speed.rows import SIZES, Comparisons

SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (1536, 384, 1024), (1024, 384, 16384))
"""Rows, inner and columns of the multiplications whose best rate is the peak; those of a model of size B among them."""
GPU_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 2048, 5632), (8192, 2048, 32000))
DPO_PASSES = 4
"""Forwards' worth: the policy's forward and backward are 3, the reference's forward 1."""


def forward_flops(size: str, row: Comparisons) -> int:
    """Floating-point operations of one forward, each distinct token once, the head where a response token is predicted.

    2 for every weight of the layers and token; 4·D for every pair of positions that look at each other and layer
    (scores and weighted sum); 2·D·V for every response token.
    """
    shape = SIZES[size]
    width, layers = shape["hidden"], shape["layers"]
    key_value_width = width * shape.get("key_value_heads", shape["heads"]) // shape["heads"]
    weights = layers * (2 * width * width + 2 * width * key_value_width + 3 * width * shape["intermediate"])
    prompt, responses = len(row.prompt), list(map(len, row.responses))
    looks = prompt * (prompt + 1) // 2 + sum(
        length * prompt + length * (length + 1) // 2 for length in responses
    )
    tokens = prompt + sum(responses)
    return (
        2 * weights * tokens + 4 * width * layers * looks + 2 * width * shape["vocabulary"] * sum(responses)
    )


def dpo_flops(size: str, rows: Sequence[Comparisons]) -> int:
    """Useful operations of one DPO step on `rows`."""
    return DPO_PASSES * sum(forward_flops(size, row) for row in rows)


def peak_flops(device: str, bf16: bool, repeats: int = 8) -> float:
    """Operations per second of the best of several large multiplications, on the threads that torch has."""
    kind = torch.bfloat16 if bf16 else torch.float32
    best = 0.0
    for rows, inner, columns in GPU_SHAPES if device == "cuda" else SHAPES:
        one = torch.randn(rows, inner, device=device, dtype=kind)
        other = torch.randn(inner, columns, device=device, dtype=kind)
        out = one @ other
        for _ in range(repeats):
            start = now(device)
            torch.mm(one, other, out=out)
            best = max(best, 2 * rows * inner * columns / (now(device) - start))
    return best


def now(device: str) -> float:
    """Seconds: of the process on a CPU, of the wall on a GPU, which has then done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()

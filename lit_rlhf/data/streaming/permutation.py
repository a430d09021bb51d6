"""Random orders of which any part can be computed alone, so that an order of ten million rows is never held."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


def draw_key(*numbers: int) -> int:
    """64 bits that the numbers decide, such as a seed and an epoch; neighbouring numbers have unlike keys."""
    text = ",".join(str(number) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def draw_keys(key: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A key for each of the numbers, ``[n]``; as good as random, and decided by `key` and the number."""
    with np.errstate(over="ignore"):
        return _mixed(numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key))


def permute(places: NDArray[np.int64], count: int, key: int | NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a random order of ``range(count)`` has these places: a bijection that the key decides.

    A Feistel network over the smallest even number of bits that holds `count`; what falls outside is sent through
    again until it falls inside (cycle walking), so it stays a bijection.

    Args:
        places: Numbers below `count`, ``[n]``.
        count: How many things are put in order.
        key: One order for all places; or a key a place, ``[n]``, each place of an order of its own.

    Returns:
        Numbers below `count`, ``[n]``; distinct where the places are, under one key.

    Source:
        J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002, methods 2 and 3.
    """
    half = np.uint64(max(1, (int(count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), places.shape)
    out = places.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        left, right = out[walking] >> half, out[walking] & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right + (keys[walking] ^ np.uint64(turn << 56))) & mask)
        out[walking] = left << half | right
        walking = walking[out[walking] >= count]
    return out.astype(np.int64)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: every bit of the result depends on every bit of the number."""
    with np.errstate(over="ignore"):
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))

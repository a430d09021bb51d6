"""Counted randomness: numbers that depend on named counters alone, never on a stream's history.

What is drawn for a response is a function of (seed, iteration, prompt, sample, step), whatever shares its
batch and on however many ranks, and a resumed run draws what it would have drawn. The mixing function is
the finalizer of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def counter_key(*counters: int | Tensor) -> Tensor:
    """One 64-bit key for a tuple of counters; tensors are broadcast.

    Args:
        counters: integers, or Long tensors ``[N]``. Their order matters.
    Returns:
        Long, ``[N]`` or a scalar.
    """
    key = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        counter = torch.as_tensor(counter, dtype=torch.int64)
        key = _mix(key.to(counter.device) + (counter + 1) * _GOLDEN)
    return key


def counted_uniform(keys: Tensor, step: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1), one for each key at this step.

    Args:
        keys: Long ``[N]``, from :func:`counter_key`.
        step: the counter that runs while a response grows; Long ``[N]`` where each has its own.
    Returns:
        Double ``[N]``, with 53 random bits each.
    """
    # the step as a tensor: its product wraps around as the hash wants, where Python's integer would grow
    counter = torch.as_tensor(step, device=keys.device) + 1
    bits = _mix(_mix(keys + counter * _GOLDEN) + _GOLDEN)
    return _shift_right(bits, 11).double() * 2.0**-53


def seed_from(*counters: int) -> int:
    """A seed for a torch generator, from counters."""
    return int(_shift_right(counter_key(*counters), 1))


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """What is drawn inside the block, dropout for one, follows from `seed`; the global streams then go on.

    Args:
        seed: from :func:`seed_from`.
        device: whose stream is seeded, beside that of the CPU.
    """
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        # not torch.manual_seed: it formats a stack trace for every kind of device that is not there
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # int64's own >> keeps the sign; masking makes it the logical shift that the hash is defined with
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)

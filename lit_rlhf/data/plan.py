"""Which rows make up which batch of an epoch, for all ranks at once.

Everything drawn here depends on (seed, epoch) alone, so a resumed run, or one on more ranks, draws what it
would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_OPEN_BATCHES = 8


def plan_epoch(
    sizes: Sequence[int],
    batch_size: int | None,
    max_tokens: int | None,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    rank: int = 0,
    world_size: int = 1,
    weights: Sequence[float] | None = None,
) -> list[list[int]]:
    """One rank's batches of an epoch, as indices; as many on every rank and in every epoch.

    With `batch_size` an epoch has batches of its own. With `max_tokens` their number would then change from
    epoch to epoch, and Lightning asks for it only once: so the batches are filled once, from the seed, and
    an epoch has an order of its own. Where the number of batches cannot be made a multiple of the ranks,
    the last ones of the order are left out.

    Args:
        sizes: Tokens of each tree.
        batch_size: Trees of a global batch; or
        max_tokens: tokens of one rank's batch.
        seed: With `epoch`, decides everything that is drawn.
        epoch: Number of the epoch.
        shuffle: Whether the order is drawn at all.
        rank: Whose batches.
        world_size: How many ranks share the plan.
        weights: Per tree, how often it is drawn an epoch.
    """
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    if batch_size is not None:
        drawn = _shuffled(_draw(len(sizes), weights, generator), generator if shuffle else None)
        return [batch[rank::world_size] for batch in _chunks(drawn, batch_size, world_size)]
    assert max_tokens is not None
    once = torch.Generator().manual_seed(_mix(seed, -1))
    drawn = _shuffled(_draw(len(sizes), weights, once), once if shuffle else None)
    batches = _split_until_divisible(_fill(drawn, sizes, max_tokens), world_size)
    batches = _shuffled(batches, generator if shuffle else None)
    return batches[: len(batches) // world_size * world_size][rank::world_size]


def _mix(seed: int, epoch: int) -> int:
    """A number for torch's generator out of two; neighbours do not collide."""
    return (seed * 0x9E3779B1 + epoch * 0x85EBCA77 + 1) % 2**63


def _draw(count: int, weights: Sequence[float] | None, generator: torch.Generator) -> list[int]:
    """Each index as often as its weight says; how many there are in all does not change with the epoch."""
    if weights is None:
        return list(range(count))
    drawn: list[int] = []
    for weight in sorted(set(weights)):
        members = [index for index in range(count) if weights[index] == weight]
        extra = round((weight - int(weight)) * len(members))
        lucky = torch.randperm(len(members), generator=generator)[:extra].tolist()
        drawn += members * int(weight) + [members[place] for place in lucky]
    return drawn


def _chunks(drawn: list[int], batch_size: int, world_size: int) -> list[list[int]]:
    chunks = [drawn[start : start + batch_size] for start in range(0, len(drawn), batch_size)]
    if len(chunks) > 1 and len(chunks[-1]) < world_size:
        # A rank without a row would wait for the others for ever, or they for it.
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return chunks


def _fill(drawn: Sequence[int], sizes: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Greedy: each tree into the first open batch with room, a few batches open at a time."""
    done: list[list[int]] = []
    opened: list[tuple[int, list[int]]] = []
    for index in drawn:
        size = sizes[index]
        for place, (room, batch) in enumerate(opened):
            if size <= room:
                batch.append(index)
                opened[place] = (room - size, batch)
                break
        else:
            opened.append((max_tokens - size, [index]))
            if len(opened) > _OPEN_BATCHES:
                done.append(opened.pop(0)[1])
    return done + [batch for _, batch in opened]


def _split_until_divisible(batches: list[list[int]], world_size: int) -> list[list[int]]:
    """Halve the batches of most trees until every rank can have as many; single trees stay as they are."""
    while len(batches) % world_size and max(map(len, batches)) > 1:
        place = max(range(len(batches)), key=lambda place: len(batches[place]))
        batch = batches[place]
        batches[place : place + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches


def _shuffled(items: list[Any], generator: torch.Generator | None) -> list[Any]:
    if generator is None:
        return items
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]

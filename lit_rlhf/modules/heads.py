"""Which head learns from which prompt: its own domain's, or those of its bootstrap sample."""

from __future__ import annotations

import math
from zlib import crc32

import torch
from torch import Tensor

from lit_rlhf.models.components import Components
from lit_rlhf.ops.noise import counted_uniform, counter_key
from lit_rlhf.records import ResponseTrees

_POISSON_STEPS = 12
"""A Poisson(1) count above it has a probability of 6e-11."""


def participation(components: Components | None, batch: ResponseTrees, seed: int | None) -> Tensor:
    """How much each head learns from each prompt, ``[B, C]``.

    Without components 1. Of domains 1 where the prompt is of the head's domain, and 0 elsewhere; outside training a
    prompt of another domain is shared by all heads. Of an ensemble the Poisson(1) count of the online bootstrap (Oza
    and Russell 2001), the same for a row in every epoch; all 1 outside training.

    Args:
        components: of the network.
        batch: its rows' ids and domains.
        seed: of the bootstrap; None outside training.

    Raises:
        ValueError: in training a prompt is of none of the domains; its row is named.
    """
    if components is None:
        return torch.ones(batch.num_trees, 1)
    if components.domains:
        numbers = _numbers(components.domains, batch)
        if seed is not None:
            _refuse_unknown(components.domains, batch, numbers)
        own = (numbers[:, None] == torch.arange(len(components.domains))).float()
        return torch.where(numbers[:, None] < 0, 1 / len(components.domains), own)
    assert components.members is not None
    if seed is None:
        return torch.ones(batch.num_trees, components.members)
    # of an id like data/pairs.jsonl:7 without the folder, so that the file may be moved
    rows = torch.tensor([crc32(name.rsplit("/", 1)[-1].encode()) for name in batch.row_ids])
    members = [counted_uniform(counter_key(seed, member, rows), 0) for member in range(components.members)]
    return _poisson(torch.stack(members, 1))


def domain_numbers(components: Components | None, batch: ResponseTrees) -> Tensor:
    """The number of each prompt's domain among the components, Long ``[B]``: what the gate learns to tell.

    Raises:
        ValueError: a prompt is of none of them.
    """
    assert components is not None and components.domains
    numbers = _numbers(components.domains, batch)
    _refuse_unknown(components.domains, batch, numbers)
    return numbers.to(batch.input_ids.device)


def _numbers(domains: list[str], batch: ResponseTrees) -> Tensor:
    place = {domain: number for number, domain in enumerate(domains)}
    return torch.tensor([place.get(domain or "", -1) for domain in batch.domains])


def _refuse_unknown(domains: list[str], batch: ResponseTrees, numbers: Tensor) -> None:
    if (numbers < 0).any():
        tree = int((numbers < 0).nonzero()[0])
        raise ValueError(
            f"{batch.row_ids[tree]}: expected a `domain` among model.components.domains ({', '.join(domains)}), "
            f"found {batch.domains[tree]!r}. Name it there, or take the row out."
        )


def _poisson(uniform: Tensor) -> Tensor:
    """Poisson(1) counts from uniform numbers, by the inverse of the distribution function."""
    probabilities = torch.tensor([math.exp(-1) / math.factorial(k) for k in range(_POISSON_STEPS)])
    return torch.searchsorted(probabilities.double().cumsum(0), uniform, right=True).float()

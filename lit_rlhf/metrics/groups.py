"""Accuracy over parts of the comparisons: by domain, by how far people agree, by difference in length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from lit_rlhf.metrics.agreement import count_votes, vote_shares
from lit_rlhf.metrics.intervals import Interval
from lit_rlhf.records import Vote

MOST_DOMAINS = 12
"""Domains that have a line of their own; the others are summed."""
NO_DOMAIN = "no domain"
AGREEMENT_EDGES = (0.6, 0.7, 0.8, 0.9)
LENGTH_GROUPS = 5

Bootstrap: TypeAlias = Callable[[Tensor, Tensor], Interval | None]
"""From values of some comparisons and their rows to the mean with its interval, None where there are none."""


@dataclass(frozen=True)
class Group:
    """Accuracy over a part of the strict comparisons."""

    name: str
    count: int
    """Strict comparisons."""
    accuracy: Interval


def by_domain(right: Tensor, row: Tensor, domains: Sequence[str | None], interval: Bootstrap) -> list[Group]:
    """The most frequent domains, then the others as one; empty where no comparison has a domain.

    Args:
        right: of each strict comparison. Shape ``[C]``.
        row: of each. Long ``[C]``.
        domains: of each, C of them.
        interval: of the mean of some of them.
    """
    if all(domain is None for domain in domains):
        return []
    named = [domain or NO_DOMAIN for domain in domains]
    frequent = [domain for domain, _ in Counter(named).most_common()]
    # a single one would not be shorter as a sum
    shown = frequent if len(frequent) <= MOST_DOMAINS + 1 else frequent[:MOST_DOMAINS]
    rest = f"{len(frequent) - len(shown)} others"
    place = {domain: number for number, domain in enumerate(shown)}
    member = torch.tensor([place.get(domain, len(shown)) for domain in named])
    return _groups(right, row, member, [*shown, rest], interval)


def by_agreement(
    right: Tensor, row: Tensor, votes: Sequence[Sequence[Vote]], interval: Bootstrap
) -> list[Group]:
    """By the share of the votes that the majority has, a tie half for either, over rows of two votes or more.

    Args:
        right: of each strict comparison. Shape ``[C]``.
        row: of each. Long ``[C]``.
        votes: of the row of each, C lists.
        interval: of the mean of some of them.
    """
    counts = count_votes(votes)
    several = counts.sum(1) >= 2
    share = vote_shares(counts[several])
    share = torch.maximum(share, 1 - share)
    # 0.8 of five votes may come out as 0.7999…; the edges belong to the group above
    member = torch.bucketize(share + 1e-9, share.new_tensor([*AGREEMENT_EDGES, 1.0]), right=True)
    edges = [f"{edge:.0%}" for edge in (0.5, *AGREEMENT_EDGES, 1.0)]
    names = [f"{low} to {high}" for low, high in pairwise(edges)]
    return _groups(right[several], row[several], member, [*names, "all agree"], interval)


def by_length_difference(right: Tensor, row: Tensor, difference: Tensor, interval: Bootstrap) -> list[Group]:
    """Quintiles of the tokens that the preferred response has more than the other; equal differences stay together.

    Args:
        right: of each strict comparison. Shape ``[C]``.
        row: of each. Long ``[C]``.
        difference: tokens of the preferred response minus those of the other. Long ``[C]``.
        interval: of the mean of some of them.
    """
    if len(difference) == 0:
        return []
    in_order = difference.sort().values
    ends = torch.arange(1, LENGTH_GROUPS) * len(in_order) // LENGTH_GROUPS
    edges = in_order[ends].unique()
    member = torch.bucketize(difference, edges, right=True)
    parts = [difference[member == number] for number in range(len(edges) + 1)]
    names = [_span(int(part.min()), int(part.max())) if len(part) else "" for part in parts]
    return _groups(right, row, member, names, interval)


def _span(least: int, most: int) -> str:
    low, high = (f"{value:+d}" if value else "0" for value in (least, most))
    return low if low == high else f"{low} to {high}"


def _groups(
    right: Tensor, row: Tensor, member: Tensor, names: Sequence[str], interval: Bootstrap
) -> list[Group]:
    found = []
    for number, name in enumerate(names):
        chosen = member == number
        accuracy = interval(right[chosen], row[chosen])
        if accuracy is not None:
            found.append(Group(name, int(chosen.sum()), accuracy))
    return found

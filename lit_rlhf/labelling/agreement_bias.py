"""What decides beside the responses themselves: where one was shown, and how long it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_rlhf.labelling.agreement_measures import Measure, Sums, share
from lit_rlhf.labelling.agreement_table import NONE, Table, unit_of_pairs
from lit_rlhf.metrics.length import pearson


def position_bias(table: Table) -> Measure:
    """How often the response that was shown earlier is the better one, of the pairs that are decided; 1/2 is fair."""
    earlier = table.signs * -_differences(table, table.position)
    label = f"The response shown {'first' if table.mode == 'pairwise' else 'earlier'} wins"
    return _share_of_wins(table, earlier, "first_shown_wins", label, "no pair of a known order is decided")


def length_bias(table: Table) -> Measure:
    """How often the longer response is the better one, of the pairs of different lengths that are decided."""
    longer = table.signs * _differences(table, table.lengths[table.item])
    why = "no pair of different lengths is decided"
    return _share_of_wins(table, longer, "longer_wins", "The longer response wins", why)


def length_correlation(table: Table) -> Measure:
    """Pearson's correlation of characters with quality, each less its mean over the item's responses.

    Quality is the rank, turned so that more is better, or the rating.
    """
    present = table.present[table.item]
    lengths = table.lengths[table.item] * present
    number = present.sum(1, keepdim=True)
    quality = -table.place.double() * present if table.mode == "rating" else -table.centred_ranks
    quality, length = (
        (one - one.sum(1, keepdim=True) / number) * present for one in (quality, lengths.double())
    )
    products = torch.stack([quality.square(), length.square(), quality * length]).sum(2)
    sums = Sums({"products": torch.stack([table.by_item(one) for one in products], 1)})
    return sums.measure(
        "length_correlation",
        "Correlation of quality with length, within an item",
        lambda of: pearson(of["products"].T),
        len(table),
        "judgements",
        why="quality or length does not vary",
    )


def mean_ranks(table: Table) -> list[dict[str, Any]]:
    """Of rankings, by how many responses they have: the mean rank of what was shown at each position.

    Returns:
        `responses`, `judgements`, `by_position`; without bias all are (responses + 1)/2.
    """
    known = (table.position != NONE).any(1)
    number = table.present.sum(1)[table.item]
    found = []
    for responses in number[known].unique().tolist():
        chosen = table.where(known & (number == responses))
        ranks = chosen.centred_ranks[:, :responses] + (responses + 1) / 2
        by_position = ranks.gather(1, chosen.position[:, :responses].argsort(1)).mean(0)
        found.append({"responses": responses, "judgements": len(chosen), "by_position": by_position.tolist()})
    return found


def _differences(table: Table, of_response: Tensor) -> Tensor:
    """The sign of first less second of each pair of responses, ``[J, P]``."""
    first, second = table.pairs
    return (of_response[:, first] - of_response[:, second]).sign()


def _share_of_wins(table: Table, wins: Tensor, name: str, label: str, why: str) -> Measure:
    """Of wins ``[J, P]``: 1 where the favoured response of a pair is better, -1 where the other is, else 0."""
    return share(name, label, (wins > 0).sum(1), (wins != 0).sum(1), table.item, unit_of_pairs(table), why)

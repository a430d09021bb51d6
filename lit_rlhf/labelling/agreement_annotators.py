"""Each annotator of a mode: against the others, against herself, and how long she takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.labelling.agreement_bias import length_bias, position_bias
from lit_rlhf.labelling.agreement_checks import gold_accuracy, self_consistency
from lit_rlhf.labelling.agreement_measures import Measure, Sums, measure, quartiles
from lit_rlhf.labelling.agreement_table import NONE, Table, differing
from lit_rlhf.labelling.items import JUDGED, Judgement
from lit_rlhf.labelling.verdicts import Mode
from lit_rlhf.metrics.agreement import leave_out


def annotator_rows(
    judgements: Sequence[Judgement],
    table: Table | None,
    mode: Mode,
    names: Sequence[str],
    machines: Mapping[str, str],
    counted: Sequence[bool],
) -> list[dict[str, Any]]:
    """One row for everybody who judged items of this mode.

    Args:
        judgements: of the mode, of all kinds, skips too.
        table: those that are compared; None in a mode where nothing can be.
        mode: of the items.
        names: of the annotators, in the order of the table's numbers.
        machines: what kind of program those are that are programs.
        counted: whether each of `names` is among those whom the others are held against.
    """
    of: dict[str, list[Judgement]] = {name: [] for name in names}
    for one in judgements:
        of[one.annotator].append(one)
    others = against_others(table, torch.tensor(counted, dtype=torch.bool)) if table is not None else {}
    rows = []
    for number, name in enumerate(names):
        asked = [one for one in of[name] if one.task.kind in JUDGED]
        answered = [one for one in asked if one.verdict and one.verdict.skip is None]
        measures: list[Measure] = []
        if table is not None:
            hers = table.where(table.annotator == number)
            measures += others[number]
            measures += [position_bias(hers), length_bias(hers)] if hers.place.shape[1] > 1 else []
        if mode != "rewrite":
            told = differing([one for one in of[name] if one.verdict and one.verdict.skip is None])
            measures += [gold_accuracy(told, mode), *self_consistency(told, mode)]
        rows.append(
            {
                "annotator": name,
                "machine": machines.get(name),
                "judgements": len(answered),
                "skips": len(asked) - len(answered),
                "flags": sum(bool(one.flag) for one in of[name]),
                "both_bad": sum(one.verdict.both_bad for one in answered if one.verdict),
                "seconds": quartiles([one.seconds for one in answered if one.seconds is not None]),
                "measures": measures,
            }
        )
    return rows


def against_others(table: Table, counted: Tensor) -> dict[int, list[Measure]]:
    """How each annotator stands to the others on the same items, by the annotator's number.

    Of two responses: how often she sides with the majority of the others, a tie of hers half right, a tie of theirs
    left out. Of ratings: her rating less the mean of the others'.

    Args:
        table: of everybody.
        counted: whether an annotator is among the others. Bool ``[annotators]``.
    """
    if table.mode == "rating":
        return _against_mean(table, counted)
    pairs = table.pairs.shape[1]
    there = (table.comparisons.answer[:, ::2] != NONE).flatten().nonzero().flatten()
    judgement, pair = there // pairs, there % pairs
    choice = (table.signs.flatten()[there] + 1) / 2
    row = table.item[judgement] * pairs + pair
    left_out = leave_out(row, choice, counted[table.annotator[judgement]])
    judgement = judgement[left_out.vote]
    right, known = torch.zeros(2, len(table), dtype=torch.float64)
    right.index_add_(0, judgement, left_out.right())
    known.index_add_(0, judgement, torch.ones(len(judgement), dtype=torch.float64))
    found = {}
    for number in range(len(counted)):
        hers = (table.annotator == number) & (known > 0)
        label = "Sides with the majority of the others"
        if not hers.any():
            why = "the others have no majority on her items"
            found[number] = [measure("with_others", label, None, 0, "items", format="share", why=why)]
            continue
        sums = Sums(_by_item(table, hers, {"right": right, "known": known}))
        found[number] = [
            sums.measure(
                "with_others", label, lambda of: of["right"] / of["known"], sums.items, "items", "share"
            )
        ]
    return found


def _against_mean(table: Table, counted: Tensor) -> dict[int, list[Measure]]:
    present = table.present[table.item]
    rating = -table.place.double() * present
    counts = counted[table.annotator][:, None] * present
    zeros = torch.zeros(table.present.shape, dtype=torch.float64)
    others = zeros.index_add(0, table.item, rating * counts)[table.item] - rating * counts
    number_of_others = zeros.index_add(0, table.item, counts.double())[table.item] - counts.double()
    known = (number_of_others > 0) & present
    difference = torch.where(known, rating - others / number_of_others, 0.0)
    parts = {"difference": difference.sum(1), "distance": difference.abs().sum(1), "known": known.sum(1)}
    labels = {
        "difference": "Rating less the mean of the others",
        "distance": "Distance from the mean of the others",
    }
    found = {}
    for number in range(len(counted)):
        hers = (table.annotator == number) & known.any(1)
        if not hers.any():
            why = "nobody else rated her items"
            found[number] = [
                measure(name, label, None, 0, "items", format="points", why=why)
                for name, label in labels.items()
            ]
            continue
        sums = Sums(_by_item(table, hers, parts))
        found[number] = [_mean(sums, name, label) for name, label in labels.items()]
    return found


def _mean(sums: Sums, name: str, label: str) -> Measure:
    return sums.measure(name, label, lambda of: of[name] / of["known"], sums.items, "items", "points")


def _by_item(table: Table, chosen: Tensor, of_judgement: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums over the chosen judgements of each item that has one."""
    _, item = table.item[chosen].unique(return_inverse=True)
    zeros = torch.zeros(int(item.max()) + 1, dtype=torch.float64)
    return {name: zeros.index_add(0, item, one[chosen].double()) for name, one in of_judgement.items()}

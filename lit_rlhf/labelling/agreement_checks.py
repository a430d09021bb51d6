"""An annotator held against herself, in items that she saw twice, and against known answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_rlhf.labelling.agreement_measures import Measure, share
from lit_rlhf.labelling.agreement_table import Table, tabulate, unit_of_pairs
from lit_rlhf.labelling.items import Judgement
from lit_rlhf.labelling.verdicts import Mode


def self_consistency(judgements: Sequence[Judgement], mode: Mode) -> list[Measure]:
    """What comes of asking again, in the same order and in the reverse.

    Args:
        judgements: of one mode, of one annotator or of several; those of kind `repeat` and `swap` are held against the
            annotator's `label` of the same item, and do not count where she skipped that.
        mode: of the items.

    Returns:
        Of repeats how often she says the same; of swaps that too, and of the pairs of responses that she decided both
        times how often the same response wins, and how often the same position does.
    """
    said = {(one.annotator, one.task.item.number): one for one in judgements if one.task.kind == "label"}
    repeats = _again(judgements, said, "repeat")
    swaps = _again(judgements, said, "swap")
    found = []
    for name, label, again in [
        ("repeat_same", "Asked again in the same order: the same answer", repeats),
        ("swap_same", "Asked again in the reverse order: the same answer", swaps),
    ]:
        before, after = (tabulate(one, mode, _annotators(judgements)) for one in again)
        same = (before.responses.answer == after.responses.answer).all(1) if len(before) else before.item
        asked = torch.ones_like(before.item)
        found.append(share(name, label, same, asked, before.item, "judgements", "nothing was asked again"))
    if mode == "rating":
        return found
    before, after = (tabulate(one, mode, _annotators(judgements)) for one in swaps)
    return [*found, *_winners(before, after)]


def gold_accuracy(judgements: Sequence[Judgement], mode: Mode) -> Measure:
    """Share of the test items (kind `gold`) that are judged as known: the same order and ties, or the same ratings."""
    tested = [
        one
        for one in judgements
        if one.task.kind == "gold" and one.task.item.mode == mode and one.task.item.gold is not None
        if one.task.item.gold.ranking is not None or one.task.item.gold.ratings is not None
    ]
    right = torch.tensor([bool(one.verdict and one.task.item.is_right(one.verdict)) for one in tested]).long()
    item = torch.tensor([one.task.item.number for one in tested], dtype=torch.long)
    label = "Right on items with a known answer"
    why = "no test item was judged"
    return share("gold", label, right, torch.ones_like(item), item, "judgements", why)


def _annotators(judgements: Sequence[Judgement]) -> list[str]:
    return sorted({one.annotator for one in judgements})


def _again(
    judgements: Sequence[Judgement], said: dict[tuple[str, int], Judgement], kind: str
) -> tuple[list[Judgement], list[Judgement]]:
    """What was said first, and what was said again of the same."""
    second = [
        one for one in judgements if one.task.kind == kind and (one.annotator, one.task.item.number) in said
    ]
    return [said[one.annotator, one.task.item.number] for one in second], second


def _winners(before: Table, after: Table) -> list[Measure]:
    labels = {
        "swap_same_response": "Shown in the reverse order, the same response wins",
        "swap_same_position": "Shown in the reverse order, the same position wins",
    }
    why = "no pair was decided in both orders"
    first, second = before.pairs
    signs = [table.signs for table in (before, after)]
    shown = [(table.position[:, second] - table.position[:, first]).sign() for table in (before, after)]
    both = (signs[0] != 0) & (signs[1] != 0)
    reversed_pairs = both & (shown[0] == -shown[1]) & (shown[0] != 0)
    same = {
        "swap_same_response": (signs[0] == signs[1]) & reversed_pairs,
        "swap_same_position": (signs[0] * shown[0] == signs[1] * shown[1]) & reversed_pairs,
    }
    return [
        share(name, labels[name], one.sum(1), reversed_pairs.sum(1), before.item, unit_of_pairs(before), why)
        for name, one in same.items()
    ]

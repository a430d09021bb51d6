"""All that is known of one mode's judgements; needs torch, so the server imports it when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lit_rlhf.labelling.agreement_annotators import annotator_rows
from lit_rlhf.labelling.agreement_bias import length_bias, length_correlation, mean_ranks, position_bias
from lit_rlhf.labelling.agreement_checks import gold_accuracy, self_consistency
from lit_rlhf.labelling.agreement_coefficients import agreement
from lit_rlhf.labelling.agreement_measures import quartiles
from lit_rlhf.labelling.agreement_pairs import between, confusion
from lit_rlhf.labelling.agreement_table import Table, differing, tabulate
from lit_rlhf.labelling.items import JUDGED, Judgement
from lit_rlhf.labelling.verdicts import Mode


def describe_mode(judgements: Sequence[Judgement], mode: Mode, machines: Mapping[str, str]) -> dict[str, Any]:
    """What `describe` has under ``modes``; the headline numbers are people's, or programs' where nobody else judged.

    Args:
        judgements: current ones of items of this mode, of all kinds.
        mode: of the items.
        machines: annotators that are programs.
    """
    names = sorted({one.annotator for one in judgements})
    answered = [
        one for one in judgements if one.task.kind in JUDGED and one.verdict and one.verdict.skip is None
    ]
    people = not answered or any(one.annotator not in machines for one in answered)
    counted = [(name in machines) != people for name in names]
    described: dict[str, Any] = {"mode": mode, "whose": "people" if people else "programs"}
    theirs = [one for one in judgements if (one.annotator in machines) != people]
    described |= _counts(theirs)
    described["judgements_of_programs"] = sum(one.annotator in machines for one in answered)
    described |= {
        "several": 0,
        "agreement": [],
        "bias": [],
        "mean_ranks": [],
        "checks": [],
        "confusion": None,
    }
    described |= {"between": [], "between_left_out": 0, "notes": []}
    table = None
    if mode != "rewrite":
        comparable, described["notes"] = _comparable(answered)
        if comparable:
            table = tabulate(comparable, mode, names)
            described |= _of_table(table, torch.tensor(counted)[table.annotator], names)
        told = differing([one for one in theirs if one.verdict and one.verdict.skip is None])
        described["checks"] = [gold_accuracy(told, mode), *self_consistency(told, mode)]
    described["by_annotator"] = annotator_rows(judgements, table, mode, names, machines, counted)
    return described


def _counts(judgements: Sequence[Judgement]) -> dict[str, Any]:
    asked = [one for one in judgements if one.task.kind in JUDGED]
    answered = [one for one in asked if one.verdict and one.verdict.skip is None]
    return {
        "items": len({one.task.item.number for one in answered}),
        "judgements": len(answered),
        "annotators": len({one.annotator for one in answered}),
        "skips": len(asked) - len(answered),
        "both_bad": sum(one.verdict.both_bad for one in answered if one.verdict),
        "seconds": quartiles([one.seconds for one in answered if one.seconds is not None]),
    }


def _of_table(table: Table, counted: torch.Tensor, names: Sequence[str]) -> dict[str, Any]:
    """What hangs on the judgements alone; `counted` are those of the headline, the pairs of annotators are all."""
    rows, left_out = between(table, names)
    found: dict[str, Any] = {"between": rows, "between_left_out": left_out}
    if not counted.any():
        return found
    theirs = table.where(counted)
    several = theirs.place.shape[1] > 1
    return found | {
        "several": int((torch.bincount(theirs.item) >= 2).sum()),
        "agreement": agreement(theirs),
        "bias": [position_bias(theirs), length_bias(theirs), length_correlation(theirs)] if several else [],
        "mean_ranks": mean_ranks(theirs) if table.mode == "ranking" else [],
        "confusion": confusion(theirs),
    }


def _comparable(answered: Sequence[Judgement]) -> tuple[list[Judgement], list[str]]:
    """One judgement of each annotator and item, of items whose responses differ; and what is to be said of that."""
    latest = {
        (one.task.item.number, one.annotator): one for one in sorted(answered, key=lambda one: one.number)
    }
    # sorted, so that sums and resamples are the same whatever the order of the judgements
    kept = differing([latest[key] for key in sorted(latest)])
    notes = []
    if kept and kept[0].task.item.mode == "pairwise":
        notes.append(
            "κ and α count every pair in both orders: which response an item has first changes nothing"
        )
    if twice := len(answered) - len(latest):
        notes.append(
            f"{twice:,} left out: the annotator judged the item again, and the later judgement counts"
        )
    if same := len(latest) - len(kept):
        notes.append(f"{same:,} left out: all responses of the item are the same text")
    return kept, notes

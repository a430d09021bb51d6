"""How far annotators agree, with one another and with themselves, and what else they go by: all numbers in one place.

The page and ``lit-rlhf label agreement`` show the same. Nothing heavy is imported before somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_rlhf.labelling.agreement_lines import describe_lines
from lit_rlhf.labelling.items import JUDGED, Judgement
from lit_rlhf.labelling.verdicts import MODES

if TYPE_CHECKING:
    from lit_rlhf.labelling.store import LabelStore

__all__ = ["describe", "describe_judgements", "describe_lines"]

MOST_FLAGS = 50
"""Flags that are listed; the rest are counted."""
MOST_REASONS = 20
"""Reasons to skip that are listed, the most frequent first; the rest are counted."""


def describe(store: LabelStore) -> dict[str, Any]:
    """:func:`describe_judgements` of a store's current judgements."""
    return describe_judgements(store.judgements(), store.machines())


def describe_judgements(judgements: Sequence[Judgement], machines: Mapping[str, str]) -> dict[str, Any]:
    """Plain JSON.

    The headline numbers of a mode are people's; programs stand among `by_annotator` and `between`, held against the
    people. Where no person judged in a mode, they are the programs' (`whose`). Judgements of kind `label` and `live`
    are compared between annotators; `repeat` and `swap` hold an annotator against herself, `gold` against a known
    answer. The order of judgements, items and annotators changes nothing.

    Args:
        judgements: current ones, of all kinds.
        machines: annotators that are programs, with what they are.

    Returns:
        - `judgements`, `items`, `annotators` (people), `machines`
        - `modes`: of each mode that has judgements

          - `mode`, `whose`, `items`, `judgements`, `annotators`, `judgements_of_programs`, `several` (items with two
            or more judgements), `skips`, `both_bad`, `notes` (how it was counted, and what was left out)
          - `seconds`: `count`, `lower`, `median`, `upper`, or None
          - `agreement`, `bias`, `checks`: lists of measures
          - `mean_ranks`: `responses`, `judgements`, `by_position`
          - `confusion`: `answers`, `counts`, or None
          - `between`: `annotators` (two), `items`, `measures`; `between_left_out`: how many pairs are not listed
          - `by_annotator`: `annotator`, `machine`, `judgements`, `skips`, `flags`, `both_bad`, `seconds`, `measures`

        - `skips`: `reason`, `count`; `skips_left_out`
        - `flags`: `item`, `annotator`, `text`; `flags_left_out`

        A measure has `name`, `label`, `value`, `low`, `high`, `format` (``share``, ``coefficient``, ``points``),
        `count` and `unit` of what it stands on, and `why` where `value` is None. `low` and `high`, 95 %, are None
        with too few items.
    """
    from lit_rlhf.labelling.agreement_modes import describe_mode

    current = [one for one in judgements if one.verdict is not None]
    judged = [one for one in current if one.task.kind in JUDGED]
    by_mode = {mode: [one for one in current if one.task.item.mode == mode] for mode in MODES}
    reasons = Counter(one.verdict.skip for one in judged if one.verdict and one.verdict.skip is not None)
    skips = sorted(reasons.items(), key=lambda found: (-found[1], found[0]))
    flags = sorted(
        (one.task.item.number, one.annotator, one.flag)
        for one in current
        if one.flag and one.task.kind in JUDGED
    )
    return {
        "judgements": sum(one.verdict is not None and one.verdict.skip is None for one in judged),
        "items": len({one.task.item.number for one in judged}),
        "annotators": len({one.annotator for one in judged} - set(machines)),
        "machines": dict(sorted(machines.items())),
        "modes": [describe_mode(of_mode, mode, machines) for mode, of_mode in by_mode.items() if of_mode],
        "skips": [{"reason": reason, "count": count} for reason, count in skips[:MOST_REASONS]],
        "skips_left_out": sum(count for _, count in skips[MOST_REASONS:]),
        "flags": [
            {"item": item, "annotator": annotator, "text": text}
            for item, annotator, text in flags[:MOST_FLAGS]
        ],
        "flags_left_out": len(flags[MOST_FLAGS:]),
    }

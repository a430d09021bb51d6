"""Two annotators beside one another: κ and τ of what both judged, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.labelling.agreement_measures import Measure, Sums
from lit_rlhf.labelling.agreement_table import SAID, Table
from lit_rlhf.metrics.inter_rater import Weights, cohen_kappa_of_confusion, kendall_tau_b

MOST_PAIRS_OF_ANNOTATORS = 200
"""Those with the most items in common are listed."""
ANSWERS = {
    "pairwise": ["first better", "first slightly better", "tie", "second slightly better", "second better"],
    "ranking": ["first better", "tie", "second better"],
    "rating": ["1", "2", "3", "4", "5"],
}
"""Of the confusion, first and second as the item has them."""


def between(table: Table, names: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Each two annotators, on the items that both judged.

    Args:
        table: an item's judgements stand in the order of their annotators, one of each.
        names: of the annotators.

    Returns:
        `annotators`, `items` and `measures` of the `MOST_PAIRS_OF_ANNOTATORS` with the most items, and how many
        others there are.
    """
    first, second = judgement_pairs(table.item)
    key = table.annotator[first] * len(names) + table.annotator[second]
    keys, of_key, sizes = key.unique(return_inverse=True, return_counts=True)
    chosen = sizes.argsort(descending=True, stable=True)[:MOST_PAIRS_OF_ANNOTATORS]
    order = of_key.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    found = []
    for number in chosen.tolist():
        here = order[starts[number] : starts[number] + sizes[number]]
        pair = divmod(int(keys[number]), len(names))
        found.append(
            {
                "annotators": [names[one] for one in pair],
                "items": len(here),
                "measures": _of_two(table, first[here], second[here]),
            }
        )
    return found, len(keys) - len(chosen)


def _of_two(table: Table, first: Tensor, second: Tensor) -> list[Measure]:
    """Of two annotators' judgements of the same items, in the same order."""
    ranking, items = table.mode == "ranking", len(first)
    whole = table.responses
    answers = table.comparisons if ranking else whole
    one, other = (
        (answers.answer[rows][:, :, None] == torch.arange(answers.answers)).double()
        for rows in (first, second)
    )
    parts = {
        "items": torch.ones(items),
        "same": (whole.answer[first] == whole.answer[second]).all(1),
        "confusion": torch.einsum("nuc,nud->ncd", one, other),
    }
    if ranking:
        signs = table.signs
        tau = kendall_tau_b(signs[first], signs[second])
        parts |= {"tau": tau.nan_to_num(), "tau known": ~tau.isnan()}
    sums = Sums(parts)

    def kappa(weights: Weights, name: str, label: str) -> Measure:
        return sums.measure(name, label, lambda of: cohen_kappa_of_confusion(of["confusion"], weights), items)

    label = "Cohen's κ of two responses" if ranking else "Cohen's κ"
    found = [
        sums.measure(
            "same", f"Same {SAID[table.mode]}", lambda of: of["same"] / of["items"], items, format="share"
        ),
        kappa("equal", "cohen_kappa", label),
        kappa("quadratic", "cohen_kappa_weighted", f"{label}, quadratic weights"),
    ]
    if ranking:
        found.append(
            sums.measure(
                "kendall_tau_b",
                "Kendall's τ-b, mean over items",
                lambda of: of["tau"] / of["tau known"],
                int(parts["tau known"].sum()),
                why="one ranking of each two is a tie throughout",
            )
        )
    return found


def confusion(table: Table) -> dict[str, Any]:
    """How often one annotator says one thing while another says another, of every two in both directions.

    Returns:
        `answers` and `counts`, of two responses in the item's own order; a ranking is its pairs of responses.
    """
    answers = table.comparisons if table.mode == "ranking" else table.responses
    by_item = answers.counts(table.item, len(table.items))
    if table.mode != "rating":
        by_item = by_item[:, ::2]  # without the mirror images
    counts = torch.einsum("iuc,iud->cd", by_item, by_item) - torch.diag(by_item.sum((0, 1)))
    return {"answers": ANSWERS[table.mode], "counts": counts.long().tolist()}


def judgement_pairs(item: Tensor) -> tuple[Tensor, Tensor]:
    """The places of every two judgements of an item, the earlier one first, long ``[P]`` each."""
    order = item.argsort(stable=True)
    sizes = torch.bincount(item)
    end = sizes.cumsum(0)[item[order]]
    place = torch.arange(len(item))
    following = end - place - 1
    first = place.repeat_interleave(following)
    step = torch.arange(len(first)) - (following.cumsum(0) - following)[first]
    return order[first], order[first + step + 1]

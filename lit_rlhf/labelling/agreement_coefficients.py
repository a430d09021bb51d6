"""How far those who judged the same items agree: shares, κ, α, W and τ, each with an interval by item."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_rlhf.labelling.agreement_measures import Measure, Sums, measure
from lit_rlhf.labelling.agreement_pairs import judgement_pairs
from lit_rlhf.labelling.agreement_table import SAID, Table
from lit_rlhf.metrics.inter_rater import (
    Distance,
    alpha_of_coincidences,
    coincidences_of_items,
    fleiss_kappa_of_sums,
    kendall_tau_b,
    kendall_w,
    shares_of_equal_pairs,
)

_PAIRS_AT_ONCE = 1 << 16


def agreement(table: Table) -> list[Measure]:
    """The coefficients of all the table's judgements, on the items that have two or more.

    Shares are means over items of the share of an item's pairs of judgements. κ and α of responses take every
    response for a unit of its own, those of two responses every pair in both orders: which response is called the
    first changes nothing, and chance is that of a coin where an item's order says nothing.
    """
    sizes = torch.bincount(table.item, minlength=len(table.items))
    items = int((sizes >= 2).sum())
    if items == 0:
        why = "no item has two judgements"
        return [measure("same", f"Same {SAID[table.mode]}", None, 0, "items", format="share", why=why)]
    several = (sizes >= 2).nonzero().flatten()
    fits = sizes[several] == _most_common(sizes[several])
    parts = {"items": torch.ones(items), "same": _same_shares(table)[several]}
    parts |= _parts_of_scale(table, "responses", several, fits)
    if table.mode != "rating":
        parts |= _parts_of_scale(table, "pairs", several, fits)
    if table.mode == "ranking":
        parts |= _parts_of_rankings(table, several, sizes)
    found = _Found(Sums(parts), items, int(fits.sum()), _most_common(sizes[several]))
    same = found.mean("same", "same", f"Same {SAID[table.mode]}")
    of_responses = [
        found.alpha("responses", "nominal", "alpha_nominal", "Krippendorff's α, nominal"),
        found.alpha("responses", "ordinal", "alpha_ordinal", "Krippendorff's α, ordinal"),
    ]
    if table.mode == "rating":
        return [same, found.fleiss("responses", "fleiss_kappa", "Fleiss' κ"), *of_responses]
    if table.mode == "pairwise":
        return [
            same,
            found.mean("pairs same", "same_side", "Same side, strength left aside"),
            found.fleiss("responses", "fleiss_kappa", "Fleiss' κ"),
            found.fleiss("pairs", "fleiss_kappa_side", "Fleiss' κ of the side"),
            *of_responses,
            found.alpha("pairs", "nominal", "alpha_side", "Krippendorff's α of the side, nominal"),
        ]
    return [
        same,
        found.mean("pairs same", "same_pair", "Same order of two responses"),
        found.fleiss("pairs", "fleiss_kappa_pair", "Fleiss' κ of two responses"),
        *of_responses,
        *_of_rankings(found.sums, parts),
    ]


class _Found:
    """The coefficients that every mode has."""

    def __init__(self, sums: Sums, items: int, fleiss_items: int, fleiss_judgements: int) -> None:
        self.sums, self.items = sums, items
        self.fleiss_items, self.fleiss_judgements = fleiss_items, fleiss_judgements

    def mean(self, part: str, name: str, label: str) -> Measure:
        return self.sums.measure(name, label, lambda of: of[part] / of["items"], self.items, format="share")

    def alpha(self, scale: str, distance: Distance, name: str, label: str) -> Measure:
        def coefficient(of: Mapping[str, Tensor]) -> Tensor:
            return alpha_of_coincidences(of[f"{scale} coincidences"], distance)

        return self.sums.measure(name, label, coefficient, self.items)

    def fleiss(self, scale: str, name: str, label: str) -> Measure:
        def coefficient(of: Mapping[str, Tensor]) -> Tensor:
            return fleiss_kappa_of_sums(*(of[f"{scale} {part}"] for part in ("agreeing", "units", "answers")))

        label = f"{label} (items with {self.fleiss_judgements} judgements)"
        return self.sums.measure(name, label, coefficient, self.fleiss_items)


def _parts_of_scale(table: Table, scale: str, several: Tensor, fits: Tensor) -> dict[str, Tensor]:
    """What α and κ are made of, of each item that has `several` judgements; `fits` has as many as κ asks for."""
    answers = table.responses if scale == "responses" else table.comparisons
    counts = answers.counts(table.item, len(table.items))[several]
    shares = shares_of_equal_pairs(counts.flatten(0, 1)).view(counts.shape[:2])
    agreeing, units = shares.nan_to_num().sum(1), (~shares.isnan()).sum(1)
    return {
        f"{scale} coincidences": coincidences_of_items(counts),
        f"{scale} same": agreeing / units,
        f"{scale} agreeing": agreeing * fits,
        f"{scale} units": units * fits,
        f"{scale} answers": counts.sum(1) * fits[:, None],
    }


def _parts_of_rankings(table: Table, several: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    concordance = kendall_w(table.centred_ranks, table.item, len(table.items))[several]
    known = ~concordance.isnan()
    tau, has_tau = _mean_tau(table)
    return {
        "w": concordance.nan_to_num(),
        "w known": known,
        "w by chance": known / sizes[several],
        "tau": tau[several],
        "tau known": has_tau[several],
    }


def _of_rankings(sums: Sums, parts: Mapping[str, Tensor]) -> list[Measure]:
    with_w, with_tau = int(parts["w known"].sum()), int(parts["tau known"].sum())
    by_chance = f" (by chance {float(parts['w by chance'].sum()) / with_w:.2f})" if with_w else ""
    return [
        sums.measure(
            "kendall_w",
            f"Kendall's W, mean over items{by_chance}",
            lambda of: of["w"] / of["w known"],
            with_w,
            why="all rankings are ties throughout",
        ),
        sums.measure(
            "kendall_tau_b",
            "Kendall's τ-b of two annotators, mean over items",
            lambda of: of["tau"] / of["tau known"],
            with_tau,
            why="one ranking of each two is a tie throughout",
        ),
    ]


def _same_shares(table: Table) -> Tensor:
    """Share of each item's pairs of judgements that are equal in all that they say, ``[I]``."""
    rows = torch.cat([table.item[:, None], table.responses.answer], 1)
    said, times = rows.unique(dim=0, return_counts=True)
    judgements = torch.bincount(table.item, minlength=len(table.items)).double()
    equal = judgements.new_zeros(len(judgements)).index_add(0, said[:, 0], (times * (times - 1)).double())
    return equal / (judgements * (judgements - 1))


def _mean_tau(table: Table) -> tuple[Tensor, Tensor]:
    """Mean τ-b over each item's pairs of judgements that have one, and whether there is any, ``[I]`` each."""
    signs = table.signs.to(torch.int8)
    summed, known = torch.zeros(2, len(table.items), dtype=torch.float64)
    for first, second in zip(
        *(one.split(_PAIRS_AT_ONCE) for one in judgement_pairs(table.item)), strict=True
    ):
        tau = kendall_tau_b(signs[first], signs[second])
        item = table.item[first]
        summed.index_add_(0, item, tau.nan_to_num())
        known.index_add_(0, item, (~tau.isnan()).double())
    return summed / known.clamp(min=1), known > 0


def _most_common(counts: Tensor) -> int:
    """The most common number of judgements, the larger of two as common."""
    times = torch.bincount(counts)
    return len(times) - 1 - int(times.flip(0).argmax())

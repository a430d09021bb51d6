"""A pair with its label turned round: the sides, what else is said of them, and the mark that it was done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lit_rlhf.cli.score_sides import preference_field

MARKS = ("flipped", "flipped_before")
"""`flipped`: true = this call swapped the sides; false = it swapped them back to what they were before an earlier call;
not there = it left them. `flipped_before`: true = it left them as an earlier call had swapped them."""

_CHOSEN = re.compile(r"(?<![^\W_])chosen(?![^\W_])")
_SIDED = re.compile(r"chosen|rejected", re.IGNORECASE)


def flipped_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that change when the label is turned round.

    Every two fields whose names differ in ``chosen`` and ``rejected`` alone change their values. Of numbered sides
    the texts stay where they are, and the sign of the preference changes; else lists of two that ``lit-rlhf score``
    wrote are turned round with the sides.
    """
    changed: dict[str, Any] = {}
    for chosen in fields:
        rejected = _CHOSEN.sub("rejected", chosen)
        if rejected != chosen and rejected in fields:
            changed |= {chosen: fields[rejected], rejected: fields[chosen]}
    preference = preference_field(fields)
    if preference is not None:
        return {**changed, preference: -fields[preference]}
    for name, value in fields.items():
        if name.startswith("reward_") and isinstance(value, list) and len(value) == 2:
            changed[name] = value[::-1]
    return changed


def sided_names(fields: Mapping[str, Any]) -> list[str]:
    """The fields that by their name speak of one side."""
    return [name for name in fields if _SIDED.search(name)]


def marks(fields: Mapping[str, Any], is_flipped: bool) -> dict[str, bool]:
    """What the row is to say of flips, this one and earlier ones; see :data:`MARKS`."""
    before = next((fields[name] for name in MARKS if name in fields), False) is True
    if is_flipped:
        return {"flipped": not before}
    return {"flipped_before": True} if before else {}

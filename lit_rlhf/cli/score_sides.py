"""Which fields of a file's row hold its responses, in the order in which the file names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_rlhf.data.votes import is_votes_row

NAMED_SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
"""Names that say which side is the better one."""
NUMBERED_SIDES = (
    ("response_1", "response_2", "preference_strength"),
    ("response1", "response2", "overall_preference"),
)
"""HelpSteer's: two responses, and a third field whose sign says which is better (up to 0 the first, above it the
second). The first of these that a row has is read, unless it has `chosen` and `rejected`."""


def preference_field(fields: Mapping[str, Any]) -> str | None:
    """The field whose sign says which of two numbered responses is better; None where no field does."""
    given = {name for name, value in fields.items() if value is not None}
    if {"chosen", "rejected"} <= given or "responses" in given or is_votes_row(fields):
        return None
    return next((names[2] for names in NUMBERED_SIDES if given.issuperset(names)), None)


def sides_of(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """The names of the better and the worse side of a pair; None for another kind of row."""
    if is_votes_row(fields):
        return None
    preference = preference_field(fields)
    if preference is None:
        return next(
            (names for names in NAMED_SIDES if all(fields.get(name) is not None for name in names)), None
        )
    first, second, _ = next(names for names in NUMBERED_SIDES if names[2] == preference)
    return (first, second) if fields[preference] <= 0 else (second, first)


def response_order(fields: Mapping[str, Any], count: int) -> list[int]:
    """Which response of the row, as it is read, stands in the file first, second, ...

    A pair is read with its better side first; of numbered sides that may be the second one.

    Args:
        fields: the row as the file has it.
        count: its responses.
    """
    preference = preference_field(fields)
    return [1, 0] if preference is not None and fields[preference] > 0 else list(range(count))

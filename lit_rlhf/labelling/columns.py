"""Fields of files' rows as JSON holds them, whatever a file's format could hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

NULLS = "numbers that are NaN or infinite are kept as null"
"""Behind how many there were."""


class FieldError(ValueError):
    """A field that cannot be kept; the message has its place."""


def plain_fields(fields: Mapping[str, Any], place: str) -> tuple[dict[str, Any], int]:
    """Fields of a row as strict JSON can spell them.

    Times become ISO 8601, durations seconds, decimals their digits; NaN and infinities, which JSON has no word for,
    null.

    Args:
        fields: as a reader of files gives them.
        place: ``file:line``.

    Returns:
        The fields, and how many of their numbers became null.

    Raises:
        FieldError: a field holds bytes, text that UTF-8 cannot hold, or something else that JSON cannot spell.

    Example:
        >>> plain_fields({"on": date(2026, 1, 2), "loss": [0.5, math.nan]}, "f.parquet:1")
        ({'on': '2026-01-02', 'loss': [0.5, None]}, 1)
    """
    nulls = 0

    def plain(value: Any, name: str) -> Any:
        nonlocal nulls
        match value:
            case float() if not math.isfinite(value):
                nulls += 1
                return None
            case None | bool() | int() | float():
                return value
            case str():
                check_text(value, name, place)
                return value
            case Mapping():
                return {plain(str(key), name): plain(one, f"{name}.{key}") for key, one in value.items()}
            case list() | tuple():
                return [plain(one, name) for one in value]
            case datetime() | date() | time():
                return value.isoformat()
            case timedelta():
                return value.total_seconds()
            case Decimal():
                return plain(float(value), name) if not value.is_finite() else str(value)
        raise FieldError(
            f"{place}: expected `{name}` to be text, a number, a time, or lists and objects of these, "
            f"found {type(value).__name__}"
        )

    return {name: plain(value, name) for name, value in fields.items()}, nulls


def check_text(text: str, name: str, place: str) -> None:
    """Refuse half of a surrogate pair, which JSON can spell and no file can hold.

    Raises:
        FieldError: with the place and the field's name.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair, {text[error.start]!r}, behind {text[: error.start][-20:]!r}"
        raise FieldError(
            f"{place}: expected `{name}` to be text that UTF-8 can hold, found {found}"
        ) from None

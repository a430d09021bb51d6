"""Every direct loss says in one line when it helps, and where it is from."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from lit_rlhf.losses import (
    absolute,
    anchored,
    differences,
    divergences,
    length_normalized,
    preference,
    reference_free,
    transport,
    unpaired,
)

ROOMS = [
    *(preference, differences, length_normalized, absolute, anchored),
    *(transport, reference_free, unpaired, divergences),
]
EACH = [
    pytest.param(room, function, id=name)
    for room in ROOMS
    for name, function in inspect.getmembers(room, inspect.isfunction)
    if function.__module__ == room.__name__ and (name.endswith("_loss") or room is divergences)
]


def test_all_are_here() -> None:
    assert len(EACH) > 25


@pytest.mark.parametrize(("room", "function"), EACH)
def test_a_loss_says_when_it_helps_and_where_it_is_from(room: ModuleType, function: object) -> None:
    said = inspect.getdoc(function) or ""
    assert "\nHelps " in said
    assert "\nSource:" in said or "\nSource:" in (room.__doc__ or "")
    assert "arXiv" in said + (room.__doc__ or "") or "TRL" in said

"""A store to work on, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.db") as opened:
        yield opened


def pairs(count: int, start: int = 0) -> list[Item]:
    """Pairs with prompts and responses of their own."""
    return [
        Item("pairwise", f"prompt {number}", (f"first {number}", f"second {number}"), row_id=f"row {number}")
        for number in range(start, start + count)
    ]

"""The picture of preference strengths."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lit_rlhf.reports.strength import draw_strengths


@pytest.mark.parametrize("strengths", [[-2.0, -0.1, 0.0, 0.4, 3.0], [1.0], [-1.0, -2.0], [0.0, 0.0]], ids=str)
def test_a_picture_of_any_strengths(strengths: list[float], tmp_path: Path) -> None:
    draw_strengths(tmp_path / "s.png", strengths, [0.1] * len(strengths))
    content = (tmp_path / "s.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1200, 900)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.png"]


@pytest.mark.parametrize("strengths", [[], [math.nan], [1.0, math.inf]])
def test_what_is_no_number_is_refused(strengths: list[float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        draw_strengths(tmp_path / "s.png", strengths, [0.0] * len(strengths))
    assert not list(tmp_path.iterdir())

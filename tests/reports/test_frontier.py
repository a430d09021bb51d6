"""The frontier picture: a whole PNG of the promised size that shows what it was given."""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_rlhf.reports.frontier import draw_frontier
from lit_rlhf.reports.labels import PointLabel, place_labels

GREEN, BLUE, VERMILLION, WINE = "#009E73", "#0072B2", "#D55E00", "#882255"


def point(method: str, kl: float, gold: float, grammar: float = 0.9, **setting: Any) -> dict[str, Any]:
    return {"method": method, "beta": None, "n": None, "kl": kl, "gold": gold, "grammar": grammar} | setting


SFT = point("sft", 0.0, -0.7)
BEST_OF_N = [point("best_of_n", 0.6, 0.5, n=4), point("best_of_n", 1.8, 1.4, n=16)]
DPO = [point("dpo", 0.7, 0.8, beta=1.0), point("dpo", 5.6, 1.9, 0.7, beta=0.3)]
PPO = [point("ppo", 3.6, 1.8, beta=0.2), point("ppo", 31.0, -0.8, 0.0, beta=0.0)]
RUN = [
    {"iteration": iteration, "kl": kl, "gold": gold, "grammar": grammar}
    for iteration, kl, gold, grammar in ((0, 0.0, -0.7, 0.9), (10, 4.0, 1.0, 0.9), (50, 31.0, -0.8, 0.01))
]


def pixels_of(path: Path, colour: str) -> int:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    picture = np.rint(matplotlib.image.imread(path)[:, :, :3] * 255)
    return int((picture == (red, green, blue)).all(axis=2).sum())


def test_picture_is_a_png_of_1200_by_750_and_shows_every_sweep_in_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "frontier.png"
    draw_frontier([SFT, *BEST_OF_N, *DPO, *PPO], path, {"PPO, β = 0": RUN})
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1200, 750)
    assert all(pixels_of(path, colour) > 100 for colour in (GREEN, BLUE, VERMILLION, WINE))
    assert [file.name for file in tmp_path.iterdir()] == ["frontier.png"]


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "frontier.png"
    draw_frontier([SFT, *DPO], path)
    assert pixels_of(path, BLUE) > 100
    assert pixels_of(path, GREEN) == pixels_of(path, VERMILLION) == pixels_of(path, WINE) == 0
    draw_frontier([SFT], path, {"nothing yet": []})
    assert pixels_of(path, BLUE) == pixels_of(path, WINE) == 0


def test_point_without_a_price_belongs_to_the_run_where_one_is_given(tmp_path: Path) -> None:
    with_run, without = tmp_path / "with.png", tmp_path / "without.png"
    draw_frontier([SFT, PPO[1]], with_run, {"PPO, β = 0": RUN})
    draw_frontier([SFT, PPO[1]], without)
    assert pixels_of(with_run, VERMILLION) == 0 < pixels_of(without, VERMILLION)


def test_marker_is_hollow_where_nothing_is_grammatical(tmp_path: Path) -> None:
    full, hollow = tmp_path / "full.png", tmp_path / "hollow.png"
    draw_frontier([SFT, point("dpo", 1.0, 1.0, 1.0, beta=1.0)], full)
    draw_frontier([SFT, point("dpo", 1.0, 1.0, 0.81, beta=1.0)], hollow)  # same label, other fill
    assert pixels_of(full, BLUE) > pixels_of(hollow, BLUE) + 50


def test_kl_estimated_below_0_is_drawn_at_0(tmp_path: Path) -> None:
    draw_frontier([SFT | {"kl": -0.01}, point("ppo", -0.02, 0.1, beta=1.0)], tmp_path / "frontier.png")


def test_failure_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "frontier.png"
    path.write_bytes(b"old")

    def stop(*args: object, **named: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", stop)
    with pytest.raises(OSError, match="disk full"):
        draw_frontier([SFT], path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (DPO, "exactly one point with method 'sft', found 0"),
        ([SFT, SFT], "exactly one point with method 'sft', found 2"),
        ([SFT, point("grpo", 1.0, 1.0)], "found 'grpo'"),
        ([SFT, point("dpo", float("nan"), 1.0, beta=1.0)], "expected finite kl"),
    ],
)
def test_unusable_points_are_refused(points: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        draw_frontier(points, tmp_path / "frontier.png")
    assert not list(tmp_path.iterdir())


def test_labels_of_points_that_coincide_do_not_overlap_and_keep_off_the_lines() -> None:
    figure = Figure(figsize=(4, 3))
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    corners = np.array([[0, 1], [1, 1], [1, 2], [1, 1], [2, 2]])  # to the point, straight up, up to the right
    axes.plot(*corners.T)
    axes.set(xlim=(0, 2), ylim=(0, 2))
    canvas.draw()
    texts = ("second", "third", "first")
    place_labels(axes, [PointLabel(1, 1, text, "black", emphasised=text == "first") for text in texts])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["first", "second", "third"]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    along = np.concatenate([np.linspace(*ends, 200) for ends in pairwise(axes.transData.transform(corners))])
    assert not any(box.contains(x, y) for box in boxes for x, y in along)

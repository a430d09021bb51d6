"""The over-optimisation report: every number is the event files' own, and the page needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_rlhf.reports import overoptimisation, overoptimisation_figures
from lit_rlhf.reports.overoptimisation import Summary, write_overoptimisation_report
from lit_rlhf.reports.overoptimisation_best_of_n import Candidates
from lit_rlhf.reports.overoptimisation_runs import QUANTITIES, read_runs
from tests.reports.runs_on_disk import UPDATES, write_config, write_events

LENGTH = 40
HOSTILE = "</title><script>alert(1)</script> {{ 7 * 7 }} $\\frac{1}{0$"


class Page(HTMLParser):
    """Tags with their attributes, the text as a reader sees it, and the cells of each table row."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data.strip()

    def all(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]

    def drawn(self) -> list[str]:
        """The text alternatives of the figures."""
        return [a["aria-label"] or "" for tag, a in self.tags if tag == "svg" and "aria-label" in a]


def numbers(seed: int) -> dict[str, list[float]]:
    """A run that is over-optimised: KL and score rise, gold rises and falls, with some noise."""
    draw = np.random.default_rng(seed)
    time = np.linspace(0, 1, LENGTH)
    found = {
        "objective/kl": 16 * time**2,
        "objective/scores": 2 * time,
        "objective/gold": 4 * time * (2 - 3 * time),
        "objective/entropy": 1.8 - time,
        "rollout/response_length": 9 + 5 * time,
        "value/explained_variance": 0.9 * time,
    }
    noisy = {name: values + 0.01 * draw.normal(size=LENGTH) for name, values in found.items()}
    noisy["objective/kl"][0] = 0.0
    checked = [None] * LENGTH
    checked[9::10] = [0.25, 1.5, 0.5, -3.0]  # type: ignore[list-item]
    kept = {name: [float(np.float32(value)) for value in values] for name, values in noisy.items()}
    return {**kept, "objective/kl_coef": [0.05] * LENGTH, "val/objective/gold": checked}  # type: ignore[dict-item]


def shown(value: float) -> str:
    text = f"{value:.3g}"
    return ("0" if text == "-0" else text).replace("-", "−")


def report(out: Path, folders: list[Path], candidates: Candidates | None = None) -> tuple[Page, Summary]:
    said = write_overoptimisation_report(out, read_runs(folders), candidates, "Written today.")
    return Page(out.read_text(encoding="utf-8")), said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one setting and a run of another."""
    root = tmp_path_factory.mktemp("runs")
    for place, (name, seed, beta) in enumerate(
        (("free-seed0", 0, 0.0), ("free-seed1", 1, 0.0), ("leash", 0, 0.2))
    ):
        write_events(root / name, numbers(place))
        write_config(root / name, max_epochs=LENGTH, seed=seed, kl_coef=beta)
    return [root / name for name in ("free-seed0", "free-seed1", "leash")]


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    candidates = Candidates([[0.0, 1.0, 2.0, 3.0]] * 3, [[0.0, 1.0, 2.0, 1.0]] * 3, 1)
    return report(tmp_path_factory.mktemp("page") / "report.html", runs, candidates)[0]


def test_page_needs_nothing_but_itself_and_runs_nothing(page: Page) -> None:
    kinds = {tag for tag, _ in page.tags}
    assert not {"script", "link", "img", "iframe", "object", "base", "form", "image"} & kinds
    assert not page.all("style") and not page.all("src")
    assert not re.search(r"url\((?!#)|@import|https?:", page.source)
    sheet = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert sheet is not None
    digest = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and f"style-src 'sha256-{digest}'" in policy
    assert "prefers-color-scheme: dark" in sheet[1]


def test_figures_do_not_share_names_and_point_to_what_is_there(page: Page) -> None:
    names = page.all("id")
    assert len(names) == len(set(names)) > 10
    clips = [value[5:-1] for value in page.all("clip-path")]
    assert {*clips, *(value[1:] for value in page.all("href"))} <= set(names)


def test_each_figure_has_its_unit_and_its_text(page: Page) -> None:
    drawn = page.drawn()
    assert len(drawn) == len(QUANTITIES) + 2
    for quantity in QUANTITIES:
        assert any(text.startswith(f"{quantity.title}, {quantity.unit}, over iterations.") for text in drawn)
        assert quantity.unit in page.words  # the axis
    assert any(
        text.startswith("Gold reward against the root of the KL. free (2 seeds) reaches") for text in drawn
    )
    assert page.words.count("KL from the reference, nats a response (scale: its root)") == 2
    assert (
        page.words.count("iterations behind the policy")
        == page.words.count("optimizer updates")
        == len(QUANTITIES)
    )


@pytest.mark.parametrize("name", sorted({q.name for q in QUANTITIES} - {"objective/kl_coef"}))
def test_numbers_are_those_of_the_event_files(page: Page, name: str) -> None:
    for place, run in enumerate(("free-seed0", "free-seed1", "leash")):
        logged = np.array(numbers(place)[name])
        low, high = int(logged.argmin()), int(logged.argmax())
        assert [run, shown(logged[0]), shown(logged[-1]), f"{shown(logged[low])} at {low}",
                f"{shown(logged[high])} at {high}", str(LENGTH)] in page.rows  # fmt: skip


def test_validation_has_its_own_row_and_stands_one_iteration_later(page: Page) -> None:
    assert ["leash, validation", "0.25", "−3", "−3 at 40", "1.5 at 20", "4"] in page.rows


def test_table_says_where_gold_was_lost(page: Page) -> None:
    gold = np.array(numbers(0)["objective/gold"])
    means = np.convolve(gold, np.full(5, 0.2), mode="valid")  # 40 iterations: means over 5
    at = int(means.argmax())
    kl = np.mean(np.array(numbers(0)["objective/kl"])[at : at + 5])
    noise = np.sqrt((np.diff(gold) ** 2).mean() / 2 * 2 / 5)
    lost = f"{means.max() - means[-1]:.2g}"
    (row,) = [row for row in page.rows if row[0] == "free-seed0" and "kl_coef 0.0" in row[1]]
    assert row[1] == "seed_everything 0, kl_coef 0.0"
    assert row[2:4] == [str(LENGTH), str(LENGTH * UPDATES)]
    assert row[6:] == [str(at + 2), shown(float(kl)), f"{lost} ± {noise:.2g}"]
    assert (
        f"gold was highest about iteration {at + 2} ({shown(means.max())}, at {shown(float(kl))} nats"
        in page.text
    )
    assert "3 of 3 runs are over-optimised" in page.text


def test_fit_stands_in_a_row_of_its_group(page: Page) -> None:
    """By numpy's weighted straight line over the points of both seeds, each from its own start."""
    distances, gains = [], []
    for seed in (0, 1):
        kl, gold = (np.array(numbers(seed)[name]) for name in ("objective/kl", "objective/gold"))
        distances += np.sqrt(np.maximum(kl, 0)).tolist()
        gains += (gold - gold[0]).tolist()
    d, gained = np.array(distances), np.array(gains)
    d, gained = d[d > 0], gained[d > 0]
    slope, level = np.polyfit(np.log(d), gained / d, 1, w=d)
    (row,) = [row for row in page.rows if row[0] == "free (2 seeds)"]
    assert row[1:5] == ["d(α − β·log d)", str(len(d)), shown(level), shown(-slope)]
    assert row[6] == shown(np.exp(2 * (level / -slope - 1)))


def test_best_of_n_is_drawn_with_its_numbers(page: Page) -> None:
    # Of the four the score 3 is best, worth 1; of two, ranks 2, 3, 4 are best of 1, 2 and 3 of 6 pairs.
    assert ["best of 4", "0.636", "3"] in page.rows and ["best of 4", "0.636", "1"] in page.rows
    assert ["best of 2", "0.193", shown((1 + 4 + 9) / 6)] in page.rows
    assert ["best of 2", "0.193", shown((1 + 4 + 3) / 6)] in page.rows
    assert "best of 4" in page.words  # beside its point
    assert "Best-of-n: responses without a score, left out: 1." in page.text
    assert "best of n: the data do not support the fit: 2 points away from the start are too few" in page.text


def test_alone_a_run_is_judged_in_the_first_sentence(runs: list[Path], tmp_path: Path) -> None:
    page, said = report(tmp_path / "one.html", runs[:1])
    assert said.verdict.startswith("Over-optimised: gold was highest about iteration ")
    assert said.each == [] and said.cautions == []
    assert said.verdict in page.text
    assert "Best-of-n is drawn where a file" in page.text
    assert "what differs" not in page.text


def test_without_gold_the_page_says_that_nothing_can_be_seen(tmp_path: Path) -> None:
    write_events(tmp_path / "r", {"objective/kl": [0.0, 1.0], "objective/scores": [0.0, 1.0]})
    page, said = report(tmp_path / "r.html", [tmp_path / "r"])
    assert said.verdict.startswith("No gold reward was logged, so that over-optimisation cannot be seen")
    assert "There is none: it needs a gold reward on the rollouts" in page.text
    assert "Not logged by any run: gold reward, entropy, response length, kl coefficient" in page.text
    assert [text.split(" against")[0] for text in page.drawn() if "against" in text] == ["Score"]
    assert "config.yaml is not there" in page.text


def test_reader_is_warned_of_what_the_figures_do_not_show(tmp_path: Path) -> None:
    run = tmp_path / "r"
    gold = [0.0, float("nan"), *[1.0] * 6]
    write_events(
        run, {"objective/kl": [3.0, *[4.0] * 7], "objective/gold": gold}, alarms={4: "entropy <low>"}
    )
    write_config(run, max_epochs=20, reference={"every": 5})
    page, said = report(tmp_path / "r.html", [run])
    assert [line.removeprefix("r: ") for line in said.cautions] == [
        "its reference moves (every 5), so that KL is no distance from the start: neither the frontier nor the fit "
        "means much here.",
        "it starts 3 nats from its reference; R of the fit is measured from there.",
        "values of objective/gold that are not finite, left out: 1.",
        "8 of 20 iterations; still going, or stopped.",
    ]
    assert all(line in page.text for line in said.cautions)
    assert "r, iteration 4 entropy <low>" in page.text


def test_first_iteration_that_is_not_the_start_is_said(tmp_path: Path) -> None:
    write_events(tmp_path / "r", {"objective/kl": [3.0, 4.0]}, first=5)
    assert "r: the first iteration logged is 5, which is taken for the start." in report(
        tmp_path / "r.html", [tmp_path / "r"]
    )[1].cautions  # fmt: skip


def test_validations_alone_are_points_without_a_fit(tmp_path: Path) -> None:
    write_events(tmp_path / "dpo", {"val/objective/kl": [1.0, 2.0], "val/objective/gold": [0.5, 0.75]})
    page, _ = report(tmp_path / "r.html", [tmp_path / "dpo"])
    assert "dpo on validation prompts reaches 0.75 at 2 nats and goes no further." in page.text
    assert "There is none: it needs a gold reward on the rollouts" in page.text
    assert "Measured on validation prompts only." in page.text


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    run = tmp_path / HOSTILE.replace("/", "_")
    for name, beta in ((run, HOSTILE), (tmp_path / "b", "plain")):
        write_events(name, {"objective/kl": [0.0, 1.0]}, alarms={0: HOSTILE})
        write_config(name, reward=beta)
    page, _ = report(tmp_path / "r.html", [run, tmp_path / "b"])
    assert f"reward {HOSTILE}" in page.text
    assert page.text.count(run.name) > 3
    assert "script" not in {tag for tag, _ in page.tags}


def test_critic_far_below_the_mean_does_not_flatten_its_figure(tmp_path: Path) -> None:
    write_events(tmp_path / "r", {"objective/kl": [0.0] * 3, "value/explained_variance": [-200.0, 0.0, 0.5]})
    page, _ = report(tmp_path / "r.html", [tmp_path / "r"])
    assert "Values below −1 lie under the figure." in page.text
    assert "−1.00" in page.words and "−150" not in page.words  # ticks


def test_long_run_is_drawn_in_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overoptimisation_figures, "MOST_POINTS", 4)
    across, up = overoptimisation_figures._thinned(range(8), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0])
    assert (across, up) == ([0.5, 2.5, 4.5, 6.5], [1.0, 5.0, 9.0, 13.0])


def test_many_alarms_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overoptimisation, "MOST_ALARMS", 2)
    write_events(tmp_path / "r", {"objective/kl": [0.0] * 5}, alarms={i: f"alarm {i}" for i in range(5)})
    page, _ = report(tmp_path / "r.html", [tmp_path / "r"])
    assert "alarm 1" in page.text and "alarm 2" not in page.text
    assert "and 3 more, in TensorBoard’s text tab" in page.text

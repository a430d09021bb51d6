"""The reward report: every number in its place, whatever the data hold, and a page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from lit_rlhf.metrics.evaluation import Evaluation, ReliabilityBin
from lit_rlhf.metrics.groups import Group
from lit_rlhf.metrics.intervals import Interval
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.records import Row, Vote
from lit_rlhf.reports import page as page_module
from lit_rlhf.reports.foreign_text import one_line, shown
from lit_rlhf.reports.reward_figures import MOST_POINTS, draw_shares
from lit_rlhf.reports.reward_figures import Share as DrawnShare
from lit_rlhf.reports.reward_numbers import cautions, headline_table, verdict
from lit_rlhf.reports.reward_report import Subject, write_reward_report
from lit_rlhf.reports.wrong_pairs import describe_wrong_pair

HOSTILE = [
    "</div></script><script>document.title='owned'</script><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %} $\\frac{1}{0$ <b>bold</b> \"quoted\" 'too'",
    "\u202eturned round\u202c, half a pair \ud800, \x00 and \x1b[31m",
]


def interval(mean: float, half: float = 0.03, unit: str = "prompt") -> Interval:
    return Interval(mean, mean - half, mean + half, unit, 500)


def judged(target: list[float], better: list[float], worse: list[float]) -> Judged:
    """Pairs whose first response is called better; lengths are 10, 11, 12, ... and 20, 21, 22, ... tokens."""
    count = len(target)
    first, second = torch.tensor(better), torch.tensor(worse)
    lengths = torch.arange(10, 10 + count), torch.arange(20, 20 + count)

    def woven(one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one, other], 1).flatten()

    zeros, ones = torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.long)
    return Judged(
        row=torch.arange(count),
        better=zeros,
        worse=ones,
        better_scores=first,
        worse_scores=second,
        probability=torch.sigmoid(first - second),
        target=torch.tensor(target),
        tie=torch.zeros(count),
        better_lengths=lengths[0],
        worse_lengths=lengths[1],
        response_row=torch.arange(count).repeat_interleave(2),
        response=woven(zeros, ones),
        scores=woven(first, second),
        ranks=woven(ones.float(), 2 * ones.float()),
        lengths=woven(*lengths),
        disagreement=torch.zeros(2 * count),
    )


FOUR = judged([1.0, 1.0, 0.5, 0.2], [2.0, -1.0, 0.0, 3.0], [1.0, 1.5, 0.1, 1.0])
ROWS = [
    Row("which soup", ["tasty", "late"], votes=[Vote("ann", 1), Vote("bob", 1)], place="val.jsonl:1"),
    Row(HOSTILE[0], [HOSTILE[1], HOSTILE[2]], domain=HOSTILE[0], place="val.jsonl:2"),
    Row("which tie", ["a", "b"], id="tied"),
    Row(
        [{"role": "user", "content": "which\ncake"}],
        ["the first cake", [{"role": "assistant", "content": "the second cake"}]],
        votes=[Vote("ann", 0), Vote("bob", 0), Vote("cai", 0), Vote("dee", 1), Vote("eve", 0.5)],
        domain="food",
        id="row-3",
    ),
]
BARE = Evaluation(
    comparisons=4,
    strict=3,
    prompts=4,
    accuracy=interval(0.731),
    baselines={"longer wins": interval(0.552), "bag of words": interval(0.613)},
    minus_baselines={"longer wins": interval(0.179), "bag of words": interval(0.118)},
    log_loss=interval(0.581),
    noise_floor=None,
    ece=0.034,
    reliability=[ReliabilityBin(0.55, 0.5, 2), ReliabilityBin(0.9, 1.0, 1)],
    kendall_tau=None,
    top1=None,
    tied_prompts=0,
    by_domain=[],
    by_agreement=[],
    by_length_difference=[],
    length_correlation=0.12,
    length_correlation_overall=-0.21,
    disagreement=None,
    vote_accuracy=None,
    vote_ceiling=None,
    human_accuracy=None,
    accuracy_beside_humans=None,
    worst=[3, 1],
)
FULL = replace(
    BARE,
    noise_floor=0.412,
    kendall_tau=interval(0.344),
    top1=interval(0.525),
    tied_prompts=7,
    by_domain=[Group("food", 600, interval(0.755)), Group(HOSTILE[1], 400, interval(0.705))],
    by_agreement=[Group("all agree", 300, interval(0.831))],
    by_length_difference=[Group("-380 to -100", 280, interval(0.518))],
    disagreement=0.087,
    vote_accuracy=interval(0.682),
    vote_ceiling=0.791,
    human_accuracy=interval(0.722),
    accuracy_beside_humans=interval(0.743),
)


class Page(HTMLParser):
    """Tags with their attributes, and the text as a reader sees it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


def write(path: Path, evaluation: Evaluation = FULL, what: Judged = FOUR, rows: Any = ROWS) -> str:
    subject = Subject("runs/<sft>/export", [("model", "a & b")], ["The run went on."], "Written today.")
    write_reward_report(path / "reward-report.html", evaluation, what, rows, subject)
    return (path / "reward-report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of all that there can be."""
    return write(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_page_needs_nothing_but_itself_and_runs_nothing(source: str, page: Page) -> None:
    counts = Counter(tag for tag, _ in page.tags)
    assert not {"script", "link", "img", "iframe", "object", "base", "form", "image"} & set(counts)
    assert counts["style"] == 1
    assert not page.all("style") and not page.all("src")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(value.startswith("#") for value in page.all("href"))
    assert not re.search(r"url\((?!#)|@import|https?:", source)
    sheet = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert sheet is not None
    digest = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]


def test_figures_do_not_share_names_and_point_to_what_is_there(page: Page) -> None:
    names = page.all("id")
    assert len(names) == len(set(names)) > 10
    clips = [value[5:-1] for value in page.all("clip-path")]
    assert clips
    assert {*clips, *(value[1:] for value in page.all("href"))} <= set(names)


def test_text_of_the_data_stays_text(page: Page) -> None:
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text  # braces are no template, dollars no formula
    assert "⟨U+202E⟩turned round⟨U+202C⟩, half a pair ⟨U+D800⟩, ⟨U+0000⟩ and ⟨U+001B⟩[31m" in page.text
    assert page.text.count("runs/<sft>/export") == 2  # title and heading
    drawn = [one_line(HOSTILE[1], 22), "food"]
    assert all(name in page.words for name in drawn)  # a label of the domain figure each


def test_megabytes_are_cut_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [replace(row, responses=["x" * 3_000_000, "\u0301" * 2_000_001]) for row in ROWS]
    source = write(tmp_path, rows=rows)
    assert len(source) < 300_000
    assert "2,998,000 more characters not shown" in source
    assert "1,998,001 more characters not shown" in source


def test_headline_numbers_stand_beside_what_they_are_measured_against(page: Page) -> None:
    text = page.text
    assert "Right on 73.1% of 3 strict comparisons (95% interval 70.1% to 76.1%)" in text
    assert "right of 3 strict comparisons of single votes of majorities of the others" in text
    rows = [
        "this model 73.1% [70.1, 76.1] 68.2% [65.2, 71.2] 74.3% [71.3, 77.3]",
        "longer wins 55.2% [52.2, 58.2] – –",
        "bag of words 61.3% [58.3, 64.3] – –",
        "one person – – 72.2% [69.2, 75.2]",
        "the most any model can reach – 79.1% –",
        "log-loss, nats 0.581 [0.551, 0.611]",
        "noise floor, nats 0.412",
        "expected calibration error 0.034",
        "Kendall’s τ 0.344 [0.314, 0.374]",
        "best response found 52.5% [49.5, 55.5]",
        "score with length, within prompts 0.120",
        "score with length, overall −0.210",
        "disagreement of the components 0.087",
    ]
    places = [text.find(row) for row in rows]
    assert -1 not in places and places == sorted(places)
    assert "7 fully tied prompts left out" in text


def test_what_the_data_do_not_hold_is_left_out_or_said_to_be_missing(tmp_path: Path) -> None:
    text = Page(write(tmp_path, BARE)).text
    assert "right of 3 strict comparisons this model 73.1% [70.1, 76.1] longer wins" in text
    assert "noise floor, nats –" in text
    assert "Kendall’s τ – needs rows with more than two judged responses; there are none" in text
    assert not [title for title in ("By domain", "By agreement", "By difference of length") if title in text]
    assert "disagreement of the components" not in text


def test_counts_say_what_was_compared(page: Page) -> None:
    assert (
        "comparisons 4, on 4 different prompts: 3 strict, 1 even (ties, or as many votes for either)"
        in page.text
    )
    assert "responses 8" in page.text


def test_one_domain_is_no_picture(tmp_path: Path) -> None:
    one = replace(BARE, by_domain=[Group("food", 3, interval(0.731))])
    assert "By domain" not in write(tmp_path, one)


def test_without_strict_comparisons_there_is_a_page_without_accuracy(tmp_path: Path) -> None:
    ties = judged([0.5, 0.5], [1.0, 0.0], [0.0, 0.0])
    nothing = replace(
        BARE,
        comparisons=2,
        strict=0,
        accuracy=None,
        baselines={},
        minus_baselines={},
        worst=[],
        reliability=[],
    )
    text = Page(write(tmp_path, nothing, ties)).text
    assert "None of the 2 comparisons says that one response is better" in text
    assert "There is nothing to show" in text
    assert "Does it know how sure to be?" not in text and "Score differences" not in text


def test_scores_that_are_no_numbers_are_counted_and_left_out_of_pictures(tmp_path: Path) -> None:
    broken = judged([1.0, 1.0, 1.0], [float("nan"), 2.0, 1.0], [0.0, float("inf"), 1.0])
    text = Page(write(tmp_path, replace(BARE, worst=[0]), broken)).text
    assert "1 with equal scores" in text
    assert "2 are not finite and not drawn" in text
    assert "2 scores are not finite and left out" in text


def test_differences_are_counted_on_the_side_that_people_prefer(page: Page) -> None:
    # the last one's judgement is for the response that is called worse, which has the lower score
    labels = page.all("aria-label")
    assert "Score differences: 1 above 0, where the model is right, 2 below." in labels


def test_scatter_plot_is_thinned_out_and_says_so(tmp_path: Path) -> None:
    count = MOST_POINTS
    many = judged([1.0] * count, torch.randn(count).tolist(), torch.randn(count).tolist())
    source = write(tmp_path, replace(BARE, worst=[]), many)
    assert "1,000 of the 2,000 responses are drawn" in source
    drawn = re.search(r'<svg[^>]*aria-label="Score against length.*?</svg>', source, re.DOTALL)
    assert drawn is not None
    assert 1000 <= drawn[0].count("<use") < 1100  # ticks and the line's marks beside the points


def test_numbers_of_a_figure_stand_in_its_description() -> None:
    figure = draw_shares("some", [DrawnShare("a & b", 0.5, 0.25, 0.75, 1234)])
    assert 'aria-label="Shares right with 95% intervals: a &amp; b 0.500 [0.250, 0.750]."' in figure
    assert ">1,234</text>" in figure


def test_name_with_dollars_is_no_formula() -> None:
    assert ">$\\frac{0$</text>" in draw_shares("some", [DrawnShare("$\\frac{0$", 0.5, 0.25, 0.75)])


def test_wrong_pair_shows_first_what_people_preferred() -> None:
    pair = describe_wrong_pair(FOUR, 3, ROWS)  # 80 % of the judgement is for the second response
    assert pair.summary == "says 11.9% for what people preferred"  # sigma(-2)
    assert [(side.kind, side.score, side.length) for side in pair.sides] == [
        ("people", "1.000", "23"),
        ("model", "3.000", "13"),
    ]
    assert [side.text and side.text.text for side in pair.sides] == [
        "assistant: the second cake",
        "the first cake",
    ]
    assert pair.prompt is not None and pair.prompt.text == "user: which\ncake"
    assert pair.judged == "votes: 3 for it, 1 against, 1 for a tie · domain food · row 3 (row-3)"
    other = describe_wrong_pair(FOUR, 0, ROWS)
    assert other.sides[0].score == "2.000"
    assert other.judged == "votes: 2 for it, 0 against · row 0 (val.jsonl:1)"


def test_share_of_votes_is_told_where_the_votes_are_not() -> None:
    assert "80% of the judgement is for it" in describe_wrong_pair(FOUR, 3, [Row("p", ["a", "b"])] * 4).judged


def test_pairs_without_texts_are_shown_by_their_scores(tmp_path: Path) -> None:
    text = Page(write(tmp_path, rows=[])).text
    assert "Their texts are not at hand" in text
    assert "people preferred · score 1.000 · 23 tokens" in text
    assert "row 3" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"minus_baselines": {"longer wins": interval(0.02)}}, "not shown to beat “longer wins”: the difference in "
         "accuracy is +2.0 points, 95% interval −1.0 to +5.0"),
        ({"log_loss": interval(0.7)}, "worse than a coin’s (log-loss 0.700 > 0.693)"),
        ({"length_correlation": 0.31}, "correlation +0.31): a policy trained on it may learn to write longer"),
        ({"length_correlation": -0.4}, "correlation −0.40): a policy trained on it may learn to write shorter"),
        ({"minus_baselines": {"longer wins": interval(-0.05)}}, "It is worse than “longer wins”: the difference in "
         "accuracy is −5.0 points, 95% interval −8.0 to −2.0"),
        ({"accuracy": interval(0.7, unit="row")}, "1 of the 6 intervals, marked “by row”, rest on fewer than 20"),
        ({"by_domain": [Group("food", 3, interval(0.7, unit="row"))]}, "1 of the 7 intervals, marked “by row”"),
        ({"strict": 99}, "only 99 strict comparisons"),
    ],
)  # fmt: skip
def test_reader_is_warned(changes: dict[str, Any], said: str) -> None:
    sound = replace(BARE, strict=100)
    assert cautions(sound) == []
    assert [said in line for line in cautions(replace(sound, **changes))] == [True]


def by_row(evaluation: Evaluation) -> Evaluation:
    """The same numbers with every interval by row."""
    few = partial(replace, unit="row")
    return replace(
        evaluation,
        prompts=9,
        accuracy=few(evaluation.accuracy),
        log_loss=few(evaluation.log_loss),
        baselines={name: few(share) for name, share in evaluation.baselines.items()},
        minus_baselines={name: few(share) for name, share in evaluation.minus_baselines.items()},
    )


def test_all_intervals_by_row_are_one_caution() -> None:
    (said,) = cautions(by_row(replace(BARE, strict=100)))
    assert said.startswith("There are only 9 different prompts. Intervals are taken by row, as if rows were")


def test_intervals_by_row_are_marked_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    mixed = replace(
        FULL,
        top1=interval(0.525, unit="row"),
        by_domain=[FULL.by_domain[0], Group("b", 4, interval(0.7, unit="row"))],
    )
    page = Page(write(tmp_path, mixed))
    assert "best response found 52.5% [49.5, 55.5] by row" in page.text
    assert "this model 73.1% [70.1, 76.1] 68.2%" in page.text
    assert "b 70.0% [67.0, 73.0] by row 4" in page.text
    assert "b*" in page.words and "food" in page.words
    assert "*: its interval is by row, since prompts are few." in page.text
    note = "95% intervals are by prompt: whole prompts are resampled. Where it says “by row”, whole rows are resampled"
    assert note in page.text
    printed = printed_table(mixed)
    assert "best response found 52.5% [49.5, 55.5] by row" in printed
    assert "of 3 strict comparisons: this model 73.1% [70.1, 76.1]\n" in printed
    assert note in " ".join(printed.split())


def test_page_and_terminal_name_what_intervals_are_by(page: Page, tmp_path: Path) -> None:
    prompts, rows = "95% intervals are by prompt: whole prompts", "95% intervals are by row: whole rows"
    assert prompts in page.text and "by row" not in " ".join(page.text.split("How the numbers are made")[:1])
    assert prompts in printed_table(FULL)
    assert rows in Page(write(tmp_path, by_row(BARE))).text
    assert rows in printed_table(by_row(BARE))


def printed_table(evaluation: Evaluation) -> str:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(headline_table(evaluation))
    return "\n".join(" ".join(line.split()) for line in out.getvalue().splitlines())


def test_cautions_of_the_run_stand_on_the_page(page: Page) -> None:
    text = page.text
    assert "Read with care" in text and "The run went on." in text


def test_terminal_table_has_the_numbers_and_their_intervals() -> None:
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(headline_table(FULL))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "of 3 strict comparisons: this model 73.1% [70.1, 76.1]" in lines
    assert "of 3 strict comparisons: bag of words 61.3% [58.3, 64.3]" in lines
    assert "of single votes: the most any model can reach 79.1%" in lines
    assert "noise floor, nats 0.412" in lines
    assert verdict(FULL).startswith("Right on 73.1% of 3")


def test_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reward-report.html").write_text("old")

    def stop(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(page_module.os, "replace", stop)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path)
    assert (tmp_path / "reward-report.html").read_text() == "old"


def test_line_ends_and_joined_signs_are_kept() -> None:
    family = "👩\u200d👧"
    assert shown(f"a\r\nb\tc {family}", 100) == (f"a\nb\tc {family}", 0)
    assert one_line("a" * 30, 10) == "a" * 9 + "…"
    assert one_line("x" + " " * 90 + "y", 10) == "x…"

"""The page of a loop: its numbers, its sentence, its cautions; hostile settings; nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lit_rlhf.reports.loop import table, write_loop_page
from lit_rlhf.reports.loop_words import cautions, verdict


def interval(mean: float, half: float = 0.05, unit: str = "prompt") -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "unit": unit, "count": 100}


START = {"gold": interval(-0.6), "kl": None}


def round_of(number: int, **changes: Any) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "round": number, "judgements": 220, "labels": 200, "labels_so_far": 200 * number, "held_out": 20,
        "seconds": 90.0,
        "gold": interval(0.5 * number), "kl": interval(1.5 + number), "agreement": None, "alpha": None,
        "accuracy_held_out": interval(0.7), "accuracy_before": interval(0.68) if number > 1 else None,
        "wins_by_annotators": interval(0.6), "wins_by_reward": interval(0.8),
    }  # fmt: skip
    return {**numbers, **changes}


def page(folder: Path, rounds: list[dict[str, Any]], start: dict[str, Any] = START, **settings: str) -> str:
    results = {"settings": list(settings.items()), "start": start, "rounds": rounds}
    write_loop_page(folder / "loop.html", results, "runs/<b>", "footer")
    return (folder / "loop.html").read_text()


def test_every_number_is_in_the_table() -> None:
    rows = {row.name: row.cells for row in table(START, [round_of(1), round_of(2, wins_by_annotators=None)])}
    gold = [cell and (cell.value, cell.interval) for cell in rows["gold"]]
    assert gold == [("-0.60", "[-0.65, -0.55]"), ("0.50", "[0.45, 0.55]"), ("1.00", "[0.95, 1.05]")]
    wins = [cell and (cell.value, cell.interval) for cell in rows["wins by annotators"]]
    assert wins == [None, ("60.0 %", "[55.0, 65.0]"), None]
    assert [cell and cell.value for cell in rows["labels so far"]] == [None, "200", "400"]
    assert [cell and cell.value for cell in rows["minutes, waiting for people left out"]] == [
        None,
        "1.5",
        "1.5",
    ]
    assert "annotators’ agreement" not in rows, "nothing was judged twice"


def test_a_share_without_an_interval_has_none() -> None:
    (row,) = [row for row in table({}, [round_of(1, agreement={"mean": 0.7, "low": None, "high": None})])
              if row.name == "annotators’ agreement"]  # fmt: skip
    assert [(cell.value, cell.interval) for cell in row.cells if cell] == [("70.0 %", "")]


def test_the_sentence_is_of_the_last_policy_that_was_looked_at() -> None:
    unseen = round_of(3, gold=None, kl=None, wins_by_annotators=None, wins_by_reward=None)
    said = verdict(START, [round_of(1), round_of(2), unseen])
    assert (
        said == "3 rounds, 600 labels so far. Gold went from -0.60 to 1.00 in round 2, at a KL of 3.5 nats."
    )
    judged = round_of(1, gold=None, kl=None)
    assert verdict({}, [judged]).endswith("By annotators, round 1 wins 60% against the loop’s model.")
    judged["wins_by_annotators"] = None
    assert verdict({}, [judged]).endswith(
        "By the newest reward model, round 1 wins 80% against the loop’s model."
    )
    assert verdict({}, [unseen]).endswith("No policy has been looked at yet.")
    assert verdict({}, []) == "No round has labels yet."


def test_what_to_be_careful_of() -> None:
    fine = [round_of(1), round_of(2)]
    assert cautions(fine) == []
    lost = round_of(2, accuracy_before=interval(0.55), accuracy_held_out=interval(0.75))
    assert "right on 55% of the new labels" in cautions([round_of(1), lost])[0]
    assert (
        "that round’s policy is the better one" in cautions([round_of(1), round_of(2, gold=interval(0.3))])[0]
    )
    assert "fewer than 20 different prompts" in cautions([round_of(1, gold=interval(0.5, unit="row"))])[0]
    alone = round_of(1, gold=None, wins_by_annotators=None)
    assert "the reward model that trained them alone" in cautions([alone])[0]


def test_the_page_has_its_pictures_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    text = page(tmp_path, [round_of(1), round_of(2)], model="<script>alert(1)</script>\u202e", policy="dpo")
    assert text.count("<figure>") == 4 and text.count('role="img"') == 4
    assert "Gold against KL. start: gold -0.60 at 0.00 nats; round 1: gold 0.50 at 2.50 nats" in text
    assert (
        "<script" not in text and "&lt;script&gt;" in text and "⟨U+202E⟩" in text and "runs/&lt;b&gt;" in text
    )
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?://|url\(http|@import", outside)
    assert "default-src 'none'" in text
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(identifiers)) == len(identifiers)


def test_a_loop_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    text = page(tmp_path, [], start={"gold": None})
    assert "No round has labels yet." in text and "<figure>" not in text
    waiting = dict.fromkeys(round_of(1)) | {"round": 1, "judgements": 3, "seconds": 4.0}
    assert "round 1" in page(tmp_path, [waiting], start={})

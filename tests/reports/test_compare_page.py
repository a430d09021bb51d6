"""The page of a comparison: its figures and samples; hostile texts; nulls; many methods; nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.reports import compare_figures
from lit_rlhf.reports.compare import command_again, draw_compare
from lit_rlhf.reports.compare_figures import Place, are_named, draw_against_kl, look_of
from lit_rlhf.reports.compare_resampling import Estimate
from lit_rlhf.reports.compare_samples import collect_samples
from tests.reports.compare_on_disk import PROMPTS, cell, method, results, undone, write_comparison, write_rows


def drawn(out: Path) -> str:
    draw_compare(out)
    return (out / "compare.html").read_text()


def three(**settings: Any) -> dict[str, Any]:
    return results(
        method("dpo", cell(0, 1.0), cell(1, 1.25)),
        method("ipo", cell(0, 2.0, kl=[9.0] * PROMPTS), cell(1, 2.25)),
        method("kto", cell(0, 0.5), undone(1, "failed", "loss is NaN at update 31")),
        start={"gold": [-0.5] * PROMPTS, "tokens": [12] * PROMPTS},
        seeds=[0, 1],
        **settings,
    )


def test_every_figure_has_its_numbers_in_words_and_in_a_table(tmp_path: Path) -> None:
    text = drawn(write_comparison(tmp_path, three()))
    assert text.count("<figure>") == 4 and text.count('role="img"') == 4 == text.count("<summary>the numbers")
    labels = re.findall(r'aria-label="([^"]+)"', text)
    (frontier,) = [label for label in labels if label.startswith("Gold against KL")]
    assert "start: −0.500 [−0.500, −0.500] at 0 nats; dpo: 1.12" in frontier and "kto: 0.500" in frontier
    assert any(label.startswith("Held-out accuracy. dpo: 75.0 %") for label in labels)
    assert any(label.startswith("CPU seconds in training. dpo: 60.0") for label in labels)
    for name in ("dpo", "ipo", "kto", "start"):
        assert re.search(rf"<text[^>]*>{name}</text>", text), "named in the figure"
    assert "loss is NaN at update 31" in text and "1 of 2</td>" in text


def test_nothing_is_asked_of_the_network_and_identifiers_are_unique(tmp_path: Path) -> None:
    text = drawn(write_comparison(tmp_path, three()))
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?://|url\(http|@import|<script", outside)
    assert "default-src 'none'" in text and " style=" not in text
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(identifiers)) == len(identifiers)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e$x$ \\frac{"
    turns = [{"role": "user", "content": evil}]
    content = results(
        method("<b>$a$", cell(0, 1.0), undone(1, "failed", evil), settings={evil: evil, "same": 1}),
        method("日本 $\\frac{$", cell(0, 2.0), settings={evil: 3, "same": 1}),
        start={"gold": [0.0] * PROMPTS}, model=evil,
    )  # fmt: skip
    out = write_comparison(tmp_path, content, [turns if place % 2 else evil for place in range(PROMPTS)])
    for path in out.rglob("responses.jsonl"):
        write_rows(path, [turns if place % 2 else evil for place in range(PROMPTS)], [evil] * PROMPTS)
    (out / "commands.sh").write_text(evil)
    text = drawn(out)
    assert "<script" not in text and "\u202e" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩" in text
    assert "&lt;b&gt;$a$" in text and "日本 $\\frac{$" in text


def test_twenty_five_methods_are_told_apart_by_number_colour_and_marker(tmp_path: Path) -> None:
    assert len({look_of(place) for place in range(25)}) == 25
    assert all(
        look_of(place).colour != look_of(place + 1).colour
        and look_of(place).marker != look_of(place + 1).marker
        for place in range(24)
        if place % 5 != 4
    )
    assert are_named(["dpo", "ipo"]) and not are_named(["a"] * 7) and not are_named(["a" * 17])
    names = [f"method-{place:02}" for place in range(25)]
    methods = [
        method(name, cell(0, 0.1 * place, kl=[1.0 + place] * PROMPTS)) for place, name in enumerate(names)
    ]
    text = drawn(write_comparison(tmp_path, results(*methods)))
    frontier = text[text.index('aria-label="Gold against KL') : text.index('aria-label="Held-out')]
    for number, name in enumerate(names, 1):
        assert re.search(rf"<text[^>]*>{number}</text>", frontier)
        assert f'<span class="place">{number}</span> <bdi>{name}</bdi>' in text
        assert re.search(rf"<text[^>]*>{number} {name}</text>", text), "beside its row in the other figures"


def test_settings_have_a_column_for_each_of_a_few_methods(tmp_path: Path) -> None:
    content = results(
        method("dpo", cell(), settings={"data.my_beta": None}),
        method("ipo", cell(), settings={"data.my_beta": 0.3}),
    )
    text = drawn(write_comparison(tmp_path, content))
    assert '<th scope="col"><span class="place">2</span> <bdi>ipo</bdi></th></tr></thead>' in text
    row = '<th scope="row"><bdi>data.<wbr>my_<wbr>beta</bdi></th><td><bdi>default</bdi></td><td><bdi>0.3</bdi></td>'
    assert row in text


def test_labels_of_many_methods_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[Any] = []
    write = compare_figures._write_labels

    def written(figure: Any, axes: Any, labels: Any) -> None:
        write(figure, axes, labels)
        boxes.extend(text.get_window_extent() for text in axes.texts if text.get_text())

    def number(mean: float) -> Estimate:
        return Estimate(mean, mean - 0.05, mean + 0.05, 5, 100, False, 0)

    monkeypatch.setattr(compare_figures, "_write_labels", written)
    places = [
        Place(f"m{place}", place + 1, number(4.0 + 0.7 * (place // 5)), number(0.015 * (place % 5)), [])
        for place in range(25)
    ]
    draw_against_kl(places, -0.5, "gold", False, "description")
    assert len(boxes) == 26
    overlaps = [
        (one, other) for place, one in enumerate(boxes) for other in boxes[:place] if one.overlaps(other)
    ]
    assert not overlaps


def test_what_was_not_measured_is_left_out_and_said(tmp_path: Path) -> None:
    bare = dict.fromkeys(cell()) | {"seed": 0, "state": "done"}
    text = drawn(write_comparison(tmp_path / "bare", results(method("dpo", bare), method("ipo", dict(bare)))))
    assert (
        "<figure>" not in text and "Not measured, of any method: held-out accuracy, gold, reward, KL" in text
    )
    assert "No comparison could be made." in text
    waiting = results(method("dpo", undone(0, "missing", "not run yet")), method("ipo", undone(0)))
    assert "0 of 2 runs are done" in drawn(write_comparison(tmp_path / "waiting", waiting))
    no_kl = results(method("dpo", cell(0, 1.0)), method("ipo", cell(0, 2.0, kl=None)))
    text = drawn(write_comparison(tmp_path / "no-kl", no_kl))
    assert "Not in it, for want of one of the two numbers: ipo." in text
    neither = results(
        method("dpo", cell(0, gold=None, reward=None)), method("ipo", cell(0, gold=None, reward=None))
    )
    assert "There is no figure against KL" in drawn(write_comparison(tmp_path / "neither", neither))


def test_prompts_are_drawn_before_the_result_is_looked_at_and_the_rest_labelled(tmp_path: Path) -> None:
    apart = [0.0] * PROMPTS
    first = collect_samples(write_comparison(tmp_path / "a", three()), three())
    drawn_prompts = [sample.prompt.text for sample in first.shown if sample.why == "drawn by lot"]
    assert len(drawn_prompts) == 8
    free = [place for place in range(PROMPTS) if f"prompt {place}" not in drawn_prompts]
    for place, gap in zip(free, (1.0, 3.0, 2.0, 0.5)):
        apart[place] = gap
    content = results(method("dpo", cell(0, 0.0)), method("ipo", cell(0, gold=apart)))
    samples = collect_samples(write_comparison(tmp_path / "b", content), content)
    assert [sample.prompt.text for sample in samples.shown[:8]] == drawn_prompts
    chosen = [(sample.why, sample.prompt.text) for sample in samples.shown[8:]]
    expected = [f"prompt {free[place]}" for place in (1, 2, 0)]
    assert chosen == [("chosen: methods differ most in gold", prompt) for prompt in expected]
    assert "then the 3 of the others" in samples.note


def test_a_card_has_the_response_of_the_first_done_seed_with_its_numbers(tmp_path: Path) -> None:
    content = three()
    content["methods"][0]["seeds"][0] = undone(0)
    out = write_comparison(tmp_path, content)
    rows = [f"prompt {place}" for place in range(PROMPTS)]
    (out / "ipo/seed-0/responses.jsonl").write_text(
        "".join(f'{{"prompt": "{prompt}", "responses": [""], "finished": [false]}}\n' for prompt in rows)
    )
    cards = collect_samples(out, content).shown[0].cards
    place = collect_samples(out, content).shown[0].prompt.text.removeprefix("prompt ")
    assert [(card.name, card.numbers, card.text.text) for card in cards] == [
        ("the start", "gold −0.50", f"start says {place}"),
        ("dpo, seed 1", "gold 1.25 · 4.0 nats", f"dpo 1 says {place}"),
        ("ipo, seed 0", "gold 2.00 · 9.0 nats · cut off at the limit", ""),
        ("kto, seed 0", "gold 0.50 · 4.0 nats", f"kto 0 says {place}"),
    ]
    assert "(empty)" in drawn(out)


def test_responses_that_are_not_at_hand_are_said_with_the_reason(tmp_path: Path) -> None:
    content = three()
    content["methods"].append(method("raft", undone(0)))
    out = write_comparison(tmp_path, content)
    (out / "start/responses.jsonl").unlink()
    (out / "ipo/seed-0/responses.jsonl").write_text('{"prompt": "x"}\n')
    write_rows(out / "kto/seed-0/responses.jsonl", ["other"] * PROMPTS, ["x"] * PROMPTS)
    samples = collect_samples(out, content)
    assert samples.left_out == [
        "raft: no run of it is done",
        "the start: start/responses.jsonl is missing",
        "ipo, seed 0: ipo/seed-0/responses.jsonl:1: expected a row with prompt and responses",
        "kto, seed 0: kto/seed-0/responses.jsonl: row 1 has another prompt than dpo, seed 0",
    ]
    assert [card.name for card in samples.shown[0].cards] == ["dpo, seed 0"]
    write_rows(out / "kto/seed-0/responses.jsonl", ["other"], ["x"])
    assert "expected 24 rows as dpo, seed 0, found 1" in collect_samples(out, content).left_out[-1]
    assert "start/responses.jsonl is missing" in drawn(out)


def test_the_command_makes_it_again(tmp_path: Path) -> None:
    content = three(val="my val.jsonl", gold="gold.py:score", samples=256, max_new_tokens=32)
    assert command_again(content, Path("out")) == (
        "lit-rlhf compare --configs dpo.yaml ipo.yaml kto.yaml --model start --data pairs.jsonl --val 'my val.jsonl' "
        "--gold gold.py:score --seeds 2 --updates 300 --samples 256 --max-new-tokens 32 --out out"
    )
    content["settings"] |= {"samples": 0, "data": ["a.jsonl", "b.jsonl"]}
    assert " --data a.jsonl b.jsonl " in command_again(content, Path("out"))
    assert "--samples" not in command_again(content, Path("out"))
    content["settings"]["budget"] = {"seconds": 60.0}
    content["settings"]["seeds"] = [3, 5]
    assert "--seeds 3 5 --seconds 60 " in command_again(content, Path("out"))
    content["settings"]["seeds"] = [0, 1]
    typed = {**content, "command": ["lit-rlhf", "compare", "--configs", "my dpo.yaml", "--seeds", "2"]}
    assert command_again(typed, Path("out")) == "lit-rlhf compare --configs 'my dpo.yaml' --seeds 2"
    out = write_comparison(tmp_path, content)
    assert "commands.sh</summary>" not in drawn(out)
    (out / "commands.sh").write_text("lit-rlhf fit --config dpo.yaml\n")
    assert "lit-rlhf fit --config dpo.yaml" in drawn(out)

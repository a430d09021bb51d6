"""Files as other tools write them, and what is made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.labelling.exchange.arena import DIFFERENT_TURNS
from lit_rlhf.labelling.exchange.argilla import DRAFTS, PARTIAL, SUGGESTIONS, UNREAD
from lit_rlhf.labelling.exchange.entries import Parsed, Said
from lit_rlhf.labelling.exchange.label_studio import NOTHING, PREDICTIONS, UNPLACED
from lit_rlhf.labelling.exchange.reading import Format, read_file, tell_format
from lit_rlhf.labelling.verdicts import Verdict

SAMPLES = Path(__file__).parent / "samples"
FIRST, SECOND = Verdict(((0,), (1,)), "better"), Verdict(((1,), (0,)), "better")
TIE, BOTH_BAD = Verdict(((0, 1),)), Verdict(((0, 1),), both_bad=True)


def said(parsed: Parsed) -> list[list[tuple[str, Verdict]]]:
    return [[(one.annotator, one.verdict) for one in entry.said] for entry in parsed.entries]


def write(folder: Path, name: str, rows: Any) -> Path:
    path = folder / name
    path.write_text(
        json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    )
    return path


def test_label_studio_pairs_with_names_of_their_own() -> None:
    parsed = read_file(SAMPLES / "label_studio_pairwise.json")
    assert parsed.notes == [
        f"{SAMPLES / 'label_studio_pairwise.json'}: read as Label Studio's tasks",
        f"left out: 1 {NOTHING}",
    ]
    first, second = parsed.entries
    assert first.item.prompt == "How long do ducks sleep?"
    assert first.item.responses == ("All winter.", "About ten hours, in short naps.")
    assert (first.item.mode, first.item.columns) == ("pairwise", {"topic": "birds"})
    assert first.said == [
        Said("3", Verdict(((1,), (0,)), "slightly"), seconds=14.288, at="2026-03-09T21:53:10.746+00:00"),
        Said("bea@example.org", Verdict(skip="cancelled"), seconds=3.5, at="2026-03-09T22:10:00.000+00:00"),
    ]
    assert [one.verdict for one in second.said] == [TIE]


def test_label_studio_names_nobody_knows_ask_for_the_config(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "label_studio_pairwise.json", tmp_path / "export.json")
    with pytest.raises(
        ValueError, match=r"export.json:2: expected `items`, .* \(other names: put the project's lab"
    ):
        read_file(tmp_path / "export.json")
    shutil.copy(SAMPLES / "label_studio_pairwise.xml", tmp_path / "export.xml")
    assert len(read_file(tmp_path / "export.json").entries) == 2


def test_label_studio_rankers_of_every_kind() -> None:
    parsed = read_file(SAMPLES / "label_studio_ranker.json")
    assert said(parsed) == [
        [
            ("1", Verdict(((2,), (0,), (1,)))),
            ("2", Verdict(((0,), (2,), (1,)))),
            ("3", Verdict(((0, 2), (1,)))),
        ]
    ]
    assert parsed.entries[0].item.responses == ("Elbe", "Berlin", "Oder")
    assert parsed.notes[1:] == [f"left out: 1 {UNPLACED}"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"good": ["r1"], "bad": ["r0"]}, SECOND),
        ({"2": ["r1"], "10": ["r0"], "_": []}, SECOND),
        ({"10": ["r1"], "2": ["r0"]}, FIRST),
    ],
)
def test_label_studio_buckets_in_their_order(value: Any, expected: Verdict, tmp_path: Path) -> None:
    result = {"from_name": "rank", "type": "ranker", "value": {"ranker": value}}
    items = [{"id": f"r{index}", "body": text} for index, text in enumerate("xy")]
    task = {"data": {"prompt": "p", "items": items}, "annotations": [{"result": [result], "completed_by": 1}]}
    path = write(tmp_path, "t.json", [task])
    assert said(read_file(path)) == [[("1", expected)]]
    if "good" in value:  # the config knows better than the order in the file
        (tmp_path / "t.xml").write_text(
            '<View><List name="l" value="$items"/><Ranker name="rank" toName="l">'
            '<Bucket name="bad"/><Bucket name="good"/></Ranker></View>'
        )
        assert said(read_file(path)) == [[("1", FIRST)]]


def test_argilla_records_of_the_package_and_of_the_http_api() -> None:
    parsed = read_file(SAMPLES / "argilla_records.json")
    first, second = parsed.entries
    user = "0b7a1f6e-1111-4c1e-8f5e-3d9f2c00000"
    assert (first.item.prompt, first.item.responses) == ("Name a river.", ("Elbe", "Berlin", "Oder"))
    assert (first.item.domain, first.item.columns) == ("geography", {"batch": 7})
    assert first.item.row_id == "2f0c8a34-8d5b-4a55-9d0c-0a6f2a1d9c01"
    assert first.said == [Said(f"{user}1", Verdict(((2,), (0,), (1,))), comment="the second is a town")]
    assert second.item.prompt == [{"role": "user", "content": "Is water wet?"}]
    assert said(parsed)[1] == [(f"{user}1", TIE), (f"{user}3", Verdict(skip="discarded"))]
    assert set(parsed.notes[1:]) == {f"left out: 1 {what}" for what in (PARTIAL, DRAFTS, SUGGESTIONS)}


def test_argilla_columns_of_a_data_set() -> None:
    parsed = read_file(SAMPLES / "argilla_columns.jsonl")
    assert said(parsed) == [[("u1", Verdict(ratings=(4,))), ("u2", Verdict(ratings=(2,)))], []]
    assert [entry.item.mode for entry in parsed.entries] == ["rating", "rating"]
    assert parsed.entries[0].item.responses == ("Hello!",)
    assert parsed.notes[1:] == [f"left out: 1 {SUGGESTIONS}"]


def test_argilla_as_one_object_of_columns(tmp_path: Path) -> None:
    columns = {
        "id": ["1", "2"],
        "prompt": ["p", "q"],
        "response_1": ["x", "u"],
        "response_2": ["y", "v"],
        "best.responses": [["response_2"], ["tie"]],
        "best.responses.users": [["ann"], ["ann"]],
        "best.responses.status": [["submitted"], ["submitted"]],
    }
    assert said(read_file(write(tmp_path, "a.json", columns))) == [[("ann", SECOND)], [("ann", TIE)]]


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    answers = {
        "best": [{"value": "response_1", "user_id": "u"}],
        "why": [{"value": "it is short", "user_id": "u"}],
    }
    record = {"fields": {"prompt": "p", "response_1": "x", "response_2": "y"}, "responses": answers}
    parsed = read_file(write(tmp_path, "a.json", [record]))
    assert (said(parsed), parsed.notes[1:]) == ([[("u", FIRST)]], [f"left out: 1 {UNREAD}"])
    results = [{"type": "pairwise", "value": {"selected": "left"}}, {"type": "labels", "value": {}}]
    task = {
        "data": {"prompt": "p", "text1": "x", "text2": "y"},
        "annotations": [{"result": results}],
        "predictions": [{"result": results}],
    }
    parsed = read_file(write(tmp_path, "l.json", [task]))
    assert said(parsed) == [[("", FIRST)]]
    assert parsed.notes[1:] == [
        f"left out: 1 {PREDICTIONS}",
        "left out: 1 results of the tag labels, which is not read",
    ]


def test_arena_battles_old_and_new() -> None:
    parsed = read_file(SAMPLES / "arena.jsonl")
    first, second, third, fourth = parsed.entries
    assert first.item.prompt == [{"role": "user", "content": "What is a heron?"}]
    assert first.item.responses == ("A fish.", "A wading bird.")
    assert first.item.models == ("small-7b", "large-70b")
    assert first.item.row_id == "58210e39b3fd4441a2bd4a518bb44c2d"
    assert first.said == [Said("arena_user_973", SECOND, shown=(0, 1), at="2023-04-24T15:53:11.500+00:00")]
    assert second.said[0].verdict == BOTH_BAD
    assert third.item.responses == ("Rain.", "Snow.")  # the first of two turns was judged
    assert third.said == [Said("expert_12", FIRST, shown=(0, 1))]
    assert (fourth.item.responses, fourth.item.row_id) == (("1 2", "3"), "0199")
    assert (fourth.said[0].annotator, fourth.said[0].verdict) == ("", BOTH_BAD)
    assert parsed.notes[1:] == [f"left out: 2 {DIFFERENT_TURNS}"]


def test_arena_rounds_before_are_part_of_the_prompt(tmp_path: Path) -> None:
    def turn(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    rounds = [
        {
            "user": turn("user", "1?"),
            "model_side_a": turn("assistant", "one"),
            "model_side_b": turn("assistant", "one"),
        },
        {
            "user": turn("user", "2?"),
            "model_side_a": turn("assistant", "x"),
            "model_side_b": turn("assistant", "y"),
        },
    ]
    battle = {
        "model_a": "m",
        "model_b": "n",
        "winner": "model_a",
        "conversation_a": [turn("user", "2?"), turn("assistant", "x")],
        "conversation_b": [turn("user", "2?"), turn("assistant", "y")],
        "full_conversation": rounds,
    }
    (entry,) = read_file(write(tmp_path, "a.jsonl", [battle])).entries
    assert [message["content"] for message in entry.item.prompt] == ["1?", "one", "2?"]  # type: ignore[index]


def test_arena_rounds_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    side = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]
    other = [side[0], {"role": "assistant", "content": "y"}]
    battle = {
        "model_a": "m",
        "model_b": "n",
        "winner": "tie",
        "conversation_a": side,
        "conversation_b": other,
    }
    rounds = [{"user": side[0], "model_side_a": other[1], "model_side_b": other[1]}]
    parsed = read_file(write(tmp_path, "a.jsonl", [battle | {"full_conversation": rounds}]))
    assert parsed.notes[1:] == [
        "left out: 1 battles whose `full_conversation` does not end with what was judged"
    ]
    later = battle | {"full_conversation": rounds, "evaluation_order": 1}
    assert len(read_file(write(tmp_path, "b.jsonl", [later])).entries) == 1


def test_arena_with_pictures_is_left_out(tmp_path: Path) -> None:
    picture = {"type": "image", "text": None, "image": "http://x/y.png"}
    side = [{"role": "user", "content": [picture]}, {"role": "assistant", "content": "x"}]
    battle = {"model_a": "m", "model_b": "n", "winner": "tie", "conversation_a": side, "conversation_b": side}
    parsed = read_file(write(tmp_path, "a.jsonl", [battle]))
    assert (parsed.entries, parsed.notes[1:]) == ([], ["left out: 1 battles with pictures or files in them"])


def test_arena_of_the_competition() -> None:
    parsed = read_file(SAMPLES / "arena_2024.csv")
    assert said(parsed) == [[("", FIRST)], [("", TIE)]]
    assert parsed.entries[0].item.prompt == [{"role": "user", "content": "Name a colour."}]
    assert parsed.entries[0].item.responses == ("Blue.", "Seven.")


def test_a_table_of_two_responses() -> None:
    parsed = read_file(SAMPLES / "table.csv")
    slightly = Verdict(((1,), (0,)), "slightly")
    assert said(parsed) == [[("ann", FIRST)], [("bea", slightly)], [("ann", TIE)], [("ann", BOTH_BAD)], []]
    assert parsed.entries[1].said[0].comment == "towns, too"
    assert [entry.said[0].seconds for entry in parsed.entries[:3]] == [12.5, 9.0, None]
    assert parsed.entries[2].item.prompt == "Two\nlines?"
    assert parsed.entries[0].item.row_id == "q1"


@pytest.mark.parametrize(
    ("cells", "verdict"),
    [
        ({"ranks": "2,1,1"}, Verdict(((1, 2), (0,)))),
        ({"ranks": [3, 1, 2]}, Verdict(((1,), (2,), (0,)))),
        ({"rank_1": 1, "rank_2": "2", "rank_3": 2}, Verdict(((0,), (1, 2)))),
        ({"ratings": "[4, 5, 1]"}, Verdict(ratings=(4, 5, 1))),
        ({"rating_1": "4", "rating_2": "5", "rating_3": "1"}, Verdict(ratings=(4, 5, 1))),
        ({"choice": "both bad"}, Verdict(((0, 1, 2),), both_bad=True)),
        ({"rewrite": "better", "rewrite_of": 2}, Verdict(rewrite="better", rewrite_of=1)),
        ({"skip": "no idea", "ranks": ""}, Verdict(skip="no idea")),
    ],
)
def test_tables_spell_every_verdict(cells: dict[str, Any], verdict: Verdict, tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "response_1": "x",
        "response_2": "y",
        "response_3": "z",
        "annotator": "ann",
        **cells,
    }
    assert said(read_file(write(tmp_path, "t.jsonl", [row]))) == [[("ann", verdict)]]


@pytest.mark.parametrize("kind", [None, "label-studio"])
def test_label_studios_smaller_export_is_refused_by_its_name(kind: Format | None, tmp_path: Path) -> None:
    row = {"id": 1, "prompt": "p", "response_a": "x", "response_b": "y", "choice": "left", "annotator": 1,
           "annotation_id": 2, "created_at": "", "updated_at": "", "lead_time": 1.5}  # fmt: skip
    with pytest.raises(ValueError, match="expected Label Studio's JSON export, found its JSON_MIN or CSV"):
        read_file(write(tmp_path, "project.json", [row]), kind)


ITEMS = {"prompt": "p", "items": [{"id": "a", "body": "x"}, {"id": "b", "body": "y"}]}


def ranker(value: Any) -> list[Any]:
    return [{"data": ITEMS, "annotations": [{"result": [{"type": "ranker", "value": {"ranker": value}}]}]}]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "t.json",
            ranker(["a", "z"]),
            r"t.json:1: expected `ranker` to hold ids of the task's items, a, b, found",
        ),
        ("t.json", ranker(["a", "a"]), "expected `ranker` to hold each id once"),
        ("t.json", ranker(3), "expected `ranker` to be a list of ids, or buckets of them, found 3"),
        ("t.json", [{"data": {"response_a": "x", "response_b": "y"}}], "expected one of prompt, instruction"),
        ("t.json", [{"data": ITEMS, "annotations": 1}], "expected `annotations` to be a list, found 1"),
        (
            "t.json",
            [{"data": ITEMS, "annotations": [{"was_cancelled": True, "lead_time": "soon"}]}],
            "expected `lead_time` to be seconds, found 'soon'",
        ),
        (
            "t.json",
            [{"data": ITEMS, "annotations": [{"was_cancelled": True, "created_at": "soon"}]}],
            "expected `created_at` to be a time in ISO 8601, found 'soon'",
        ),
        (
            "a.jsonl",
            [{"model_a": 1, "model_b": 2, "winner": "a"}],
            "a.jsonl:1: expected `winner` to be one of model_a",
        ),
        (
            "a.jsonl",
            [{"model_a": 1, "model_b": 2, "winner": "tie", "conversation_a": "hi", "conversation_b": "ho"}],
            "expected `conversation_a` to be a list of turns, found 'hi'",
        ),
        (
            "r.json",
            [{"fields": {"x": "y"}, "responses": {}}],
            "r.json:1: expected a field of prompt, instruction",
        ),
        (
            "r.json",
            [{"fields": {"prompt": "p", "response_1": "x"}, "responses": {"r": [{"value": ["response_9"]}]}}],
            r"expected `r` to rank response_1, each once, found \['response_9'\]",
        ),
        (
            "t.jsonl",
            [{"prompt": "p", "response_1": "x", "response_2": "y", "choice": "3"}],
            "t.jsonl:1: expected `choice` to be 1, 2, a, b, tie or both bad, found '3'",
        ),
        (
            "t.jsonl",
            [{"prompt": "p", "response_1": "x", "response_2": "y", "choice": "1", "ranks": "2 1"}],
            "expected `choice` and `ranks` to agree, found '1' and '2 1'",
        ),
        (
            "t.jsonl",
            [{"prompt": "p", "response_1": "x", "response_2": "y", "ranks": "1 2 3"}],
            "expected `ranks` with 2 whole numbers, one a response",
        ),
        (
            "t.jsonl",
            [{"prompt": "p", "response_1": "x", "response_2": "y", "choice": "1", "shown": "1 3"}],
            "expected `shown` to be numbers of responses, 1 to 2, found '1 3'",
        ),
        ("t.json", [], "t.json: expected"),
    ],
)
def test_bad_rows_name_their_line(name: str, rows: Any, message: str, tmp_path: Path) -> None:
    kind: Any = "csv" if name == "t.jsonl" else "label-studio" if name == "t.json" and not rows else None
    with pytest.raises(ValueError, match=message):
        read_file(write(tmp_path, name, rows), kind)


def test_all_bad_rows_are_counted_and_the_first_three_said(tmp_path: Path) -> None:
    rows = [{"model_a": 1, "model_b": 2, "winner": str(number)} for number in range(5)]
    with pytest.raises(ValueError) as caught:
        read_file(write(tmp_path, "a.jsonl", rows))
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 bad of 5 rows:"
    assert lines[3].startswith(f"  {tmp_path}/a.jsonl:3: expected")
    assert lines[4] == "  ... and 2 more"


@pytest.mark.parametrize(
    ("fields", "name", "kind"),
    [
        ({"data": {"prompt": "p"}}, "f.json", "label-studio"),
        ({"fields": {}, "responses": {}}, "f.json", "argilla"),
        ({"prompt": "p", "q.responses": []}, "f.jsonl", "argilla"),
        ({"model_a": "m", "model_b": "n", "winner": "tie"}, "f.jsonl", "arena"),
        ({"prompt": "p", "response_1": "x", "response_2": "y"}, "f.csv", "csv"),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "choice": "a"}, "f.jsonl", "csv"),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "labels": []}, "f.csv", "lit-rlhf"),
        (
            {"prompt": "p", "response_1": "x", "response_2": "y", "preference_strength": 1},
            "f.csv",
            "lit-rlhf",
        ),
        ({"prompt": "p", "responses": ["x"]}, "f.jsonl", "lit-rlhf"),
        ({"prompt": "p", "chosen": "x", "rejected": "y", "annotator": "ann"}, "f.csv", "lit-rlhf"),
    ],
)
def test_formats_are_told_by_their_fields(fields: dict[str, Any], name: str, kind: str) -> None:
    assert tell_format(fields, Path(name)) == kind

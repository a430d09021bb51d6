"""What files may hold that is easily lost: empty responses, identical ones, turns, times, numbers that are none."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lit_rlhf.labelling.columns import FieldError, plain_fields
from lit_rlhf.labelling.exchange.entries import Parsed
from lit_rlhf.labelling.exchange.importing import import_entries
from lit_rlhf.labelling.exchange.reading import Format, read_file
from lit_rlhf.labelling.exchange.writing import exchange_files
from lit_rlhf.labelling.export import ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.export_cases import FIRST, TRIPLE, judged, order

NULLS = "numbers that are NaN or infinite are kept as null"
TURNS: tuple[Any, ...] = ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "y")


def table(path: Path, *lines: str) -> Parsed:
    path.write_text("\n".join(lines) + "\n")
    return read_file(path, "csv")


def back(kind: Format, judgements: list[Judgement], path: Path) -> tuple[Parsed, dict[str, int]]:
    files, written = exchange_files(path, kind, judgements, {})
    for name, content in files.items():
        name.write_bytes(content)
    return read_file(path, kind), written.not_held


# --- empty responses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("responses", [("", "x", "y"), ("x", "", "y"), ("x", "y", ""), ("x", "", "")])
def test_an_empty_response_comes_back_from_a_table(responses: tuple[str, ...], tmp_path: Path) -> None:
    item = Item("ranking", "p", responses, models=("1", "2", "3"), number=1)
    wide = Item("ranking", "q", ("a", "b", "c", "d"), number=2)
    verdict = Verdict(((2,), (0, 1))) if len(item.distinct) == 3 else Verdict(((0,), (1, 2)), "better")
    given = [judged(1, item, "ann", verdict), judged(2, wide, "ann", order(0, 1, 2, 3))]
    parsed, _ = back("csv", given, tmp_path / "f.csv")
    first, second = parsed.entries
    assert (first.item.responses, first.item.models, second.item.responses) == (
        responses,
        ("1", "2", "3"),
        ("a", "b", "c", "d"),
    )
    assert (first.said[0].verdict, first.said[0].shown) == (verdict, item.distinct)
    assert first.item.columns == {}
    assert parsed.notes == [f"{tmp_path / 'f.csv'}: read as a table with a column a response"]


def test_an_empty_cell_between_responses_is_told(tmp_path: Path) -> None:
    parsed = table(
        tmp_path / "f.csv", "prompt,response_1,response_2,response_3,ranks", "p,a,,c,2 3 1", "q,a,b,,"
    )
    assert [entry.item.responses for entry in parsed.entries] == [("a", "", "c"), ("a", "b")]
    assert parsed.entries[0].said[0].verdict == order(2, 0, 1)
    assert parsed.notes[1:] == [
        "1 rows have an empty cell between their responses, which is taken for a response that is empty"
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["prompt,response_1,response_3", "p,a,c"],
            "2: expected a column `response_2` before it, found `resp",
        ),
        (["prompt,response_1,response_count", "p,a,2"], "2: expected `response_count` to be how many .* '2'"),
        (["prompt,response_1,response_count", "p,a,0"], "2: expected `response_count` to be how many .* '0'"),
        (["prompt,response_1,response_count", "p,a,.5"], "2: expected `response_count` to be how many"),
        (["prompt,response_1,response_count", "p,a,nan"], "2: expected `response_count` to be numbers"),
        (["prompt,response_1,response_2,ranks", "p,a,b,1 nan"], "2: expected `ranks` to be numbers"),
    ],
)
def test_responses_that_are_not_there_are_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "f.csv", *lines)


# --- identical responses and turns ----------------------------------------------------------------------

DOUBLED = Item("pairwise", "p", ("a", "b", "a"), number=1)
SLIGHTLY = judged(1, DOUBLED, "ann", Verdict(((1,), (0, 2)), "slightly"))


@pytest.mark.parametrize("kind", ["csv", "argilla", "label-studio"])
def test_slightly_better_of_two_different_among_three(kind: Format, tmp_path: Path) -> None:
    suffix = "csv" if kind == "csv" else "json"
    # beside a ranking Label Studio's project asks for rankings
    parsed, _ = back(kind, [SLIGHTLY, judged(2, TRIPLE, "ann", order(0, (1, 2)))], tmp_path / f"f.{suffix}")
    assert [entry.said[0].verdict for entry in parsed.entries] == [SLIGHTLY.verdict, order(0, (1, 2))]
    assert parsed.entries[0].item.responses == DOUBLED.responses


@pytest.mark.parametrize("rows", ["rankings", "pairs", "votes"])
def test_slightly_better_comes_back_from_our_own_rows(rows: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows_as_bytes(path, export_judgements([SLIGHTLY], ExportSettings(rows)).rows))
    (entry,) = read_file(path).entries
    verdict = entry.said[0].verdict
    best = verdict.ranking and entry.item.responses[verdict.ranking[0][0]]
    assert (best, verdict.strength) == ("b", "slightly")


@pytest.mark.parametrize(("kind", "name"), [("label-studio", "f.json"), ("arena", "f.jsonl")])
def test_what_is_written_without_identical_responses_says_so(kind: Format, name: str, tmp_path: Path) -> None:
    parsed, not_held = back(kind, [SLIGHTLY], tmp_path / name)
    assert sorted(parsed.entries[0].item.responses) == ["a", "b"]
    assert not_held["responses that are identical to one of the two"] == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [("label-studio", "f.json"), ("argilla", "f.json"), ("arena", "f.jsonl"), ("csv", "f.csv")],
)
def test_turns_are_one_text_for_other_tools_and_counted(kind: Format, name: str, tmp_path: Path) -> None:
    item = Item("pairwise", "p", ("assistant: a\n\nuser: b", "y"), turns=TURNS, number=1)
    parsed, not_held = back(kind, [judged(1, item, "ann", FIRST)], tmp_path / name)
    assert parsed.entries[0].item.responses == item.responses
    assert not_held["responses of several turns, written as one text"] == 1


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
@pytest.mark.parametrize("shown", [(0, 1), (1, 0)])
def test_turns_come_back_with_the_order_in_which_they_were_seen(
    shown: tuple[int, int], name: str, tmp_path: Path
) -> None:
    turns: Any = ([*TURNS[0], {"role": "assistant", "content": "c"}], "y")
    item = Item("pairwise", "p", ("assistant: a\n\nuser: b\n\nassistant: c", "y"), turns=turns, number=1)
    for verdict in (FIRST, Verdict(((1,), (0,)), "better")):
        path = tmp_path / name
        rows = export_judgements([judged(1, item, "ann", verdict, shown=shown)], ExportSettings("pairs")).rows
        path.write_bytes(rows_as_bytes(path, rows))
        (entry,) = read_file(path, "lit-rlhf").entries
        (said,) = entry.said
        assert said.verdict.ranking is not None
        assert (
            entry.item.responses[said.verdict.ranking[0][0]] == item.responses[(verdict.ranking or ())[0][0]]
        )
        assert said.shown is not None
        assert entry.item.responses[said.shown[0]] == item.responses[shown[0]]
        assert set(map(str, entry.item.turns or ())) == set(map(str, turns))


# --- fields that JSON cannot spell ----------------------------------------------------------------------


def test_times_and_numbers_become_what_json_can_spell() -> None:
    fields = {
        "on": date(2026, 1, 2),
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "price": Decimal("1.50"),
        "none": Decimal("NaN"),
        "took": timedelta(minutes=1),
        "map": [("a", math.inf), ("b", 1)],
        "deep": {"list": [math.nan, True, None]},
    }
    assert plain_fields(fields, "f:1") == (
        {
            "on": "2026-01-02",
            "at": "2026-01-02T03:04:05+00:00",
            "price": "1.50",
            "none": None,
            "took": 60.0,
            "map": [["a", None], ["b", 1]],
            "deep": {"list": [None, True, None]},
        },
        3,
    )
    with pytest.raises(FieldError, match=r"f:1: expected `deep.a` to be text, a number, .* found bytes"):
        plain_fields({"deep": {"a": [b"x"]}}, "f:1")


ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "responses": ["x", "y"], "when": datetime(2026, 1, 2), "loss": 1.0},
    {"prompt": "q", "responses": ["x", "y"], "when": None, "loss": math.nan},
]


def test_columns_of_parquet_are_kept(tmp_path: Path, store: LabelStore) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "f.parquet")
    parsed = read_file(tmp_path / "f.parquet")
    assert f"1 {NULLS}" in parsed.notes
    import_entries(store, parsed.entries)
    assert [item.columns for item in store.items()] == [
        {"when": "2026-01-02T00:00:00", "loss": 1.0},
        {"when": None, "loss": None},
    ]


def test_columns_of_other_tools_are_kept(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "response_1": "x", "response_2": "y", "rank_1": math.nan, "when": date(2026, 1, 2)},
        {"prompt": "q", "response_1": "x", "response_2": "y", "rank_1": math.nan, "deep": [math.nan]},
    ]
    rows[0] |= {"deep": None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "f.parquet")
    parsed = read_file(tmp_path / "f.parquet")
    assert [entry.item.columns for entry in parsed.entries] == [{"when": "2026-01-02"}, {"deep": [None]}]
    assert parsed.notes[1:] == [f"3 {NULLS}"]


def test_bytes_are_refused_with_their_place(tmp_path: Path) -> None:
    native, other = tmp_path / "native.parquet", tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROWS[0] | {"image": b"\xff"}]), native)
    row = {"prompt": "p", "response_1": "x", "annotator": "ann", "image": b"\xff"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), other)
    with pytest.raises(ValueError, match=r"native\.parquet.*: expected `image` to be text, .* found bytes"):
        read_file(native)
    with pytest.raises(ValueError, match=r"other\.parquet:1: expected `image` to be text, .* found bytes"):
        read_file(other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("prompt", "\ud800"), ("response_1", "a\ud800"), ("comment", "\udfff"), ("annotator", "\ud800")],
        *[
            ("id", "\ud800"),
            ("domain", "\ud800"),
            ("model_1", "\ud800"),
            ("flag", "\ud800"),
            ("topic", "\ud800"),
        ],
    ],
)
def test_half_a_character_is_refused_with_its_place_and_field(field: str, value: str, tmp_path: Path) -> None:
    row = {"prompt": "p", "response_1": "x", "response_2": "y", "annotator": "ann", "choice": "1"}
    row |= {"model_1": "m", "model_2": "n", field: value}
    (tmp_path / "f.jsonl").write_text(json.dumps({**row, field: "fine"}) + "\n" + json.dumps(row) + "\n")
    name = {"response_1": "responses", "model_1": "models"}.get(field, field)
    expected = (
        rf"1 bad of 2 rows:\n  .*f.jsonl:2: expected `{name}` to be text that UTF-8 can hold, found half"
    )
    with pytest.raises(ValueError, match=expected):
        read_file(tmp_path / "f.jsonl", "csv")


# --- rows of ours ---------------------------------------------------------------------------------------


def test_a_bad_row_of_ours_is_refused_without_advice_of_others(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    rows = [
        {"prompt": "p", "chosen": "x", "rejected": "x"},
        {"chosen": "x", "rejected": "y", "margin": "wide"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"2 bad of 2 rows:") as error:
        read_file(path)
    assert str(error.value).endswith("\nMend or remove them; nothing was added.")
    assert "bad_rows" not in str(error.value)


def test_rows_that_ask_the_same_are_told_once(tmp_path: Path, store: LabelStore) -> None:
    path = tmp_path / "f.jsonl"
    rows = [
        {"id": str(number), "prompt": "p", "responses": ["x", "y"][:: 1 - number % 2 * 2]}
        for number in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parsed = read_file(path)
    said = "\n".join([*parsed.notes, *import_entries(store, parsed.entries).describe()])
    assert "2 rows ask what an earlier row asks, whose id and fields are kept" in said
    assert "left out" not in said
    assert "1 item added, 0 were there, in 3 rows" in said
    # of another file, judged there
    other = tmp_path / "other.jsonl"
    other.write_text(
        json.dumps({"id": "7", "prompt": "p", "chosen": "y", "rejected": "x", "annotator": "ann"}) + "\n"
    )
    done = import_entries(store, read_file(other).entries)
    assert (done.judgements, done.notes[0].endswith("asks (7); what was said of them is kept")) == (1, True)

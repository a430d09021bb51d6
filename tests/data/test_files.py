"""Where rows can come from, and what is said of files that are broken or missing."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from lit_rlhf.data import readers
from lit_rlhf.data.files import BadRowsError, read_rows
from lit_rlhf.data.sources import looks_local

ROWS = [{"prompt": f"p{k}", "chosen": "c", "rejected": "r"} for k in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def prompts(path: Any, **options: Any) -> list[Any]:
    return [row.prompt for row in read_rows(path, "pairs", **options).rows]


def write_parquet(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(path)


def write_stream(path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_arrow_file(path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("d.jsonl", lambda path: path.write_text(LINES)),
        ("d.jsonl.gz", lambda path: path.write_bytes(gzip.compress(LINES.encode()))),
        ("d.json", lambda path: path.write_text(json.dumps(ROWS, indent=2))),
        ("d.json", lambda path: path.write_text("\ufeff " + json.dumps(ROWS), encoding="utf-8")),
        ("d.json.gz", lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))),
        ("d.csv", lambda path: path.write_text("prompt,chosen,rejected\np0,c,r\np1,c,r\np2,c,r\n")),
        ("d.parquet", write_parquet),
        ("d.arrow", write_stream),
        ("d.arrow", write_arrow_file),
        ("folder", lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path)),
        (
            "folder",
            lambda path: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(path),
        ),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    read = read_rows(str(tmp_path / name), "pairs")
    assert [row.prompt for row in read.rows] == ["p0", "p1", "p2"]
    assert read.rows[2].place.startswith(str(tmp_path / name) + ":")
    assert read.bad == []


def test_places_are_line_numbers_with_blank_lines_bom_and_line_separators(tmp_path: Path) -> None:
    first = json.dumps({**ROWS[0], "chosen": "one\u2028two\u0085three"}, ensure_ascii=False)
    (tmp_path / "d.jsonl").write_bytes(f"\ufeff{first}\r\n\n  \n{json.dumps(ROWS[1])}".encode())
    rows = read_rows(str(tmp_path / "d.jsonl"), "pairs").rows
    assert [row.place.rsplit(":", 1)[1] for row in rows] == ["1", "4"]
    assert rows[0].responses[0] == "one\u2028two\u0085three"


def test_places_in_an_array_and_in_csv_are_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("[\n" + ",\n\n".join(map(json.dumps, ROWS)) + "\n]")
    rows = read_rows(str(tmp_path / "d.json"), "pairs").rows
    assert [row.place.rsplit(":", 1)[1] for row in rows] == ["2", "4", "6"]
    (tmp_path / "d.csv").write_text('prompt,chosen,rejected\np,"two\nlines",r\nq,c,r\n')
    rows = read_rows(str(tmp_path / "d.csv"), "pairs").rows
    assert [row.place.rsplit(":", 1)[1] for row in rows] == ["2", "4"]


def test_csv_cells_of_lists_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('prompt,responses,ranks,id\n3,"[""a"", ""b""]","[2, 1]",7\n')
    (row,) = read_rows(str(tmp_path / "d.csv"), "rankings").rows
    assert (row.prompt, row.responses, row.ranks, row.id) == ("3", ["a", "b"], [2, 1], "7")
    (tmp_path / "e.csv").write_text("prompt,chosen,rejected,margin,tie\np,c,r,1.5,\np,c,r,,True\n")
    rows = read_rows(str(tmp_path / "e.csv"), "pairs").rows
    assert [(row.comparisons[0].margin, row.comparisons[0].target) for row in rows] == [
        (1.5, 1.0),
        (0.0, 0.5),
    ]


def test_bad_rows_stop_with_the_first_three_and_how_many_more(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(LINES + '{"prompt": "p"\n' + '{"prompt": "p"}\n' * 4)
    with pytest.raises(BadRowsError) as caught:
        read_rows(str(path), "pairs")
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 bad of 8 rows:"
    assert lines[1].startswith(f"  {path}:4: expected a JSON object, found Expecting ',' delimiter")
    expected = "`prompt`, `chosen` and `rejected`, or `prompt`, `response` and `label`"
    assert lines[2] == f"  {path}:5: expected {expected}, found fields `prompt`"
    assert lines[4] == "  ... and 2 more"
    assert "--data.bad_rows skip" in lines[5]


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"prompt": "\xff"}\n' + LINES.encode() + b"[]\n")
    read = read_rows(str(tmp_path / "d.jsonl"), "pairs", bad_rows="skip")
    assert len(read.rows) == 3
    assert [error.place.rsplit(":", 1)[1] for error in read.bad] == ["1", "5"]
    assert "expected UTF-8, found byte 0xff at column 13" in str(read.bad[0])


def test_no_good_row_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("{}\n")
    with pytest.raises(BadRowsError, match="1 bad of 1 rows"):
        read_rows(str(tmp_path / "d.jsonl"), "pairs", bad_rows="skip")
    (tmp_path / "d.jsonl").write_text("\n")
    with pytest.raises(BadRowsError, match=r"no rows in .*d\.jsonl"):
        read_rows(str(tmp_path / "d.jsonl"), "pairs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"prompt": "p", "chosen": "c", "rejected": "r"},\n{"prompt" 3}]',
            "d.json:2: expected an array of JSON",
        ),
        ('[{"prompt": "p", "chosen": "c", "rejected": "r"}', "d.json:1: expected an array of JSON objects"),
        (
            '[{"prompt": "p", "chosen": "c", "rejected": "r"}]\n{}',
            "expected the end of the file behind the array",
        ),
    ],
)
def test_broken_arrays_are_bad_rows(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(BadRowsError) as caught:
        read_rows(str(tmp_path / "d.json"), "pairs")
    assert message in str(caught.value)


def test_csv_line_with_too_many_cells_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("prompt,chosen,rejected\np,c,r\np,c,r,s\np,c\n")
    with pytest.raises(BadRowsError) as caught:
        read_rows(str(tmp_path / "d.csv"), "pairs")
    assert "2 bad of 3 rows" in str(caught.value)
    assert "d.csv:3: expected 3 cells, found more or fewer" in str(caught.value)


def test_missing_file_answers_with_near_names(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINES)
    with pytest.raises(FileNotFoundError, match=r"trian\.jsonl: no such file or folder; in .* train\.jsonl"):
        read_rows(str(tmp_path / "trian.jsonl"), "pairs")
    (tmp_path / "pairs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no .*pears\); in .* there is pairs"):
        read_rows(str(tmp_path / "pears" / "train.jsonl"), "pairs")


@pytest.mark.parametrize(
    "path", ["pc.jsonl", "org/pc.jsonl", "./org/name", "~/name", "/org/name", "plain", "a/b/c"]
)
def test_what_looks_local_never_touches_the_network(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("went to the network"))
    assert looks_local(path)
    with pytest.raises(FileNotFoundError):
        read_rows(path, "pairs")


def test_existing_folder_is_not_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("went to the network"))
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "d.jsonl").write_text(LINES)
    assert prompts("org/name") == ["p0", "p1", "p2"]


def test_hub_name_with_config_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None, revision: str | None) -> Any:
        asked.append((name, config, revision))
        return {"train": ROWS[:1], "validation": ROWS[1:]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert prompts("org/name:conf@v1.0") == ["p0"]
    assert prompts("org/name", split="val") == ["p1", "p2"]
    assert asked == [("org/name", "conf", "v1.0"), ("org/name", None, None)]
    with pytest.raises(ValueError, match="expected a split named test, found train, validation"):
        prompts("org/name", split="test")


def test_folder_takes_the_files_of_its_split_and_says_so(tmp_path: Path) -> None:
    for name, row in zip(("train-0.jsonl", "train-1.jsonl", "valid.jsonl"), ROWS, strict=True):
        (tmp_path / name).write_text(json.dumps(row))
    read = read_rows(str(tmp_path), "pairs")
    assert [row.prompt for row in read.rows] == ["p0", "p1"]
    assert read.notes == [f"{tmp_path}: took train-0.jsonl, train-1.jsonl for train, left valid.jsonl"]
    assert prompts(str(tmp_path), split="val") == ["p2"]


def test_folder_of_other_names_is_read_whole(tmp_path: Path) -> None:
    for name, row in zip(("a.jsonl", "b.json", "validity.jsonl"), ROWS, strict=True):
        (tmp_path / name).write_text(json.dumps(row))
    (tmp_path / "notes.txt").write_text("x")
    assert prompts(str(tmp_path)) == ["p0", "p1", "p2"]


def test_list_of_files_and_of_weighted_files(tmp_path: Path) -> None:
    for name, row in zip("ab", ROWS, strict=False):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert prompts(paths) == ["p0", "p1"]
    read = read_rows([{"path": paths[0], "weight": 2.5}, {"path": paths[1]}], "pairs")
    assert ([row.prompt for row in read.rows], read.weights) == (["p0", "p1"], [2.5, 1.0])
    with pytest.raises(ValueError, match="expected a weight above 0"):
        read_rows([{"path": paths[0], "weight": 0}], "pairs")
    with pytest.raises(ValueError, match=r"expected a path or \{path, weight\}, found"):
        read_rows([{"path": paths[0], "wieght": 2}], "pairs")


def test_rows_in_code() -> None:
    read = read_rows(ROWS, "pairs")
    assert [row.place for row in read.rows] == ["rows:1", "rows:2", "rows:3"]
    with pytest.raises(BadRowsError, match="no rows"):
        read_rows([], "pairs")


def test_duplicates_are_counted_and_kept() -> None:
    other = {**ROWS[0], "chosen": "another"}
    read = read_rows([*ROWS, ROWS[0], other, ROWS[0]], "pairs")
    assert (len(read.rows), read.duplicates, read.first_duplicate) == (6, 2, "rows:4")


def test_file_of_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(ValueError, match=r"d\.txt: expected one of \.jsonl.* found \.txt"):
        read_rows(str(tmp_path / "d.txt"), "pairs")
    with pytest.raises(FileNotFoundError, match="no data file in this folder"):
        read_rows(str(tmp_path), "pairs")


@pytest.fixture
def _own_cell_limit() -> Iterator[None]:
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("_own_cell_limit")
def test_long_csv_cells_are_read(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(f"prompt,chosen,rejected\n{'p' * 200_000},c,r\n")
    (row,) = read_rows(str(tmp_path / "d.csv"), "pairs").rows
    assert row.prompt == "p" * 200_000


@pytest.mark.usefixtures("_own_cell_limit")
@pytest.mark.parametrize(("header", "line"), [("prompt,chosen,rejected", 3), ("p" * 20, 1)])
def test_what_csv_cannot_read_is_a_bad_row_with_its_line(
    header: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_LONGEST_CELL", 10)
    (tmp_path / "d.csv").write_text(f"{header}\np,c,r\n{'q' * 20},c,r\n")
    with pytest.raises(
        BadRowsError, match=rf"d\.csv:{line}: expected cells of CSV, found field larger .*\(10\)"
    ):
        read_rows(str(tmp_path / "d.csv"), "pairs")


def test_empty_csv_cells_of_text_are_empty_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("prompt,chosen,rejected,weight\n,c,r,\n")
    (row,) = read_rows(str(tmp_path / "d.csv"), "pairs").rows
    assert (row.prompt, row.comparisons[0].weight) == ("", 1.0)

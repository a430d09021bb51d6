"""Rows found again by their place: line ends, chunks, byte order marks, formats."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lit_rlhf.data.formats import RowError
from lit_rlhf.data.sources import find_sources
from lit_rlhf.data.streaming import row_access
from lit_rlhf.data.streaming.row_access import LineFile, RowAccess, open_at_random


def opened(path: Any) -> RowAccess:
    (source,) = find_sources(path, "train")
    return open_at_random(source)


def all_rows(access: RowAccess) -> list[tuple[int, Any]]:
    """Line and fields of every row, chunk by chunk; each read again at its place."""
    rows, line = [], 1
    for chunk in range(access.chunks):
        for found in access.rows(chunk, line):
            rows.append((found.line, found.fields))
            again = access.read(found.at, found.length, found.line)
            assert str(again) == str(found.fields)
        line += access.lines(chunk)
    return rows


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_line_is_found_once_whatever_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, end: str, mark: str
) -> None:
    monkeypatch.setattr(row_access, "_CHUNK_BYTES", chunk)
    lines = ['{"a": "x"}', "", '{"a": "' + "long" * 9 + '"}', "   ", '{"a": "\u2028"}', "7"]
    path = tmp_path / "d.jsonl"
    path.write_text(mark + "\n".join(lines) + end, encoding="utf-8")
    assert all_rows(opened(str(path))) == [
        (number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()
    ]


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    (_, (line, error)) = all_rows(opened(str(path)))
    assert line == 2
    assert isinstance(error, RowError)
    assert str(error).startswith(f"{path}:2: expected a JSON object")


def test_the_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}\n')
    before = opened(str(path)).identity
    assert opened(str(path)).identity == before
    path.write_text('{"a": 12}\n')
    assert opened(str(path)).identity != before


def test_an_open_file_can_be_sent_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    access = LineFile(path, "d")
    rows = all_rows(access)
    assert all_rows(pickle.loads(pickle.dumps(access))) == rows


def test_rows_in_a_list_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_access, "_CHUNK_ROWS", 2)
    rows = [{"a": k} for k in range(5)]
    access = opened(rows)
    assert (access.chunks, access.identity) == (3, None)
    assert all_rows(access) == [(k + 1, row) for k, row in enumerate(rows)]


def test_parquet_and_arrow_have_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_access, "_CHUNK_ROWS", 2)
    rows = [{"a": k, "turns": [{"role": "user", "content": str(k)}]} for k in range(5)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with (
        pyarrow.OSFile(str(tmp_path / "d.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    with (
        pyarrow.OSFile(str(tmp_path / "f.arrow"), "wb") as sink,
        pyarrow.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "folder"))
    for name in ("d.parquet", "d.arrow", "f.arrow", "folder"):
        access = opened(str(tmp_path / name))
        assert all_rows(access) == [(k + 1, row) for k, row in enumerate(rows)], name
        assert access.identity is not None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl.gz", gzip.compress(b"{}", mtime=0), "compressed.*gunzip -k"),
        ("d.csv", b"prompt,response\na,b\n", r"CSV.*convert it to \.jsonl"),
        ("d.json", b' [{"a": 1}]', r"one JSON array.*a JSON object a line"),
    ],
)
def test_formats_without_a_way_in_say_what_to_do(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"data\.streaming: .*{said}.*or leave data\.streaming false"):
        opened(str(tmp_path / name))

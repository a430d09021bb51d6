"""JSON lines on disk: any text, whole or not at all, and read back up to what is broken."""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from lit_rlhf.cli.score_lines import RowScores, appending, json_line, read_part, write_lines

LINE = '{"scores": [1.0, null], "disagreement": [0.0, null], "probability": []}\n'


def test_half_characters_are_written_in_escapes_and_others_as_they_are(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"note": "ü"}, {"note": "ü \ud83d"}, {"\udc00": 1}]
    write_lines(tmp_path / "deep" / "o.jsonl", rows)
    content = (tmp_path / "deep" / "o.jsonl").read_bytes()
    assert content.splitlines()[:2] == ['{"note": "ü"}'.encode(), b'{"note": "\\u00fc \\ud83d"}']
    assert [json.loads(line) for line in content.splitlines()] == rows
    assert json_line({"when": Path("x")}) == '{"when": "x"}\n'


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise KeyboardInterrupt

    (tmp_path / "o.jsonl").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write_lines(tmp_path / "o.jsonl", rows())
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.jsonl"]
    assert (tmp_path / "o.jsonl").read_text() == "before"


@pytest.mark.parametrize(
    ("tail", "lost"),
    [
        ('{"scores": [1.', 1),
        ("\0" * 30, 1),
        ("\0" * 30 + "\n" + LINE, 2),
        ("\0" + LINE * 3, 3),
        ("5\n", 1),
        ("{}\n", 1),
        ('{"scores": []}\n', 1),
        ('{"scores": [], "disagreement": [], "probability": [], "more": []}\n', 1),
        ('{"scores": 1.0, "disagreement": [], "probability": []}\n', 1),
        ('{"scores": ["x"], "disagreement": [], "probability": []}\n', 1),
        ("[" * 100_000 + "\n", 1),
        ("\udcff\n", 1),
        ("\n" + LINE, 2),
    ],
)
def test_a_broken_line_ends_what_is_kept(
    tail: str, lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "p.part"
    part.write_bytes((LINE * 2 + tail).encode("utf-8", "surrogateescape"))
    assert read_part(part, 9) == [RowScores([1.0, None], [0.0, None], [])] * 2
    assert part.read_text() == LINE * 2
    said = f"line 3 is not whole; the rows from there on ({lost} in the file) are scored again"
    assert said in capsys.readouterr().err


def test_whole_parts_are_read_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "p.part"
    assert read_part(part, 3) == []
    part.write_text(LINE * 3)
    assert len(read_part(part, 3)) == 3 and len(read_part(part, 2)) == 2
    assert part.read_text() == LINE * 3 and capsys.readouterr().err == ""


def test_a_part_is_written_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "deep" / "p.part"
    with appending(part, "scored") as file:
        with pytest.raises(ValueError, match="part: another run of the same command is writing it"):
            appending(part, "scored").__enter__()
        file.write(LINE)
    with appending(part, "scored") as file:
        file.write(LINE)
    assert part.read_text() == LINE * 2
    lock = fcntl.flock

    def finished_meanwhile(file: IO[str], how: int) -> None:
        part.rename(tmp_path / "o.jsonl")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    with pytest.raises(ValueError, match="another run of the same command"):
        appending(part, "scored").__enter__()
    assert (tmp_path / "o.jsonl").read_text() == LINE * 2

    def no_locks(file: IO[str], how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with appending(part, "scored") as file:
        file.write(LINE)
    assert part.read_text() == LINE


@pytest.mark.parametrize(
    ("line", "said"), [("", "nothing was scored yet"), (LINE, "what was scored so far is kept in ")]
)
def test_an_interrupt_says_what_is_kept(line: str, said: str, tmp_path: Path) -> None:
    part = tmp_path / "p.part"
    with pytest.raises(KeyboardInterrupt, match=said), appending(part, "scored") as file:
        file.write(line)
        raise KeyboardInterrupt
    assert part.exists() == bool(line)

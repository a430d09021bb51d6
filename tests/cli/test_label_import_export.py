"""``lit-rlhf label import`` and ``export`` from files to a labelling file and on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.cli.label import export, import_
from lit_rlhf.data.files import read_rows
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict

SAMPLES = Path(__file__).parents[1] / "labelling" / "samples"
FIRST, TIE = Verdict(((0,), (1,)), "better"), Verdict(((0, 1),))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A labelling file with a pair that three judged, one of them a program, and a skip."""
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.add_annotator("rule", "a rule")
        (item,) = store.add_items([Item("pairwise", "p", ("x", "y"), row_id="r1", models=("m", "n"))])
        for number, (name, verdict) in enumerate(
            [("ann", FIRST), ("bea", FIRST), ("rule", TIE), ("cem", Verdict(skip="no"))], start=1
        ):
            at = f"2026-01-0{number}T00:00:00.000+00:00"
            store.record(item.number, name, verdict, submission=name, shown=(0, 1), at=at)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_export_says_what_is_in_it_and_what_is_not(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs.jsonl"
    export.main(["--db", str(db), "--out", str(out)])
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 3 rows of pairs, from 3 judgements",
        "  left out: 1 skipped",
        "  by programs: 1 judgement, marked `machine`; --people-only leaves them out",
        "next time: --since 4",
    ]
    assert [(row["annotator"], row["chosen"], row.get("tie")) for row in rows_of(out)] == [
        ("ann", "x", None),
        ("bea", "x", None),
        ("rule", "x", True),
    ]
    assert len(read_rows(str(out), "pairs").rows) == 3


def test_an_export_without_rows_says_why(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "pairs.jsonl", tmp_path / "table.csv"
    export.main(["--db", str(db), "--out", str(out), "--since", "4"])
    assert "  the file is empty: no judgement is later than --since 4" in capsys.readouterr().out.splitlines()
    export.main(["--db", str(db), "--out", str(out), "--votes", "min-agree", "--min-agree", "3"])
    assert "  the file is empty: every judgement was left out" in capsys.readouterr().out.splitlines()
    assert out.read_bytes() == b""
    with LabelStore(tmp_path / "new.db") as store:
        store.add_items([Item("pairwise", "p", ("x", "y"))])
    export.main(["--db", str(tmp_path / "new.db"), "--out", str(table), "--format", "csv"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"{table}: 0 rows for csv, from 0 judgements",
        "  the file is empty: nothing is judged yet",
    ]


def test_the_same_judgements_give_the_same_bytes(db: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("1.jsonl.gz", "2.jsonl.gz")]
    for out in outs:
        export.main(["--db", str(db), "--out", str(out), "--rows", "rankings"])
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_since_goes_on_and_has_what_was_revised(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.jsonl"
    with LabelStore(db) as store:
        task = store.judgements()[0].task.number
        store.submit(task, TIE, submission="again", replaces=1)
    export.main(["--db", str(db), "--out", str(out), "--since", "4"])
    (row,) = rows_of(out)
    assert (row["annotator"], row["tie"], row["judgement"]) == ("ann", True, 5)
    assert capsys.readouterr().out.splitlines()[-1] == "next time: --since 5"
    export.main(["--db", str(db), "--out", str(out)])
    assert [(row["annotator"], row["judgement"]) for row in rows_of(out)] == [
        ("bea", 2),
        ("rule", 3),
        ("ann", 5),
    ]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rows", "votes"], {"labels": 3}),
        (["--votes", "majority"], {"agreed": 2}),
        (["--votes", "min-agree"], {"agreed": 2}),
        (["--votes", "min-agree", "--min-agree", "3"], None),
        (["--people-only", "--ties", "drop", "--rows", "votes"], {"labels": 2}),
        (["--margins", "--people-only"], {"margin": 2 / 3}),
    ],
)
def test_flags_reach_the_rows(
    flags: list[str], expected: dict[str, Any] | None, db: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    export.main(["--db", str(db), "--out", str(out), *flags])
    rows = rows_of(out)
    if expected is None:
        assert rows == []
        return
    ((name, value),) = expected.items()
    found = rows[0][name]
    assert (len(found) if isinstance(found, list) else found) == value


def test_without_flagged_drops_items(db: Path, tmp_path: Path) -> None:
    with LabelStore(db) as store:
        store.record(1, "dev", FIRST, submission="dev", flag="broken")
    out = tmp_path / "out.jsonl"
    export.main(["--db", str(db), "--out", str(out)])
    assert {row["flag"] for row in rows_of(out)} == {"broken"}
    export.main(["--db", str(db), "--out", str(out), "--without-flagged"])
    assert out.read_text() == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "f.txt"], "--out f.txt: expected a name that ends in .jsonl or .jsonl.gz or .csv with"),
        (
            ["--out", "f.jsonl", "--format", "label-studio"],
            "--out f.jsonl: expected a name that ends in .json with",
        ),
        (["--out", "."], "--out .: expected a name"),
        (
            ["--out", "f.jsonl", "--min-agree", "3"],
            "--min-agree: expected --votes min-agree beside it, found each.",
        ),
        (
            ["--out", "f.csv", "--format", "csv", "--votes", "majority"],
            "--votes: goes with --format lit-rlhf, found csv",
        ),
        (
            ["--out", "f.jsonl", "--rows", "votes", "--votes", "majority"],
            "--rows votes: expected --votes each",
        ),
        (["--out", "f.jsonl", "--since", "-3"], "--since: expected the number of a judgement"),
    ],
)
def test_what_contradicts_is_refused(
    flags: list[str],
    message: str,
    db: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        export.main(["--db", str(db), *flags])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("labels.db")] == []


def test_a_store_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        export.main(["--db", str(tmp_path / "no.db"), "--out", str(tmp_path / "f.jsonl")])
    assert "no.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "judgements"),
    [("label-studio", "f.json", 4), ("argilla", "f.json", 4), ("arena", "f.jsonl", 3), ("csv", "f.csv", 4)],
)
def test_other_tools_files_come_back(
    kind: str, name: str, judgements: int, db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / name, tmp_path / "other.db"
    export.main(["--db", str(db), "--out", str(out), "--format", kind])
    assert f"for {kind}, from 4 judgements" in capsys.readouterr().out
    assert out.with_suffix(".xml").is_file() == (kind == "label-studio")
    for added, there in ((judgements, 0), (0, judgements)):
        import_.main([str(out), "--db", str(other)])
        assert f"{added} judgements added, {there} were there" in capsys.readouterr().out
    with LabelStore(db) as first, LabelStore(other) as second:
        kept = {one.annotator: one.verdict for one in second.judgements()}
        expected = {one.annotator: one.verdict for one in first.judgements()}
        if kind == "arena":
            del expected["cem"]
        assert kept == expected


def test_what_a_format_does_not_hold_is_said(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.main(["--db", str(db), "--out", str(tmp_path / "f.jsonl"), "--format", "arena"])
    lines = capsys.readouterr().out.splitlines()
    assert "  arena does not hold: 1 skips" in lines
    assert "  arena does not hold: 1 judgements of programs, not marked as such" in lines
    assert lines[-1] == "next time: --since 4"


def test_every_sample_is_imported_as_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(path) for path in SAMPLES.iterdir() if path.suffix != ".xml")
    import_.main([*files, "--db", str(tmp_path / "labels.db")])
    said = capsys.readouterr().out
    for name, words in [
        ("arena.jsonl", "battles as Chatbot Arena has them"),
        ("argilla_columns.jsonl", "Argilla's records"),
        ("label_studio_ranker.json", "Label Studio's tasks"),
        ("table.csv", "a table with a column a response"),
    ]:
        assert f"{SAMPLES / name}: read as {words}" in said
    before = (tmp_path / "labels.db").stat().st_size
    with LabelStore(tmp_path / "labels.db") as store:
        judgements = store.all_judgements()
        assert len(judgements) == 21
    import_.main([*files, "--db", str(tmp_path / "labels.db")])
    assert "  0 judgements added, 21 were there" in capsys.readouterr().out
    with LabelStore(tmp_path / "labels.db") as store:
        assert store.all_judgements() == judgements
    assert (tmp_path / "labels.db").stat().st_size == before


def test_candidates_and_tests_are_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidates, gold = tmp_path / "candidates.jsonl", tmp_path / "gold.jsonl"
    candidates.write_text(json.dumps({"prompt": "p", "responses": ["x", "y"]}) + "\n")
    gold.write_text(json.dumps({"prompt": "q", "chosen": "x", "rejected": "y", "explanation": "why"}) + "\n")
    db = str(tmp_path / "labels.db")
    import_.main([str(candidates), "--db", db, "--mode", "ranking"])
    import_.main([str(gold), "--db", db, "--gold"])
    import_.main([str(SAMPLES / "table.csv"), "--db", db, "--gold"])
    with LabelStore(db) as store:
        items = store.items()
        assert [(item.mode, item.gold is not None) for item in items[:2]] == [
            ("ranking", False),
            ("pairwise", True),
        ]
        assert store.judgements() == []
        assert len(items) > 2
    assert "1 items without an answer, which are no tests" in capsys.readouterr().out


def test_a_bad_row_stops_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt,response_1,response_2,choice\np,x,y,1\nq,x,y,7\n")
    with pytest.raises(SystemExit) as left:
        import_.main([str(path), "--db", str(tmp_path / "labels.db")])
    assert left.value.code == 2
    assert (
        f"{path}:3: expected `choice` to be 1, 2, a, b, tie or both bad, found '7'" in capsys.readouterr().err
    )
    assert not (tmp_path / "labels.db").exists()


def test_a_missing_file_is_refused_with_what_is_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text("")
    with pytest.raises(SystemExit):
        import_.main([str(tmp_path / "tabel.csv"), "--db", str(tmp_path / "labels.db")])
    assert "table.csv" in capsys.readouterr().err.splitlines()[1]


def test_other_tools_files_need_no_torch() -> None:
    code = (
        "import sys; from lit_rlhf.cli.label import export, import_; "
        "print([m for m in ('torch', 'lightning', 'transformers', 'starlette') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_what_was_judged_is_not_written_over(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates, out = tmp_path / "candidates.jsonl", tmp_path / "out.jsonl"
    candidates.write_text(json.dumps({"prompt": "p", "responses": ["x", "y"]}) + "\n")
    with pytest.raises(SystemExit):
        export.main(["--db", str(db), "--out", str(candidates)])
    assert "found other rows" in capsys.readouterr().err
    assert rows_of(candidates) == [{"prompt": "p", "responses": ["x", "y"]}]
    for arguments in (["--rows", "votes"], ["--rows", "pairs"], ["--format", "arena"], ["--since", "99"], []):
        export.main(["--db", str(db), "--out", str(out), *arguments])  # each in the place of the one before

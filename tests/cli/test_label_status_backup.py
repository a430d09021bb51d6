"""The verbs of `label` that say how far the work is, and copy it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_rlhf.cli.main import main
from lit_rlhf.labelling.items import Item, Settings
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two pairs for two annotators each, one judgement by a person and one by a program."""
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.configure(Settings(overlap=2, repeats=0.0))
        store.add_items([Item("pairwise", f"prompt {n}", ("a", "b")) for n in range(2)])
        store.add_annotator("rule", machine="a rule")
        for name, verdict, seconds in (
            ("ann", Verdict(ranking=((0, 1),)), 600.0),
            ("rule", Verdict(skip="?"), None),
        ):
            store.submit(store.next_task(name).number, verdict, submission=name, seconds=seconds, flag="")
    return path


def test_status_says_what_is_there(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["label", "status", "--db", str(labels), "--json", str(tmp_path / "s.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2 items, 2 annotators for each; 1 of 4 judgements (25%)")
    assert lines[1] == "  about 0 h 30 min of one person's work is left, at 600.0 s each"
    assert lines[2:] == [
        "  ann: 1",
        "  rule (a program): 1",
        "  (practice, tests, repeats and skips among what annotators gave; not in the total)",
        "  skipped: 1; flagged: 0",
    ]
    numbers = json.loads((tmp_path / "s.json").read_text())
    assert (numbers["given"], numbers["wanted"], numbers["done"], numbers["overlap"]) == (1, 4, False, 2)


def test_a_backup_is_a_labelling_file(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    main(["label", "backup", "--db", str(labels), "--out", str(copy)])
    assert capsys.readouterr().out == f"{copy}: 2 judgements of 2 items\n"
    with LabelStore(copy, create=False) as store:
        assert len(store.judgements()) == 2


def test_the_labelling_file_is_not_written_over(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = labels.read_bytes()
    for arguments in (["status", "--db", str(labels), "--json"], ["backup", "--db", str(labels), "--out"]):
        with pytest.raises(SystemExit):
            main(["label", *arguments, str(labels)])
        assert "expected another file than --db" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["label", "status", "--db", str(labels), "--json", "nowhere/s.json"])
    assert "expected the folder nowhere" in capsys.readouterr().err
    assert labels.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stat"], "unknown verb 'stat' of label. Did you mean 'status'?"),
        (["status", "--db", "none.db"], "none.db: expected a labelling file, found none"),
        (["backup", "--db", "none.db", "--out", "nowhere/c.db"], "expected the folder nowhere"),
        (["backup", "--db", "none.db", "--out", "none.db"], "expected another file than --db"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["label", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_and_status_need_no_torch(labels: Path) -> None:
    code = (
        "import sys; from lit_rlhf.cli.main import main; main(['label']); "
        f"main(['label', 'status', '--db', {str(labels)!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: lit-rlhf label VERB" in done.stdout and done.stdout.endswith("False\n")

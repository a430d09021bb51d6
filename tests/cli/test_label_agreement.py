"""``lit-rlhf label agreement``: prints, writes, and refuses what is no labelling file."""

import json
import subprocess
import sys

import pytest

from lit_rlhf.cli.label.agreement import main
from lit_rlhf.labelling.agreement import describe
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        for item in store.add_items([Item("pairwise", f"p {n}", ("a", "b")) for n in range(4)]):
            for name in ("ann", "bob"):
                first = int(name == "bob" and item.number == 1)
                verdict = Verdict(((first,), (1 - first,)), "better")
                store.record(item.number, name, verdict, submission=f"{item.number} {name}")
    return path


def test_it_prints_and_writes_the_same_numbers(labels, tmp_path, capsys) -> None:
    out = tmp_path / "agreement.json"
    main(["--db", str(labels), "--json", str(out)])
    printed = capsys.readouterr().out
    assert "Same verdict" in printed
    assert "75.0%" in printed
    with LabelStore(labels) as store:
        assert json.loads(out.read_text()) == describe(store)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "agreement.json",
        "labels.db",
        "labels.db-wal",
        "labels.db-shm",
    }


def test_no_file_and_a_wrong_place_are_refused(labels, tmp_path, capsys) -> None:
    for argv, sentence in [
        (["--db", str(tmp_path / "none.db")], "none.db"),
        (["--db", str(labels), "--json", str(tmp_path / "none" / "a.json")], "expected the folder"),
        (["--db", str(labels), "--json", str(labels)], "expected another file than --db"),
    ]:
        with pytest.raises(SystemExit) as refusal:
            main(argv)
        assert refusal.value.code == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_nothing_heavy_is_imported_before_somebody_asks() -> None:
    code = (
        "import sys, lit_rlhf.labelling.agreement, lit_rlhf.cli.label.agreement; "
        "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"

"""The benchmark of many annotators: its check finds every fault, and a small run goes through a real server."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.labelling import __main__ as benchmark
from benchmarks.labelling.annotators import Acknowledged, Seen
from benchmarks.labelling.check import FAULTS, check
from benchmarks.labelling.server import make_store
from lit_rlhf.labelling.items import Settings, Task
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict, parse_verdict


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, Seen]:
    """A file with what two annotators said of four items, and what they saw."""
    path, seen = tmp_path / "labels.db", Seen()
    make_store(path, 4, Settings(overlap=2, repeats=0.0))
    with LabelStore(path) as store:
        for name in ("ann", "bob"):
            while (task := store.next_task(name)) is not None:
                seen.acknowledged.append(said(store, task, f"{name} {task.number}"))
    seen.sent |= {one.submission for one in seen.acknowledged}
    return path, seen


def said(store: LabelStore, task: Task, submission: str) -> Acknowledged:
    count = len(task.shown)
    ranking = [[place] for place in range(1, count)] + [[0]]
    content = {"ranking": ranking, **({"strength": "better"} if count == 2 else {})}
    verdict = task.by_index(parse_verdict(content, task.item.mode, count))
    judgement = store.submit(task.number, verdict, submission=submission)
    return Acknowledged(submission, task.number, judgement.number, content, task.annotator)


def faults(path: Path, seen: Seen, overlap: int = 2) -> dict[str, int]:
    found = check(path, seen, overlap)
    return {name: found[name] for name in FAULTS if found[name]}


def test_a_whole_file_has_no_fault(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    assert faults(path, seen) == {}
    found = check(path, seen, 2)
    assert (found["acknowledged"], found["in_the_file"], found["in_the_file_unacknowledged"]) == (8, 8, 0)


def test_what_was_sent_and_never_acknowledged_may_be_there(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    seen.acknowledged.pop()
    assert faults(path, seen) == {} and check(path, seen, 2)["in_the_file_unacknowledged"] == 1


def test_lost_ones_are_found(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    seen.acknowledged.append(replace(seen.acknowledged[0], submission="gone"))
    seen.sent.add("gone")
    assert faults(path, seen) == {"lost": 1}


def test_ones_that_nobody_sent_are_found(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    seen.sent.discard(seen.acknowledged.pop().submission)
    assert faults(path, seen) == {"never_sent": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": {"ranking": [[0], [1]], "strength": "better"}},
        {"judgement": 99},
        {"task": 99},
        {"annotator": "eve"},
    ],
)
def test_changed_ones_are_found(judged: tuple[Path, Seen], change: dict[str, object]) -> None:
    path, seen = judged
    pair = next(place for place, one in enumerate(seen.acknowledged) if "strength" in one.verdict)
    seen.acknowledged[pair] = replace(seen.acknowledged[pair], **change)  # type: ignore[arg-type]
    assert faults(path, seen) == {"changed": 1}


def test_doubled_ones_are_found(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    first = seen.acknowledged[0]
    with LabelStore(path) as store:
        again = store.submit(first.task, Verdict(skip="no"), submission="again", replaces=first.judgement)
    seen.acknowledged.append(
        replace(first, submission="again", judgement=again.number, verdict={"skip": "no"})
    )
    seen.sent.add("again")
    # the second of a task that nobody revised, and so of the same item by the same annotator
    assert faults(path, seen) == {"doubled": 1, "judged_twice_by_one": 1}


def test_slots_beyond_the_overlap_are_found(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    assert faults(path, seen, overlap=1) == {"slots_given_beyond_overlap": 4}
    with LabelStore(path) as store:  # a skip takes no slot
        task = store.record(1, "eve", Verdict(skip="no"), submission="eve 1").task
    seen.acknowledged.append(Acknowledged("eve 1", task.number, 9, {"skip": "no"}, "eve"))
    seen.sent.add("eve 1")
    assert faults(path, seen) == {}


def test_a_judgement_sent_again_and_taken_for_a_new_one_is_found(judged: tuple[Path, Seen]) -> None:
    path, seen = judged
    seen.resent_elsewhere = 1
    assert faults(path, seen) == {"resent_and_taken_for_new": 1}


def test_percentiles_and_rows() -> None:
    assert benchmark.percentile([0.1 * place for place in range(101)], 95) == pytest.approx(9.5)
    seen = Seen(submits=[0.01, 0.02, 0.03, 0.04, 0.05], fetches=[0.2] * 5)
    rows = benchmark.rows_of(seen, 2, 10.0, 4.0, {"quick": True})
    by_work = {row["work"]: row for row in rows}
    assert by_work["label: submit, p50"]["ours"] == 30.0
    assert by_work["label: submit, p50"]["ratio"] == pytest.approx(100 / 30, abs=0.01)
    assert by_work["label: submit, p99"]["spread"] == [10.0, 50.0]
    assert by_work["label: fetch a task, p95"]["ours"] == 200.0
    pace = by_work["label: submits a second"]
    assert (pace["ours"], pace["theirs"], pace["ratio"]) == (0.5, 0.5, 1.0)


@pytest.mark.slow
def test_a_small_run_through_a_real_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labelling.json"
    monkeypatch.setattr(sys, "argv", ["labelling", "--quick", "--out", str(out)])
    benchmark.main()
    rows = json.loads(out.read_text())
    (conditions,) = {json.dumps(row.pop("conditions")) for row in rows}
    checked = json.loads(conditions)["checked"]
    assert checked["acknowledged"] > 10 and not any(checked[name] for name in FAULTS)
    assert {row["work"] for row in rows} >= {"label: submit, p95", "label: fetch a task, p95"}
    assert "label: submit, p95" in capsys.readouterr().out


def test_the_file_is_read_without_the_servers_code(judged: tuple[Path, Seen]) -> None:
    """A verdict that was changed behind the server's back is found, though the tables forbid it to the server."""
    path, seen = judged
    pair = next(one for one in seen.acknowledged if "strength" in one.verdict)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER judgements_are_not_changed")
        connection.execute(
            "UPDATE judgements SET verdict = replace(verdict, 'better', 'slightly') WHERE number = ?",
            (pair.judgement,),
        )
    assert faults(path, seen) == {"changed": 1}

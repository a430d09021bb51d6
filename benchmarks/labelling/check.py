"""Holds the file against what was acknowledged, by its tables alone and none of the server's code."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.labelling.annotators import Acknowledged, Seen


def check(store: Path, seen: Seen, overlap: int) -> dict[str, int]:
    """What was counted in the file; all faults have to be 0.

    Args:
        store: the labelling file, the server stopped.
        seen: by the annotators.
        overlap: judgements of one item at the most.
    """
    with closing(sqlite3.connect(store)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute(
            "SELECT said.*, task.item, task.annotator, task.kind, task.shown, item.responses FROM judgements AS said "
            "JOIN tasks AS task ON task.number = said.task JOIN items AS item ON item.number = task.item"
        ).fetchall()
        (whole,) = connection.execute("PRAGMA integrity_check").fetchone()
    by_submission = Counter(row["submission"] for row in rows)
    found = {row["submission"]: row for row in rows}
    skipped = {row["number"] for row in rows if "skip" in json.loads(row["verdict"])}
    slots = Counter(row["item"] for row in rows if row["kind"] == "label" and row["number"] not in skipped)
    acknowledged = {one.submission for one in seen.acknowledged}
    return {
        "acknowledged": len(seen.acknowledged),
        "in_the_file": len(rows),
        "in_the_file_unacknowledged": len(set(found) & seen.sent - acknowledged),
        "lost": len(acknowledged - set(found)),
        "never_sent": len(set(found) - seen.sent),
        "doubled": sum(count - 1 for count in by_submission.values())
        + sum(count - 1 for count in Counter(row["task"] for row in rows).values()),
        "changed": sum(
            one.submission in found and not _same(one, found[one.submission]) for one in seen.acknowledged
        ),
        "slots_given_beyond_overlap": sum(max(0, count - overlap) for count in slots.values()),
        "judged_twice_by_one": sum(
            count - 1
            for count in Counter((row["item"], row["annotator"], row["kind"]) for row in rows).values()
        ),
        "resent_and_taken_for_new": seen.resent_elsewhere,
        "file_damaged": int(whole != "ok"),
    }


FAULTS = (
    "lost", "never_sent", "doubled", "changed", "slots_given_beyond_overlap", "judged_twice_by_one",
    "resent_and_taken_for_new", "file_damaged",
)  # fmt: skip


def _same(sent: Acknowledged, row: sqlite3.Row) -> bool:
    if (sent.task, sent.judgement, sent.annotator) != (row["task"], row["number"], row["annotator"]):
        return False
    verdict: dict[str, Any] = dict(sent.verdict)
    if "ranking" in verdict:
        shown = json.loads(row["shown"])  # these responses are all different, so each position is one index
        verdict["ranking"] = [sorted(shown[place] for place in group) for group in verdict["ranking"]]
    return bool(verdict == json.loads(row["verdict"]))

"""Rows of the tables as records."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import statistics
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from lit_rlhf.labelling.items import Item, Judgement, Kind, Progress, Settings, Task
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.verdicts import Verdict

TIMED = 200
"""Of the latest judgements the median time is taken."""

_JUDGEMENT = """
SELECT said.number AS said_number, said.verdict, said.comment, said.flag, said.seconds, said.at, said.replaces,
    task.number AS task_number, task.annotator, task.kind, task.shown, item.*
FROM judgements AS said JOIN tasks AS task ON task.number = said.task JOIN items AS item ON item.number = task.item
"""


def settings(connection: sqlite3.Connection) -> Settings:
    """Those of the file; the defaults of what it does not say."""
    found = {row["name"]: json.loads(row["value"]) for row in connection.execute("SELECT * FROM settings")}
    return Settings(**{one.name: found[one.name] for one in fields(Settings) if one.name in found})


def place(seed: int, key: str) -> int:
    """Where an item stands in the random order."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:7])


def item_fields(item: Item, purpose: str, seed: int) -> dict[str, Any]:
    """An item as the columns of its table."""
    return {
        "key": item.key,
        "mode": item.mode,
        "prompt": _json(item.prompt),
        "responses": _json(item.responses),
        "row_id": item.row_id,
        "models": None if item.models is None else _json(item.models),
        "domain": item.domain,
        "turns": None if item.turns is None else _json(item.turns),
        "priority": item.priority,
        "gold": None if item.gold is None else _json(item.gold.to_json()),
        "explanation": item.explanation,
        "columns": _json(dict(item.columns)),
        "purpose": purpose,
        "place": place(seed, item.key),
    }


def items(connection: sqlite3.Connection) -> list[Item]:
    """All of them, by number."""
    return [_item(row) for row in connection.execute("SELECT * FROM items ORDER BY number")]


def item(connection: sqlite3.Connection, number: int) -> Item:
    """One of them.

    Raises:
        StoreError: there is none.
    """
    row = connection.execute("SELECT * FROM items WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise StoreError(f"item {number}: there is none with this number.")
    return _item(row)


def task(connection: sqlite3.Connection, number: int) -> Task:
    """A task with its item.

    Raises:
        StoreError: there is none.
    """
    row = connection.execute(
        "SELECT task.number AS task_number, task.annotator, task.kind, task.shown, item.* "
        "FROM tasks AS task JOIN items AS item ON item.number = task.item WHERE task.number = ?",
        (number,),
    ).fetchone()
    if row is None:
        raise StoreError(f"task {number}: there is none with this number.")
    return _task(row, _item(row))


def current(connection: sqlite3.Connection, task_number: int) -> int | None:
    """The number of a task's current judgement.

    Raises:
        StoreError: there is no such task.
    """
    row = connection.execute("SELECT judgement FROM tasks WHERE number = ?", (task_number,)).fetchone()
    if row is None:
        raise StoreError(f"task {task_number}: there is none with this number.")
    found: int | None = row["judgement"]
    return found


def judgement(connection: sqlite3.Connection, number: int) -> Judgement:
    """One that is there."""
    return _judgements(connection.execute(f"{_JUDGEMENT} WHERE said.number = ?", (number,)))[0]


def judgements(
    connection: sqlite3.Connection, since: int, kinds: Collection[Kind], current_only: bool = True
) -> list[Judgement]:
    """Those above a number, by number."""
    marks = ", ".join("?" for _ in kinds)
    only = "AND task.judgement = said.number" if current_only else ""
    return _judgements(
        connection.execute(
            f"{_JUDGEMENT} WHERE said.number > ? AND task.kind IN ({marks}) {only} ORDER BY said.number",
            (since, *kinds),
        )
    )


def of_task(connection: sqlite3.Connection, number: int) -> list[Judgement]:
    """All of a task, by number."""
    return _judgements(
        connection.execute(f"{_JUDGEMENT} WHERE said.task = ? ORDER BY said.number", (number,))
    )


def history(connection: sqlite3.Connection, annotator: str, limit: int) -> list[Judgement]:
    """Somebody's current ones, latest first."""
    return _judgements(
        connection.execute(
            f"{_JUDGEMENT} WHERE said.number IN (SELECT judgement FROM tasks WHERE annotator = ? "
            "AND judgement IS NOT NULL ORDER BY judgement DESC LIMIT ?) ORDER BY said.number DESC",
            (annotator, limit),
        )
    )


def progress(connection: sqlite3.Connection) -> Progress:
    """Counts over the whole file."""
    overlap = settings(connection).overlap
    labelled, given = connection.execute(
        "SELECT count(*), coalesce(sum(min(judged, ?)), 0) FROM items WHERE purpose = 'label'", (overlap,)
    ).fetchone()
    by_annotator = connection.execute(
        "SELECT annotator, count(*) FROM tasks WHERE judgement IS NOT NULL GROUP BY annotator ORDER BY annotator"
    ).fetchall()
    machines = connection.execute(
        "SELECT name FROM annotators WHERE machine IS NOT NULL ORDER BY name"
    ).fetchall()
    seconds = connection.execute(
        "SELECT said.seconds FROM judgements AS said JOIN tasks AS task ON task.number = said.task "
        "JOIN annotators ON annotators.name = task.annotator WHERE task.judgement = said.number "
        "AND machine IS NULL AND said.seconds IS NOT NULL ORDER BY said.number DESC LIMIT ?",
        (TIMED,),
    ).fetchall()
    current = "FROM judgements AS said JOIN tasks AS task ON task.number = said.task WHERE task.judgement = said.number"
    (skipped,) = connection.execute(
        f"""SELECT count(*) {current} AND substr(verdict, 1, 7) = '{{"skip"'"""
    ).fetchone()
    (flagged,) = connection.execute(f"SELECT count(*) {current} AND flag != ''").fetchone()
    return Progress(
        items=labelled,
        wanted=labelled * overlap,
        given=given,
        by_annotator=dict(map(tuple, by_annotator)),
        machines=[row["name"] for row in machines],
        seconds_each=statistics.median(row["seconds"] for row in seconds) if seconds else None,
        skipped=skipped,
        flagged=flagged,
    )


def slots_left(connection: sqlite3.Connection) -> int:
    """Of each item its overlap less those who judged or skipped it."""
    (left,) = connection.execute(
        """
        SELECT coalesce(sum(max(0, ? - (
            SELECT count(*) FROM tasks WHERE item = items.number AND kind = 'label' AND judgement IS NOT NULL
        ))), 0) FROM items WHERE purpose = 'label'
        """,
        (settings(connection).overlap,),
    ).fetchone()
    return int(left)


def _judgements(rows: Sequence[sqlite3.Row] | sqlite3.Cursor) -> list[Judgement]:
    """Items that are judged often are read once."""
    known: dict[int, Item] = {}
    found = []
    for row in rows:
        if row["number"] not in known:
            known[row["number"]] = _item(row)
        found.append(
            Judgement(
                number=row["said_number"],
                task=_task(row, known[row["number"]]),
                verdict=_verdict(row["verdict"]),
                comment=row["comment"],
                flag=row["flag"],
                seconds=row["seconds"],
                at=row["at"],
                replaces=row["replaces"],
            )
        )
    return found


def _task(row: sqlite3.Row, of: Item) -> Task:
    shown = tuple(json.loads(row["shown"]))
    return Task(row["task_number"], of, row["annotator"], row["kind"], shown or of.distinct, seen=bool(shown))


def _item(row: sqlite3.Row) -> Item:
    return Item(
        mode=row["mode"],
        prompt=json.loads(row["prompt"]),
        responses=tuple(json.loads(row["responses"])),
        row_id=row["row_id"],
        models=None if row["models"] is None else tuple(json.loads(row["models"])),
        domain=row["domain"],
        turns=None if row["turns"] is None else tuple(json.loads(row["turns"])),
        priority=row["priority"],
        gold=_verdict(row["gold"]),
        explanation=row["explanation"],
        columns=json.loads(row["columns"]),
        number=row["number"],
    )


def _verdict(text: str | None) -> Verdict | None:
    """What the store wrote; it was checked when it was said."""
    if text is None:
        return None
    said = json.loads(text)
    if "ranking" in said:
        said["ranking"] = tuple(tuple(group) for group in said["ranking"])
    if "ratings" in said:
        said["ratings"] = tuple(said["ratings"])
    return Verdict(**said)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

"""What writers put into the tables; all of it inside the transaction of who calls."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lit_rlhf.labelling import reading
from lit_rlhf.labelling.items import Item, Judgement, Kind, Settings, shown_order
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.verdicts import Verdict, VerdictError, check_encodable, parse_verdict, renumbered


def item_row(item: Item, purpose: str, seed: int) -> dict[str, Any]:
    """An item as the columns of its table, held against what the table can hold.

    Raises:
        StoreError: its known answer is none of its mode, or a text is not one that UTF-8 can hold.
    """
    try:
        if item.gold is not None:
            parse_verdict(item.gold.to_json(), item.mode, len(item.responses))
        row = reading.item_fields(item, purpose, seed)
        "".join(str(value) for value in row.values()).encode()
    except VerdictError as error:
        raise StoreError(
            f"row {item.row_id or item.key[:8]}: the known answer cannot be given; {error}"
        ) from None
    except UnicodeEncodeError:
        raise StoreError(
            f"row {item.row_id or item.key[:8]}: expected text that UTF-8 can hold, found half of a surrogate pair."
        ) from None
    return row


def add_item(connection: sqlite3.Connection, item: Item, row: dict[str, Any]) -> Item:
    """Put an item into the file; where one asks the same, renew its priority and known answer instead.

    Args:
        connection: in a transaction.
        item: that is added.
        row: from :func:`item_row`.

    Returns:
        The one that is in the file.
    """
    known = connection.execute("SELECT number FROM items WHERE key = ?", (row["key"],)).fetchone()
    if known is None:
        names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        added = connection.execute(f"INSERT INTO items ({names}) VALUES ({marks})", row)
        return replace(item, number=int(added.lastrowid or 0))
    there = reading.item(connection, known["number"])
    gold = item.gold
    if gold is not None and item.responses != there.responses:
        gold = renumbered(gold, there.places_of(item.responses))
    renewed = {
        "number": there.number,
        "priority": there.priority if item.priority is None else item.priority,
        "gold": None if gold is None else json.dumps(gold.to_json(), ensure_ascii=False),
        "explanation": item.explanation or there.explanation,
        "purpose": row["purpose"],
    }
    connection.execute(
        "UPDATE items SET priority = :priority, gold = :gold, explanation = :explanation, purpose = CASE :purpose "
        "WHEN 'live' THEN purpose ELSE :purpose END WHERE number = :number",
        renewed,
    )
    return reading.item(connection, there.number)


def open_task(
    connection: sqlite3.Connection, item: int, kind: Kind, annotator: str, settings: Settings
) -> int:
    """The number of a task that is hers from now on, for as long as a lease."""
    number = task_for(connection, item, annotator, kind)
    connection.execute(
        "UPDATE tasks SET leased_until = ? WHERE number = ?",
        (time.time() + settings.lease_seconds, number),
    )
    return number


def task_for(
    connection: sqlite3.Connection,
    item: int,
    annotator: str,
    kind: Kind,
    shown: Sequence[int] | None = None,
) -> int:
    """The number of the task of this item, annotator and kind, made where there is none.

    Args:
        connection: in a transaction.
        item: its number.
        annotator: who is asked.
        kind: why.
        shown: the order in which a new one's distinct responses were seen; empty = nobody knows, None = as it is drawn.

    Raises:
        StoreError: there is no such item, or it has other responses than were shown.
    """
    found = connection.execute(
        "SELECT number FROM tasks WHERE item = ? AND annotator = ? AND kind = ?", (item, annotator, kind)
    ).fetchone()
    if found is not None:
        return int(found["number"])
    of = reading.item(connection, item)
    if shown is None:
        first = connection.execute(
            "SELECT shown FROM tasks WHERE item = ? AND annotator = ? AND kind = 'label'",
            (item, annotator),
        ).fetchone()
        if kind in ("repeat", "swap") and first is not None:  # whatever the seed was then
            shown = json.loads(first["shown"])[:: 1 if kind == "repeat" else -1]
        else:
            shown = shown_order(of, annotator, reading.settings(connection).seed)
    elif shown and sorted(shown) != list(of.distinct):
        raise StoreError(
            f"item {item}: expected {list(of.distinct)} in the order shown, found {list(shown)}."
        )
    (number,) = connection.execute(
        "INSERT INTO tasks (item, annotator, kind, shown, opened, leased_until) VALUES (?, ?, ?, ?, ?, 0) "
        "RETURNING number",
        (item, annotator, kind, json.dumps(list(shown)), time.time()),
    ).fetchone()
    return int(number)


def said_before(connection: sqlite3.Connection, submission: str, task: int) -> Judgement | None:
    """What this submission made before, if it did.

    Raises:
        StoreError: it was another task's.
    """
    found = connection.execute(
        "SELECT number, task FROM judgements WHERE submission = ?", (submission,)
    ).fetchone()
    if found is None:
        return None
    if found["task"] != task:
        raise StoreError(f"submission {submission!r}: was for task {found['task']}, not for {task}.")
    return reading.judgement(connection, found["number"])


def append_judgement(
    connection: sqlite3.Connection,
    task: int,
    verdict: Verdict | None,
    submission: str,
    comment: str,
    flag: str,
    seconds: float | None,
    at: str | None,
) -> Judgement:
    """Add a judgement, which is the task's current one from now on; the item's count of them follows.

    Args:
        connection: in a transaction.
        task: its number.
        verdict: by the item's indices; None = the task's judgement is taken back, and it is asked again.
        submission: an id of this very judgement.
        comment: on the responses.
        flag: what is wrong with the item.
        seconds: it took.
        at: when, UTC in ISO 8601; None = now.

    Raises:
        StoreError: there is no such task.
        VerdictError: the verdict is none of this item's mode.
    """
    of = reading.task(connection, task)
    said = None
    check_encodable(comment, flag)
    if verdict is not None:
        said = parse_verdict(verdict.to_json(), of.item.mode, len(of.item.responses)).to_json()
    (number,) = connection.execute(
        "INSERT INTO judgements (submission, task, verdict, comment, flag, seconds, at, replaces) VALUES "
        "(?, ?, ?, ?, ?, ?, ?, (SELECT max(number) FROM judgements WHERE task = ?)) RETURNING number",
        (
            submission,
            task,
            None if said is None else json.dumps(said, ensure_ascii=False),
            comment,
            flag,
            seconds,
            at or datetime.now(UTC).isoformat(timespec="milliseconds"),
            task,
        ),
    ).fetchone()
    if said is None:
        now = time.time()
        lease = reading.settings(connection).lease_seconds
        connection.execute(
            "UPDATE tasks SET judgement = NULL, opened = ?, leased_until = ? WHERE number = ?",
            (now, now + lease, task),
        )
    else:
        connection.execute("UPDATE tasks SET judgement = ? WHERE number = ?", (number, task))
    connection.execute(
        """
        UPDATE items SET judged = (
            SELECT count(*) FROM tasks JOIN judgements ON judgements.number = tasks.judgement
            WHERE tasks.item = items.number AND kind = 'label' AND substr(verdict, 1, 7) != '{"skip"'
        ) WHERE number = ?
        """,
        (of.item.number,),
    )
    return reading.judgement(connection, number)

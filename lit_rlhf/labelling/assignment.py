"""Who is given what next. Everything here runs inside one transaction of the store."""

from __future__ import annotations

import hashlib
import sqlite3
import time

from lit_rlhf.labelling.items import Kind, Settings

APART = 5
"""Judgements that lie between an item and its repetition, at the least."""


def open_tasks(connection: sqlite3.Connection, annotator: str, settings: Settings, limit: int) -> list[int]:
    """Tasks that she was given and has not judged, latest first: so a reload comes back to the same item.

    One that she let lie beyond its lease is hers only as long as nobody else has done it; what was taken back waits
    until she judges it again.
    """
    now = time.time()
    rows = connection.execute(
        """
        SELECT task.number, task.kind, task.leased_until, item.judged, (
            SELECT count(*) FROM tasks AS other WHERE other.item = task.item AND other.kind = 'label'
            AND other.judgement IS NULL AND other.leased_until > :now AND other.number != task.number
        ) AS held, EXISTS (SELECT 1 FROM judgements WHERE judgements.task = task.number) AS taken_back
        FROM tasks AS task JOIN items AS item ON item.number = task.item
        WHERE task.annotator = :annotator AND task.judgement IS NULL ORDER BY task.opened DESC, task.number DESC
        """,
        {"annotator": annotator, "now": now},
    ).fetchall()
    mine = []
    for row in rows:
        late = row["kind"] == "label" and row["leased_until"] <= now and not row["taken_back"]
        if late and row["judged"] + row["held"] >= settings.overlap:
            continue
        mine.append(row["number"])
        if len(mine) == limit:
            break
    connection.executemany(
        "UPDATE tasks SET leased_until = ? WHERE number = ?",
        [(now + settings.lease_seconds, number) for number in mine],
    )
    return mine


def choose(
    connection: sqlite3.Connection, annotator: str, settings: Settings, held: int
) -> tuple[int, Kind] | None:
    """The number of the item that she is asked next, and why; None when there is nothing for her now.

    Args:
        connection: inside a transaction.
        annotator: who is asked.
        settings: of the store.
        held: tasks that she has in hand already.
    """
    given, practised = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE kind = 'practice') FROM tasks WHERE annotator = ?",
        (annotator,),
    ).fetchone()
    if settings.practice > practised and (number := _unseen_gold(connection, annotator)) is not None:
        return number, "practice"
    if settings.quota is not None and judged_by(connection, annotator) + held >= settings.quota:
        return None
    unlabelled = _free_item(connection, annotator, settings)
    if unlabelled is None:
        return None
    draw = _share(settings.seed, annotator, given)
    if draw < settings.gold_share:
        if (number := _unseen_gold(connection, annotator)) is not None:
            return number, "gold"
    elif draw < settings.gold_share + settings.repeats and (
        (number := _to_repeat(connection, annotator)) is not None
    ):
        swapped = _share(settings.seed, annotator, number) < 0.5
        return number, "swap" if swapped else "repeat"
    return unlabelled, "label"


def judged_by(connection: sqlite3.Connection, annotator: str) -> int:
    """Tasks that she has judged, practice left out."""
    (count,) = connection.execute(
        "SELECT count(*) FROM tasks WHERE annotator = ? AND judgement IS NOT NULL AND kind NOT IN ('practice', 'live')",
        (annotator,),
    ).fetchone()
    return int(count)


def why_nothing(connection: sqlite3.Connection, annotator: str, settings: Settings) -> str:
    """Why there is nothing for her: ``quota``, ``waiting`` for what others hold, ``empty``, or ``done``."""
    if settings.quota is not None and judged_by(connection, annotator) >= settings.quota:
        return "quota"
    (held,) = connection.execute(
        """
        SELECT count(*) FROM items AS item WHERE purpose = 'label' AND judged < :overlap
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE item = item.number AND kind = 'label' AND annotator = :annotator)
        """,
        {"annotator": annotator, "overlap": settings.overlap},
    ).fetchone()
    if held:
        return "waiting"
    there = connection.execute("SELECT 1 FROM items WHERE purpose != 'live' LIMIT 1").fetchone()
    return "empty" if there is None else "done"


def _free_item(connection: sqlite3.Connection, annotator: str, settings: Settings) -> int | None:
    """The first item that she has not seen and that has a free slot: judged by few, and held by few others.

    All annotators have one order, so that the items that several have to judge are complete early.
    """
    order = "priority DESC, place" if settings.order == "active" else "place"
    row = connection.execute(
        f"""
        SELECT number FROM items AS item WHERE purpose = 'label' AND judged < :overlap
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE item = item.number AND kind = 'label' AND annotator = :annotator)
        AND judged + (
            SELECT count(*) FROM tasks WHERE item = item.number AND kind = 'label' AND judgement IS NULL
            AND leased_until > :now
        ) < :overlap
        ORDER BY {order} LIMIT 1
        """,
        {"annotator": annotator, "overlap": settings.overlap, "now": time.time()},
    ).fetchone()
    return None if row is None else int(row["number"])


def _unseen_gold(connection: sqlite3.Connection, annotator: str) -> int | None:
    row = connection.execute(
        """
        SELECT number FROM items AS item WHERE purpose = 'gold'
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE item = item.number AND annotator = ?) ORDER BY place LIMIT 1
        """,
        (annotator,),
    ).fetchone()
    return None if row is None else int(row["number"])


def _to_repeat(connection: sqlite3.Connection, annotator: str) -> int | None:
    """The item that she judged longest ago and has seen once, in an order that is known; no correction is asked for
    twice."""
    row = connection.execute(
        """
        SELECT task.item FROM tasks AS task JOIN judgements AS said ON said.number = task.judgement
        JOIN items AS item ON item.number = task.item
        WHERE task.annotator = :annotator AND task.kind = 'label' AND item.mode != 'rewrite' AND task.shown != '[]'
        AND substr(said.verdict, 1, 7) != '{"skip"'
        AND NOT EXISTS (
            SELECT 1 FROM tasks AS other WHERE other.item = task.item AND other.annotator = :annotator
            AND other.kind IN ('repeat', 'swap')
        )
        AND task.number < (
            SELECT number FROM tasks WHERE annotator = :annotator ORDER BY number DESC LIMIT 1 OFFSET :apart - 1
        )
        ORDER BY task.number LIMIT 1
        """,
        {"annotator": annotator, "apart": APART},
    ).fetchone()
    return None if row is None else int(row["item"])


def _share(*of: object) -> float:
    """A number in [0, 1) drawn from what it is of."""
    digest = hashlib.sha256("|".join(map(str, of)).encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56

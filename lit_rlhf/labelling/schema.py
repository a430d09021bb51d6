"""The tables of a labelling file, and how an older file becomes a newer one."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

APPLICATION_ID = 0x6C72_6C62
"""Stands in the head of every file of ours."""
OLDEST_SQLITE = (3, 37)
"""The first with strict tables."""
BUSY_SECONDS = 20.0
"""How long a writer waits for another, a process of a backup or a second server among them."""

FIRST = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE annotators (name TEXT PRIMARY KEY, machine TEXT) STRICT;

CREATE TABLE items (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    mode TEXT NOT NULL,
    prompt TEXT NOT NULL,
    responses TEXT NOT NULL,
    row_id TEXT,
    models TEXT,
    domain TEXT,
    turns TEXT,
    priority REAL,
    gold TEXT,
    explanation TEXT NOT NULL,
    columns TEXT NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('label', 'gold', 'live')),
    place INTEGER NOT NULL,          -- in the random order
    judged INTEGER NOT NULL DEFAULT 0 -- annotators whose current judgement of it, of kind label, is no skip
) STRICT;
CREATE INDEX items_at_random ON items (purpose, place, judged);
CREATE INDEX items_by_priority ON items (purpose, priority DESC, place, judged);

-- who was given what; changes as judgements come and go
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES items,
    annotator TEXT NOT NULL REFERENCES annotators,
    kind TEXT NOT NULL,
    shown TEXT NOT NULL,
    opened REAL NOT NULL,
    leased_until REAL NOT NULL,
    judgement INTEGER REFERENCES judgements, -- the current one, NULL while there is none
    UNIQUE (item, annotator, kind)
) STRICT;
CREATE INDEX tasks_of_annotator ON tasks (annotator, judgement);

-- what was said; only ever added to
CREATE TABLE judgements (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    submission TEXT NOT NULL UNIQUE,
    task INTEGER NOT NULL REFERENCES tasks,
    verdict TEXT, -- NULL takes the earlier one back
    comment TEXT NOT NULL,
    flag TEXT NOT NULL,
    seconds REAL,
    at TEXT NOT NULL,
    replaces INTEGER UNIQUE REFERENCES judgements
) STRICT;
CREATE INDEX judgements_of_task ON judgements (task);
CREATE INDEX judgements_skipped ON judgements (task, number) WHERE substr(verdict, 1, 7) = '{"skip"';
CREATE INDEX judgements_flagged ON judgements (task, number) WHERE flag != '';
CREATE TRIGGER judgements_are_not_changed BEFORE UPDATE ON judgements
BEGIN SELECT RAISE (ABORT, 'judgements are only ever added'); END;
CREATE TRIGGER judgements_are_not_removed BEFORE DELETE ON judgements
BEGIN SELECT RAISE (ABORT, 'judgements are only ever added'); END;
"""

MIGRATIONS: tuple[str, ...] = (FIRST,)
"""Each takes a file from one version to the next; the version is how many have been run."""


class StoreError(ValueError):
    """What was asked for cannot be done with this file; the message says why and what to do."""


class StoreBusy(StoreError):
    """Somebody else has been writing for too long; the same may go well later."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a labelling file, in write-ahead mode, whose acknowledged writes reach the disk."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def prepare(path: Path, create: bool) -> None:
    """Make the file, or bring an older one up to date; a copy of the older one is left beside it.

    Raises:
        StoreError: there is no file and none is to be made, it is another program's, a newer version's, or SQLite is
            too old.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(f"expected SQLite 3.37 or newer behind this Python, found {sqlite3.sqlite_version}.")
    if not path.exists():
        if not create:
            raise StoreError(f"{path}: expected a labelling file, found none. `lit-rlhf label serve FILE --db {path}` "
                             "or `lit-rlhf label import` makes one.")  # fmt: skip
        if not path.parent.is_dir():
            raise StoreError(f"{path}: expected the folder {path.parent} to be there, found none.")
    connection = _open(path)
    try:
        version = _version(connection, path)
        if not version and not create:
            raise StoreError(f"{path}: expected a labelling file, found an empty one.")
        if version not in (0, len(MIGRATIONS)):
            backup_before(connection, path, version)
        connection.execute("PRAGMA journal_mode = WAL")  # a backup that is served comes without
        if version == len(MIGRATIONS):
            return
        connection.execute("BEGIN EXCLUSIVE")
        try:
            # another process may have been quicker
            for step in MIGRATIONS[_version(connection, path) :]:
                _run(connection, step)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    finally:
        connection.close()


def backup_to(connection: sqlite3.Connection, path: Path) -> None:
    """A consistent copy, also while others write; written beside and renamed.

    Raises:
        StoreError: the file that it would take the place of is in use, was not closed, or is no labelling file.
    """
    for companion in ("-wal", "-shm", "-journal"):
        if path.with_name(path.name + companion).exists():
            raise StoreError(
                f"{path}: expected a file that nobody uses, found {path.name}{companion} beside it. Take another name; "
                f"or stop what uses it, and run `lit-rlhf label status --db {path}` once."
            )
    if path.exists() and path.stat().st_size and not _is_ours(path):
        raise StoreError(
            f"{path}: expected no file, or an older copy to replace, found something else. Take another name."
        )
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.unlink(missing_ok=True)
    copy = sqlite3.connect(beside)
    try:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
    finally:
        copy.close()
    os.replace(beside, path)


def backup_before(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """A copy of a file that is about to be migrated."""
    copy = path.with_name(f"{path.name}.version-{version}.backup")
    if not copy.exists():
        backup_to(connection, copy)


def _is_ours(path: Path) -> bool:
    """Whether the head of a file says so; it is not opened as SQLite would."""
    with path.open("rb") as stream:
        head = stream.read(72)
    return head.startswith(b"SQLite format 3") and head[68:] == APPLICATION_ID.to_bytes(4, "big")


def _open(path: Path) -> sqlite3.Connection:
    try:
        connection = connect(path)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: expected a labelling file, found something else ({error}).") from None
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreError(f"{path}: expected a labelling file, found the SQLite file of another program.")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path}: is of version {version}, and this lit-rlhf knows versions up to {len(MIGRATIONS)}: "
            "use the newer lit-rlhf that wrote it."
        )
    return int(version) if tables else 0


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Each statement of a script, inside the transaction that is open (`executescript` would end it)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    if statement.strip():
        raise StoreError(f"a migration ends in half a statement: {statement.strip()[:80]}")

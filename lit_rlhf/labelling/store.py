"""One SQLite file with what is judged, who is asked, and everything that was ever said.

Judgements are only ever added: a revision is one more, which replaces the earlier one, and so is an undo. Writers take
turns through ``BEGIN IMMEDIATE`` and are answered after their words have reached the disk, so what was acknowledged
survives a kill; several processes may use one file.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from lit_rlhf.labelling import assignment, reading, writing
from lit_rlhf.labelling.items import KINDS, Item, Judgement, Kind, Progress, Settings, Task
from lit_rlhf.labelling.schema import StoreBusy, StoreError, backup_to, connect, prepare
from lit_rlhf.labelling.verdicts import Verdict


class StaleJudgement(StoreError):
    """The task has another judgement by now than the one that was to be replaced."""


class LabelStore:
    """A labelling file; may be used from several threads, and by several processes.

    Args:
        path: of the file.
        create: whether to make it where it does not exist.

    Raises:
        StoreError: there is none and none is to be made, it is no labelling file, or a newer version wrote it.
    """

    def __init__(self, path: Path | str, create: bool = True) -> None:
        self.path = Path(path)
        prepare(self.path, create)
        self._writer = connect(self.path)
        self._turn = threading.Lock()
        self._readers: deque[sqlite3.Connection] = deque()
        """Connections that nobody reads through at the moment; opening one costs more than most reads."""

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._writer.close()
        while self._readers:
            self._readers.pop().close()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- settings, items, annotators --------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """How items are handed out."""
        with self._reading() as connection:
            return reading.settings(connection)

    def configure(self, settings: Settings) -> None:
        """Hand items out by other settings from now on; judgements stay as they are."""
        with self._writing() as connection:
            before = reading.settings(connection)
            connection.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in asdict(settings).items()],
            )
            if settings.seed != before.seed:
                keys = connection.execute("SELECT number, key FROM items").fetchall()
                connection.executemany(
                    "UPDATE items SET place = ? WHERE number = ?",
                    [(reading.place(settings.seed, row["key"]), row["number"]) for row in keys],
                )

    def add_items(self, items: Sequence[Item]) -> list[Item]:
        """Put items into the file; one that asks the same as another is that one, with priority and gold renewed.

        Returns:
            For each item the one in the file: of one that was there, its responses may stand in another order.

        Raises:
            StoreError: an item's known answer is none of its mode, or a text is not one that UTF-8 can hold.
        """
        with self._reading() as connection:
            seed = reading.settings(connection).seed
        rows = [
            writing.item_row(item, "gold" if item.gold else "label", seed) for item in items
        ]  # before others wait
        with self._writing() as connection:
            return [writing.add_item(connection, item, row) for item, row in zip(items, rows, strict=True)]

    def items(self) -> list[Item]:
        """All of them, in the order in which they came."""
        with self._reading() as connection:
            return reading.items(connection)

    def item(self, number: int) -> Item:
        """One of them.

        Raises:
            StoreError: there is none with this number.
        """
        with self._reading() as connection:
            return reading.item(connection, number)

    def add_annotator(self, name: str, machine: str | None = None) -> None:
        """Let somebody judge; nothing changes for who is known.

        Args:
            name: of a person or program.
            machine: what kind of program it is; None = a person.

        Raises:
            StoreError: a person takes a program's name, or the reverse, or another program's.
        """
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO annotators VALUES (?, ?)", (name, machine))
            (found,) = connection.execute("SELECT machine FROM annotators WHERE name = ?", (name,)).fetchone()
        if found != machine:
            kinds = [f"a program ({one})" if one else "a person" for one in (found, machine)]
            raise StoreError(
                f"{name!r} is the name of {kinds[0]} here already, not of {kinds[1]}: take another name."
            )

    def machines(self) -> dict[str, str]:
        """The annotators that are programs, with what they are."""
        with self._reading() as connection:
            return dict(
                connection.execute(
                    "SELECT name, machine FROM annotators WHERE machine IS NOT NULL"
                ).fetchall()
            )

    # --- being asked ------------------------------------------------------------------------------------

    def next_task(self, annotator: str) -> Task | None:
        """What she is asked now: what she was shown and has not answered, else the next; None = nothing for now."""
        tasks = self.next_tasks(annotator, 1)
        return tasks[0] if tasks else None

    def next_tasks(self, annotator: str, limit: int) -> list[Task]:
        """Up to `limit` tasks that are hers at once, for a program that judges many together."""
        with self._writing() as connection:
            settings = reading.settings(connection)
            connection.execute("INSERT OR IGNORE INTO annotators VALUES (?, NULL)", (annotator,))
            numbers = assignment.open_tasks(connection, annotator, settings, limit)
            while len(numbers) < limit:
                chosen = assignment.choose(connection, annotator, settings, len(numbers))
                if chosen is None:
                    break
                numbers.append(writing.open_task(connection, *chosen, annotator, settings))
            return [reading.task(connection, number) for number in numbers]

    def why_nothing(self, annotator: str) -> str:
        """Why :meth:`next_task` has nothing: ``quota``, ``waiting`` (others hold the rest), ``empty`` or ``done``."""
        with self._reading() as connection:
            return assignment.why_nothing(connection, annotator, reading.settings(connection))

    def task(self, number: int) -> Task:
        """A task by its number.

        Raises:
            StoreError: there is none.
        """
        with self._reading() as connection:
            return reading.task(connection, number)

    def live_task(self, item: Item, annotator: str) -> Task:
        """An item that came from the page itself, for who typed its prompt."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO annotators VALUES (?, NULL)", (annotator,))
            row = writing.item_row(item, "live", reading.settings(connection).seed)
            number = writing.add_item(connection, item, row).number
            return reading.task(connection, writing.task_for(connection, number, annotator, "live"))

    # --- saying something -------------------------------------------------------------------------------

    def submit(
        self,
        task: int,
        verdict: Verdict,
        *,
        submission: str,
        replaces: int | None = None,
        comment: str = "",
        flag: str = "",
        seconds: float | None = None,
    ) -> Judgement:
        """Add a judgement; it is on the disk when this returns.

        Args:
            task: its number.
            verdict: by the item's indices.
            submission: an id of this very judgement; the same one again returns what it made the first time.
            replaces: the task's current judgement, None where it has none.
            comment: on the responses.
            flag: what is wrong with the item.
            seconds: it took.

        Raises:
            StaleJudgement: `replaces` is not the task's current judgement.
            StoreError: there is no such task, or the submission's id was another task's.
            VerdictError: the verdict is none of this item's mode.
        """
        with self._writing() as connection:
            said = writing.said_before(connection, submission, task)
            if said is not None:
                return said
            current = reading.current(connection, task)
            if replaces != current:
                found = "has none" if current is None else f"is {current}"
                raise StaleJudgement(
                    f"task {task}: its judgement {found} by now; look at it again before you change it."
                )
            return writing.append_judgement(
                connection, task, verdict, submission, comment, flag, seconds, None
            )

    def reopen(self, task: int, submission: str) -> Task:
        """Take a task's judgement back; it is asked again.

        Raises:
            StoreError: there is no such task, or nothing to take back.
        """
        with self._writing() as connection:
            if writing.said_before(connection, submission, task) is None:
                if reading.current(connection, task) is None:
                    raise StoreError(f"task {task}: there is no judgement to take back.")
                writing.append_judgement(connection, task, None, submission, "", "", None, None)
            return reading.task(connection, task)

    def record(
        self,
        item: int,
        annotator: str,
        verdict: Verdict,
        *,
        submission: str,
        kind: Kind = "label",
        shown: Sequence[int] | None = None,
        comment: str = "",
        flag: str = "",
        seconds: float | None = None,
        at: str | None = None,
    ) -> Judgement:
        """Add a judgement that was made elsewhere; the same `submission` again returns what it made the first time.

        Args:
            item: its number.
            annotator: who made it.
            verdict: by the item's indices.
            submission: an id of this very judgement.
            kind: why it was asked.
            shown: the order in which the distinct responses were seen; None = nobody knows.
            comment: on the responses.
            flag: what is wrong with the item.
            seconds: it took.
            at: when, UTC in ISO 8601; None = now.

        Raises:
            StoreError: there is no such item, or it has other responses than were shown.
            VerdictError: the verdict is none of this item's mode.
        """
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO annotators VALUES (?, NULL)", (annotator,))
            task = writing.task_for(connection, item, annotator, kind, shown or ())
            said = writing.said_before(connection, submission, task)
            return said or writing.append_judgement(
                connection, task, verdict, submission, comment, flag, seconds, at
            )

    def task_of(self, submission: str) -> Task | None:
        """The task of the judgement that a submission made or took back; None where it did neither."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT task FROM judgements WHERE submission = ?", (submission,)
            ).fetchone()
            return None if found is None else reading.task(connection, found["task"])

    # --- what was said ----------------------------------------------------------------------------------

    def current(self, task: int) -> Judgement | None:
        """A task's current judgement; None where there is none."""
        with self._reading() as connection:
            number = reading.current(connection, task)
            return None if number is None else reading.judgement(connection, number)

    def judgements(self, since: int = 0, kinds: Collection[Kind] = KINDS) -> list[Judgement]:
        """The current ones, with numbers above `since`, in their order."""
        with self._reading() as connection:
            return reading.judgements(connection, since, kinds)

    def of_task(self, task: int) -> list[Judgement]:
        """Everything that was said of a task, what was revised and taken back too, in order."""
        with self._reading() as connection:
            return reading.of_task(connection, task)

    def all_judgements(self) -> list[Judgement]:
        """Everything that was ever said, what was revised and taken back too."""
        with self._reading() as connection:
            return reading.judgements(connection, 0, KINDS, current_only=False)

    def history(self, annotator: str, limit: int = 50) -> list[Judgement]:
        """Her current judgements, latest first."""
        with self._reading() as connection:
            return reading.history(connection, annotator, limit)

    def progress(self) -> Progress:
        """How far the work is."""
        with self._reading() as connection:
            return reading.progress(connection)

    def slots_left(self) -> int:
        """Judgements that are still to be asked for; what somebody skipped was asked, and is not asked of her again."""
        with self._reading() as connection:
            return reading.slots_left(connection)

    def judged_by(self, annotator: str) -> int:
        """Tasks that she has judged, practice left out: what a quota counts."""
        with self._reading() as connection:
            return assignment.judged_by(connection, annotator)

    def backup(self, path: Path) -> None:
        """A consistent copy in one file, also while judgements come in."""
        with self._reading() as connection:
            backup_to(connection, path)

    # --- inside one transaction -------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise StoreBusy(f"{self.path}: cannot be written to now ({error}); try again.") from None
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the file, whoever writes meanwhile; nobody is kept waiting."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = connect(self.path)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")  # nothing was written
            self._readers.append(connection)

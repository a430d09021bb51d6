"""Waiting for people: how far they are, how long it will take, and when every item has what it needs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lit_rlhf.cli.progress import duration
from lit_rlhf.labelling.items import Progress
from lit_rlhf.labelling.store import LabelStore

SECONDS_BETWEEN = 30.0
"""At most one line in so many seconds, but for the first and the last."""


class LeaveForPeople(SystemExit):
    """People have not finished, and nobody asked us to wait. Exit code 0: nothing went wrong."""

    def __init__(self) -> None:
        super().__init__(0)


def settle(db: Path, overlap: int, programs: int, seed: int) -> None:
    """Have a labelling file ask for what the loop needs.

    Programs get no item twice: they would only say again what their noise makes of it. Where an item is judged once
    and there are several, they share the items out evenly.

    Args:
        db: the file.
        overlap: judgements of each item.
        programs: how many judge; 0 = people do.
        seed: of the orders in which responses are seen.
    """
    with LabelStore(db, create=False) as store:
        settings = replace(store.settings, overlap=overlap, seed=seed)
        if programs:
            shares = -(-len(store.items()) * overlap // programs)
            settings = replace(settings, repeats=0.0, quota=shares if overlap < programs else None)
        if settings != store.settings:
            store.configure(settings)


def progress_of(db: Path) -> tuple[Progress, int]:
    """How far a labelling file is, and how many judgements are still to be asked for."""
    with LabelStore(db, create=False) as store:
        return store.progress(), store.slots_left()


def late_judgements(db: Path, labels: Path) -> int:
    """Judgements that were given after a file of labels was written."""
    written = datetime.fromtimestamp(labels.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
    with LabelStore(db, create=False) as store:
        return sum(judgement.at > written for judgement in store.judgements())


def wait_for_people(
    db: Path,
    serve: Sequence[str],
    wait: bool,
    seconds: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when every item has been judged, or skipped, by as many as it needs; what was skipped is said.

    Args:
        db: the labelling file.
        serve: the words of the command that opens the page, which is printed.
        wait: whether to wait at all.
        seconds: between two looks at the file.
        say: prints a line.
        sleep: how to wait.

    Raises:
        LeaveForPeople: judgements are missing, and `wait` is false.
    """
    progress, missing = progress_of(db)
    if not missing:
        say(said(progress, None))
        return
    say(
        f"\n{progress.items:,} items wait for people. Open the page with:\n  {shlex.join(['lit-rlhf', *serve])}"
    )
    if not wait:
        say(said(progress, None) + ". Give the same command again when they are judged.")
        raise LeaveForPeople
    first, began, spoke = progress.given, time.monotonic(), -SECONDS_BETWEEN
    shown = ""
    while missing:
        now = time.monotonic()
        given = progress.given - first
        left = (now - began) / given * missing if given else None
        line = said(progress, left)
        if now - spoke >= SECONDS_BETWEEN and line != shown:
            say(line)
            shown, spoke = line, now
        sleep(seconds)
        progress, missing = progress_of(db)
    say(said(progress, None))


def said(progress: Progress, left: float | None) -> str:
    """How far they are, and how long the rest takes, in seconds, if that can be told."""
    people = [name for name in progress.by_annotator if name not in progress.machines]
    who = f" by {len(people)} {'person' if len(people) == 1 else 'people'}" if people else ""
    line = f"judged: {progress.given:,} of {progress.wanted:,}{who}"
    if progress.skipped:
        line += f", {progress.skipped:,} skipped"
    if left is not None:
        return f"{line}, about {duration(left)} left"
    if progress.given < progress.wanted and progress.seconds_each is not None:
        work = progress.seconds_each * (progress.wanted - progress.given)
        return f"{line}, about {duration(work)} of one person's work left"
    return line

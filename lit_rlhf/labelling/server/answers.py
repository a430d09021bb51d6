"""What a browser is told of tasks, judgements and progress: nothing of who wrote a response or why it is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_rlhf.labelling.items import Judgement, Progress, Prompt, Settings, Task
from lit_rlhf.labelling.server.access import Session
from lit_rlhf.labelling.server.text import SHOWN_CHARACTERS, guidelines_html, markdown_html, marked
from lit_rlhf.labelling.texts import message_text
from lit_rlhf.labelling.verdicts import HIGHEST_RATING, Verdict

PREVIEW_CHARACTERS = 120
"""Of a prompt in a history."""
FEWEST, STEPS = 10, 20
"""The progress of all moves on by so many judgements at the least, and in so many steps at the most: nobody is to tell
a test or a repetition from an item by what stood still when she judged it."""


def session_answer(session: Session, csrf: str, guidelines: str, live: int, store: Path) -> dict[str, Any]:
    """Who sits here, and what she may do.

    Args:
        session: hers.
        csrf: what her requests have to bring.
        guidelines: Markdown.
        live: how often a model answers a prompt unless told otherwise; 0 = there is none.
        store: the file.
    """
    return {
        "csrf": csrf,
        "annotator": session.annotator,
        "named": session.named,
        "guidelines": guidelines_html(guidelines),
        "live": live,
        "agreement": session.may_see_agreement,
        "highest_rating": HIGHEST_RATING,
        "store": store.name,
    }


def task_answer(task: Task, said: Judgement | None, taken_back: Judgement | None = None) -> dict[str, Any]:
    """A task as the page shows it.

    Args:
        task: what is asked.
        said: its current judgement.
        taken_back: what is filled in where there is none.
    """
    shown = said or taken_back
    return {
        "number": task.number,
        "mode": task.item.mode,
        "practice": task.kind == "practice",
        "prompt": [{"role": role, **text_answer(text)} for role, text in prompt_parts(task.item.prompt)],
        "responses": [text_answer(task.item.responses[index]) for index in task.shown],
        "verdict": None if shown is None else _verdict_answer(task, shown.verdict),
        "judgement": None if said is None else said.number,
        "comment": "" if shown is None else shown.comment,
        "flag": "" if shown is None else shown.flag,
    }


def text_answer(text: str) -> dict[str, Any]:
    """A text as it may be shown, its beginning where it is long."""
    cut = len(text) > SHOWN_CHARACTERS
    shown = text[:SHOWN_CHARACTERS] if cut else text
    return {"text": marked(shown), "html": markdown_html(text), "length": len(text), "cut": cut}


def prompt_parts(prompt: Prompt) -> list[tuple[str | None, str]]:
    """The messages of a prompt, each with its role; plain text is one without."""
    if isinstance(prompt, str):
        return [(None, prompt)]
    return [(marked(str(message.get("role", "")))[:40] or None, message_text(message)) for message in prompt]


def history_answer(judgement: Judgement) -> dict[str, Any]:
    """A line of an annotator's history."""
    task = judgement.task
    parts = [text for role, text in prompt_parts(task.item.prompt) if role in (None, "user")]
    return {
        "task": task.number,
        "judgement": judgement.number,
        "at": judgement.at,
        "mode": task.item.mode,
        "prompt": marked((parts or [""])[-1][:PREVIEW_CHARACTERS]),
        "verdict": _verdict_answer(task, judgement.verdict),
        "comment": marked(judgement.comment),
        "flag": marked(judgement.flag),
    }


def progress_answer(
    progress: Progress, settings: Settings, annotator: str, mine: int, sees_all: bool
) -> dict[str, Any]:
    """How far she is, and about how much is left for her, tests and repetitions counted like all others.

    Args:
        progress: of all.
        settings: of the file.
        annotator: who asks.
        mine: her judgements, practice left out.
        sees_all: whether she is told how far all are together.
    """
    wanted, step = progress.wanted, max(FEWEST, progress.wanted // STEPS)
    given = wanted if progress.given >= wanted else progress.given // step * step
    people = {name for name, said in progress.by_annotator.items() if said} - set(progress.machines)
    share = math.ceil((wanted - given) / len(people | {annotator}))
    all_of_hers = round(progress.items * (1 + settings.repeats + settings.gold_share))
    left = min(share, max(1, all_of_hers - mine))
    if settings.quota is not None:
        left = min(left, max(0, settings.quota - mine))
    return {
        "mine": mine,
        "quota": settings.quota,
        "left": left,
        "seconds_left": None if progress.seconds_each is None else round(left * progress.seconds_each),
        "percent": 100 * given // wanted if sees_all and wanted else None,
    }


def feedback_answer(judgement: Judgement) -> dict[str, Any] | None:
    """After an exercise, whether it was right and what was expected; None in earnest, tests among it."""
    task, gold = judgement.task, judgement.task.item.gold
    if task.kind != "practice" or gold is None:
        return None
    return {
        "right": judgement.verdict is not None and task.item.is_right(judgement.verdict),
        "expected": task.by_position(gold).to_json(),
        "explanation": marked(task.item.explanation),
    }


def presentable(content: Any) -> Any:
    """The same, fit to be shown: None for numbers that JSON cannot spell, and marks in the texts of others."""
    if isinstance(content, Mapping):
        return {name: presentable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [presentable(value) for value in content]
    if isinstance(content, str):
        return marked(content)
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _verdict_answer(task: Task, verdict: Verdict | None) -> dict[str, Any] | None:
    """By position; a reason to skip is only ever read."""
    if verdict is None:
        return None
    said = task.by_position(verdict).to_json()
    return said | {"skip": marked(verdict.skip)} if verdict.skip is not None else said

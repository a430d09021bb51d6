"""What a browser is told of tasks, judgements and progress: nothing of who wrote a response or why it is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_rlhf.labelling.items import Judgement, Progress, Prompt, Task
from lit_rlhf.labelling.server.access import Session
from lit_rlhf.labelling.server.text import SHOWN_CHARACTERS, guidelines_html, markdown_html, marked
from lit_rlhf.labelling.verdicts import HIGHEST_RATING

PREVIEW_CHARACTERS = 120
"""Of a prompt in a history."""


def session_answer(session: Session, csrf: str, guidelines: str, live: bool, store: Path) -> dict[str, Any]:
    """Who sits here, and what she may do.

    Args:
        session: hers.
        csrf: what her requests have to bring.
        guidelines: Markdown.
        live: whether a model answers prompts.
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
    verdict = None if shown is None else shown.verdict
    return {
        "number": task.number,
        "mode": task.item.mode,
        "practice": task.kind == "practice",
        "prompt": [{"role": role, **text_answer(text)} for role, text in prompt_parts(task.item.prompt)],
        "responses": [text_answer(task.item.responses[index]) for index in task.shown],
        "verdict": None if verdict is None else task.by_position(verdict).to_json(),
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


def message_text(message: Mapping[str, Any]) -> str:
    """What a message says: its text, its parts of text, and whatever else it holds as JSON."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        elif part is not None:
            texts.append(json.dumps(part, ensure_ascii=False, indent=1))
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            texts.append(json.dumps(message[name], ensure_ascii=False, indent=1))
    return "\n".join(texts)


def history_answer(judgement: Judgement) -> dict[str, Any]:
    """A line of an annotator's history."""
    task, verdict = judgement.task, judgement.verdict
    parts = [text for role, text in prompt_parts(task.item.prompt) if role in (None, "user")]
    return {
        "task": task.number,
        "judgement": judgement.number,
        "at": judgement.at,
        "mode": task.item.mode,
        "prompt": marked((parts or [""])[-1][:PREVIEW_CHARACTERS]),
        "verdict": None if verdict is None else task.by_position(verdict).to_json(),
        "comment": judgement.comment,
        "flag": judgement.flag,
    }


def progress_answer(progress: Progress, mine: int, quota: int | None) -> dict[str, Any]:
    """How far everybody is, and she; with the seconds that are left at this pace for those who work on it."""
    people = [
        name for name, given in progress.by_annotator.items() if given and name not in progress.machines
    ]
    left = None
    if progress.seconds_each is not None:
        left = round(max(0, progress.wanted - progress.given) * progress.seconds_each / max(1, len(people)))
    return {
        "given": progress.given,
        "wanted": progress.wanted,
        "mine": mine,
        "quota": quota,
        "seconds_left": left,
        "annotators": len(people),
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


def finite(content: Any) -> Any:
    """The same without numbers that JSON cannot spell: None takes their place."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content

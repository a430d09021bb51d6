"""The fields of a request, one function each: what is expected, and what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from lit_rlhf.labelling.items import Task
from lit_rlhf.labelling.server.gate import session_of
from lit_rlhf.labelling.server.names import LONGEST_NAME
from lit_rlhf.labelling.server.text import SHOWN_CHARACTERS, unmarked
from lit_rlhf.labelling.verdicts import LONGEST_REMARK, Verdict, VerdictError, parse_verdict

SUBMISSION = re.compile(r"[0-9A-Za-z-]{8,64}")
LARGEST = 2**63 - 1
"""Number that SQLite holds."""
MOST_SECONDS = 1e7


def annotator_of(request: Request) -> str:
    """The name of who asks.

    Raises:
        HTTPException: 412, the page was opened by somebody else, since tabs share the session; 403, nobody has said
            a name yet.
    """
    name, page_of = session_of(request.scope).annotator, request.headers.get("x-annotator")
    if page_of is not None and unquote(page_of) != name:
        now = (
            "Nobody is signed in in this browser now"
            if name is None
            else f"This browser is signed in as {name} now"
        )
        raise HTTPException(412, f"{now}, and this tab was opened by {unquote(page_of)[:LONGEST_NAME]}.")
    if name is None:
        raise HTTPException(403, "Nobody is signed in here: load the page again, and say your name.")
    return name


def number_in_path(request: Request, name: str) -> int:
    """A number that is part of the address.

    Raises:
        HTTPException: 404, it is none.
    """
    text = request.path_params[name]
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise HTTPException(404, f"{name}: expected a number, found {text[:80]!r}")
    return int(text)


def whole_number(body: Mapping[str, Any], name: str, least: int, most: int = LARGEST) -> int:
    """A whole number of the body.

    Raises:
        HTTPException: 400, it is none, or out of range.
    """
    value = body.get(name)
    if type(value) is not int or not least <= value <= most:
        limit = f"{least} or more" if most == LARGEST else f"{least} to {most}"
        raise HTTPException(400, f"{name}: expected a number, {limit}, found {str(value)[:80]}")
    return value


def submission_of(body: Mapping[str, Any]) -> str:
    """The id that makes one submission of what is sent twice.

    Raises:
        HTTPException: 400, it is none.
    """
    value = body.get("submission")
    if not isinstance(value, str) or not SUBMISSION.fullmatch(value):
        raise HTTPException(400, f"submission: expected a UUID, found {str(value)[:80]!r}")
    return value


def remark(body: Mapping[str, Any], name: str) -> str:
    """A comment or a flag; empty where there is none.

    Raises:
        HTTPException: 400, it is no text, or too long.
    """
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST_REMARK:
        found = f"{len(value):,}" if isinstance(value, str) else type(value).__name__
        raise HTTPException(400, f"{name}: expected at most {LONGEST_REMARK:,} characters, found {found}")
    return value.strip()


def prompt_of(body: Mapping[str, Any]) -> str:
    """A prompt that was typed in.

    Raises:
        HTTPException: 400, it is empty, or too long.
    """
    value = body.get("prompt")
    if not isinstance(value, str) or not value.strip() or len(value) > SHOWN_CHARACTERS:
        raise HTTPException(400, f"prompt: expected 1 to {SHOWN_CHARACTERS:,} characters")
    return value


def seconds_of(body: Mapping[str, Any]) -> float | None:
    """How long it took.

    Raises:
        HTTPException: 400, it is no time.
    """
    value = body.get("seconds")
    if value is None:
        return None
    is_time = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_time or not 0 <= value <= MOST_SECONDS:
        raise HTTPException(
            400, f"seconds: expected a time from 0 to {MOST_SECONDS:.0f}, found {str(value)[:80]}"
        )
    return float(value)


def verdict_of(body: Mapping[str, Any], task: Task) -> Verdict:
    """The verdict, by the item's indices.

    Raises:
        HTTPException: 400, it is none of this task's mode.
    """
    try:
        verdict = task.by_index(parse_verdict(body.get("verdict"), task.item.mode, len(task.shown)))
    except VerdictError as error:
        raise HTTPException(400, str(error)) from None
    if verdict.rewrite is None or verdict.rewrite_of is None:
        return verdict
    # what the page showed had marks in the place of what cannot be seen
    written = unmarked(verdict.rewrite, task.item.responses[verdict.rewrite_of])
    return Verdict(rewrite=written, rewrite_of=verdict.rewrite_of)

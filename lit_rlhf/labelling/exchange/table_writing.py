"""Judgements as a spreadsheet, in the columns that :mod:`lit_rlhf.labelling.exchange.table` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_rlhf.labelling.exchange.entries import TURNS, Written, several_turns
from lit_rlhf.labelling.exchange.table import ABOUT, COUNT, FORMULA, SAID, number_in
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import Verdict


def write_table(judgements: Sequence[Judgement], machines: Mapping[str, str]) -> Written:
    """The rows of a table, which holds everything that was said; a column for each response of the largest item."""
    out = Written([])
    for one in judgements:
        item, verdict = one.task.item, one.verdict
        if verdict is None:
            continue
        row: dict[str, Any] = {"id": item.row_id, "domain": item.domain, "prompt": _cell(item.prompt)}
        row[COUNT] = len(item.responses)
        row |= {f"response_{number}": text for number, text in enumerate(item.responses, start=1)}
        row |= {f"model_{number}": name for number, name in enumerate(item.models or (), start=1)}
        row |= {"annotator": one.annotator, "machine": machines.get(one.annotator)}
        row |= dict.fromkeys(SAID) | _written(verdict, item)
        row["shown"] = " ".join(str(index + 1) for index in one.task.shown) if one.task.seen else None
        row |= {"comment": one.comment, "flag": one.flag, "seconds": one.seconds, "at": one.at}
        row |= {"judgement": one.number}
        out.rows.append({name: _with_mark(value) for name, value in row.items()})
        out.count(TURNS, several_turns(item))
        out.count("other fields of the items' rows", len(item.columns))
    return out


def table_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns in an order for people: the item, its responses, who wrote them, what was said."""
    every = dict.fromkeys(name for row in rows for name in row)
    responses = sorted((name for name in every if re.fullmatch(r"response_\d+", name)), key=number_in)
    models = sorted((name for name in every if name.startswith("model_")), key=number_in)
    return [*ABOUT, *responses, "annotator", *SAID, *models, COUNT, "machine", "judgement"]


def _written(verdict: Verdict, item: Item) -> dict[str, Any]:
    if verdict.skip is not None:
        return {"skip": verdict.skip}
    if verdict.rewrite is not None:
        return {"rewrite": verdict.rewrite, "rewrite_of": (verdict.rewrite_of or 0) + 1}
    if verdict.ratings is not None:
        return {"ratings": " ".join(map(str, verdict.ratings))}
    ranks = verdict.ranks() or []
    slightly = "slightly" if verdict.strength == "slightly" else ""
    if verdict.both_bad:
        return {"choice": "both bad"}
    if len(item.responses) == 2:
        best = "tie" if ranks[0] == ranks[1] else str(1 + ranks.index(1))
        return {"choice": f"{best} {slightly}".strip()}
    return {"ranks": " ".join(map(str, ranks)), "choice": slightly}


def _cell(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def _with_mark(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula behind an apostrophe: what a model wrote is never run."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value

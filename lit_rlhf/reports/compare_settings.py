"""What was the same for all methods of a comparison, and what was not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lit_rlhf.reports.compare_cells import Results, asked_seeds, done_seeds
from lit_rlhf.reports.compare_words import NAME
from lit_rlhf.reports.foreign_text import one_line, shown

_TEXT, _VALUE = 600, 80
"""Characters of a shared setting, and of one in the table, that are shown."""
_UNSET = "–"
_SHARED = (
    ("model", "start"),
    ("data", "training data"),
    ("prompts", "training prompts"),
    ("val", "held-out comparisons"),
    ("evaluation", "evaluation prompts"),
    ("reward", "reward"),
    ("gold", "gold"),
)


def held_equal(results: Results) -> list[tuple[str, str]]:
    """What every method was given: names, and what it was."""
    settings: Mapping[str, Any] = results.get("settings") or {}
    facts = [(name, _plain(settings[key], _TEXT)) for key, name in _SHARED if settings.get(key) is not None]
    budget = settings.get("budget") or {}
    if "seconds" in budget:
        unit = "seconds" if budget.get("clock") == "wall" else "CPU seconds"
        facts.append(
            ("budget", f"{budget['seconds']:g} {unit} of training a run, drawing responses included")
        )
    if "updates" in budget:
        facts.append(("budget", f"{budget['updates']:,} updates a run"))
    facts.append(("seeds", ", ".join(map(str, asked_seeds(results)))))
    counts = _counts(results)
    if counts:
        facts.append(("measured on", counts))
    return facts


def settings_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """What differs between the configs: a header, and a row for each method that starts with its name.

    A setting that all have alike is left out.
    """
    methods = results["methods"]
    names = list(dict.fromkeys(name for method in methods for name in method.get("settings") or {}))
    names = [name for name in names if len({_value(method, name) for method in methods}) > 1]
    own = [("class", "module"), ("loss", "loss")]
    own = [(key, name) for key, name in own if any(method.get(key) is not None for method in methods)]
    if any(PurePath(method.get("config") or method["name"]).stem != method["name"] for method in methods):
        own.insert(0, ("config", "config"))
    header = ["method", *(name for _, name in own), *(one_line(name, NAME) for name in names)]
    rows = []
    for method in methods:
        first = [_plain(method[key], _VALUE) if method.get(key) is not None else _UNSET for key, _ in own]
        rest = [_value(method, name) for name in names]
        rows.append([one_line(str(method["name"]), NAME), *first, *rest])
    return header, rows


def _value(method: Mapping[str, Any], name: str) -> str:
    settings = method.get("settings") or {}
    return _plain(settings[name], _VALUE) if name in settings else _UNSET


def _counts(results: Results) -> str:
    said = []
    for cell in (cell for method in results["methods"] for cell in done_seeds(method)):
        accuracy, tokens = cell.get("accuracy"), cell.get("tokens")
        if tokens:
            limit = (results.get("settings") or {}).get("max_new_tokens")
            length = f" of at most {limit:,} tokens" if limit else ""
            said.append(
                f"one response{length} to each of {len(tokens):,} evaluation prompts, the same for all"
            )
        if accuracy and accuracy.get("right"):
            said.append(f"{len(accuracy['right']):,} held-out comparisons")
        break
    return "; ".join(said)


def _plain(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return one_line(text, limit) if limit == _VALUE else shown(text, limit).text

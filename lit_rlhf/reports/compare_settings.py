"""What was the same for all methods of a comparison, and what was not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lit_rlhf.reports.compare_cells import Results, asked_seeds, done_seeds
from lit_rlhf.reports.compare_words import NAME
from lit_rlhf.reports.foreign_text import one_line, shown

_TEXT, _VALUE = 600, 80
"""Characters of a shared setting, and of one in the table, that are shown."""
_UNSET, _DEFAULT = "–", "default"
"""Of a setting that a method does not have, and of one that is null."""
_MOST_COLUMNS = 6
"""Methods that stand side by side; of more each has a row."""
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


@dataclass(frozen=True)
class Head:
    """What stands at the head of a row or of a column: a setting, or a method with its number."""

    name: str
    number: str = ""


@dataclass(frozen=True)
class SettingsTable:
    """What differs between the configs."""

    columns: list[Head]
    rows: list[tuple[Head, list[str]]]


def settings_table(results: Results) -> SettingsTable:
    """What differs between the configs: a column for each of a few methods, or a row for each of many.

    A setting that all have alike is left out.
    """
    methods = results["methods"]
    heads = [Head(one_line(str(method["name"]), NAME), str(place)) for place, method in enumerate(methods, 1)]
    settings = _by_setting(methods)
    if len(methods) <= _MOST_COLUMNS:
        return SettingsTable([Head("setting"), *heads], [(Head(name), values) for name, values in settings])
    rows = [(head, [values[place] for _, values in settings]) for place, head in enumerate(heads)]
    return SettingsTable([Head("method"), *(Head(name) for name, _ in settings)], rows)


def _by_setting(methods: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each setting with its values, one of every method."""
    names = list(dict.fromkeys(name for method in methods for name in method.get("settings") or {}))
    names = [name for name in names if len({_value(method, name) for method in methods}) > 1]
    own = [("class", "module"), ("loss", "loss")]
    own = [(key, name) for key, name in own if any(method.get(key) is not None for method in methods)]
    if any(PurePath(method.get("config") or method["name"]).stem != method["name"] for method in methods):
        own.insert(0, ("config", "config"))
    found = [
        (name, [_plain(method[key], _VALUE) if method.get(key) is not None else _UNSET for method in methods])
        for key, name in own
    ]
    for name in names:
        values = [_value(method, name) for method in methods]
        found.append((one_line(name, NAME), _class_names(values) if name.endswith("class_path") else values))
    return found


def _value(method: Mapping[str, Any], name: str) -> str:
    settings = method.get("settings") or {}
    if name not in settings:
        return _UNSET
    return _DEFAULT if settings[name] is None else _plain(settings[name], _VALUE)


def _class_names(paths: list[str]) -> list[str]:
    """Classes without their modules, unless that makes two of them look alike."""
    names = [path.rsplit(".", 1)[-1] for path in paths]
    return names if len(set(names)) == len(set(paths)) else paths


def _counts(results: Results) -> str:
    said = []
    done = [run for method in results["methods"] for run in done_seeds(method)]
    tokens = next((run["tokens"] for run in done if run.get("tokens")), None)
    if tokens:
        limit = (results.get("settings") or {}).get("max_new_tokens")
        length = f" of at most {limit:,} tokens" if limit else ""
        said.append(f"one response{length} to each of {len(tokens):,} evaluation prompts, the same for all")
    accuracy = next((run["accuracy"] for run in done if (run.get("accuracy") or {}).get("right")), None)
    if accuracy:
        said.append(
            _held_out(len(accuracy["right"]), accuracy.get("ties") or 0, accuracy.get("unscored") or 0)
        )
    return "; ".join(said)


def _held_out(comparisons: int, ties: int, unscored: int) -> str:
    """How many comparisons accuracy is over, and how many of the file it is not."""
    said = f"{comparisons:,} held-out comparison{'s' if comparisons != 1 else ''}"
    if ties:
        said += f", {ties:,} tie{'s' if ties != 1 else ''} left out"
    return said + (f", {unscored:,} unscored" if unscored else "")


def _plain(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return one_line(text, limit) if limit == _VALUE else shown(text, limit).text

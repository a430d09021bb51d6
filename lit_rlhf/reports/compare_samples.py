"""Responses side by side: the start's and each method's to a few prompts, most of them drawn by lot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.reports.compare_cells import THE_START, Results, done_seeds, spread
from lit_rlhf.reports.compare_numbers import GOLD, REWARD, Measure, written
from lit_rlhf.reports.compare_words import NAME
from lit_rlhf.reports.foreign_text import ShownText, as_text, one_line, shown

DRAWN, MOST_DIFFERENT = 8, 3
_SEED = 0
_CHARACTERS = 1200
"""Of each text."""
_SUMMARY_CHARACTERS = 90


@dataclass(frozen=True)
class Card:
    """A response with its numbers."""

    name: str
    numbers: str
    text: ShownText
    is_start: bool


@dataclass(frozen=True)
class Sample:
    """A prompt with the responses of the start and of each method."""

    why: str
    """How the prompt was chosen."""
    prompt: ShownText
    prompt_start: str
    cards: list[Card]


@dataclass(frozen=True)
class Samples:
    """What is shown, and what is not."""

    shown: list[Sample]
    note: str
    left_out: list[str] = field(default_factory=list)
    """Whose responses are not shown, with the reason."""


@dataclass(frozen=True)
class _Source:
    """The responses of the start or of one run."""

    name: str
    rows: list[Mapping[str, Any]]
    cell: Mapping[str, Any]

    def number(self, key: str, place: int) -> float | None:
        values = self.cell.get(key)
        if not isinstance(values, list) or len(values) != len(self.rows):
            return None
        value = values[place]
        return None if value is None or not math.isfinite(value) else float(value)


def collect_samples(out: Path, results: Results) -> Samples:
    """Responses of the start and of the first seed of each method, from their ``responses.jsonl``.

    A file that is missing or does not fit the others is left out, and the reason given.

    Args:
        out: the comparison's folder.
        results: the content of its ``results.json``.
    """
    found, left_out = _sources(out, results)
    if not found:
        return Samples([], "No responses are at hand.", left_out)
    rows = found[0].rows
    judge = next((each for each in (GOLD, REWARD) if any(_has(source, each) for source in found)), None)
    drawn = sorted(np.random.default_rng(_SEED).permutation(len(rows))[:DRAWN].tolist())
    different = _most_different(found, judge, drawn) if judge else []
    chosen = [(place, "drawn by lot") for place in drawn]
    chosen += [(place, f"chosen: methods differ most in {judge.name}") for place in different if judge]
    note = (
        f"{len(drawn)} of {len(rows):,} evaluation prompts, drawn by lot before any result was looked at"
        + (
            f", then the {len(different)} of the others on which the methods differ most in {judge.name}"
            if judge and different
            else ""
        )
        + ". Each method by its first seed that is done. KL is log π/π_start of the one response, in nats."
    )
    return Samples([_sample(found, place, why, judge) for place, why in chosen], note, left_out)


def _sources(out: Path, results: Results) -> tuple[list[_Source], list[str]]:
    wanted = [(THE_START, out / "start" / "responses.jsonl", results.get("start") or {})]
    left_out = []
    for method in results["methods"]:
        done = done_seeds(method)
        name = one_line(str(method["name"]), NAME)
        if not done:
            left_out.append(f"{name}: no run of it is done")
            continue
        path = out / str(method["name"]) / f"seed-{done[0]['seed']}" / "responses.jsonl"
        wanted.append((f"{name}, seed {done[0]['seed']}", path, done[0]))
    found: list[_Source] = []
    for name, path, cell in wanted:
        try:
            source = _Source(name, _read(path, out), cell)
            if found:
                _check_same_prompts(source, found[0], path.relative_to(out))
        except ValueError as error:
            left_out.append(f"{name}: {error}")
        else:
            found.append(source)
    return found, left_out


def _read(path: Path, out: Path) -> list[Mapping[str, Any]]:
    name = path.relative_to(out)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["prompt"], row["responses"][0]
        except (ValueError, TypeError, KeyError, IndexError):
            raise ValueError(f"{name}:{number}: expected a row with prompt and responses") from None
        rows.append(row)
    if not rows:
        raise ValueError(f"{name} has no rows")
    return rows


def _check_same_prompts(source: _Source, first: _Source, path: Path) -> None:
    if len(source.rows) != len(first.rows):
        raise ValueError(f"{path}: expected {len(first.rows)} rows as {first.name}, found {len(source.rows)}")
    for number, (ours, theirs) in enumerate(zip(source.rows, first.rows, strict=True), 1):
        if ours["prompt"] != theirs["prompt"]:
            raise ValueError(f"{path}: row {number} has another prompt than {first.name}")


def _most_different(found: Sequence[_Source], judge: Measure, drawn: Sequence[int]) -> list[int]:
    """Prompts on which the methods' own numbers lie furthest apart, the furthest first, without those drawn."""
    apart = []
    for place in range(len(found[0].rows)):
        of_methods = [source.number(judge.key, place) for source in found if source.name != THE_START]
        values = [value for value in of_methods if value is not None]
        if place not in drawn and len(values) > 1 and spread(values) > 0:
            apart.append((-spread(values), place))
    return [place for _, place in sorted(apart)[:MOST_DIFFERENT]]


def _has(source: _Source, measure: Measure) -> bool:
    return isinstance(source.cell.get(measure.key), list)


def _sample(found: Sequence[_Source], place: int, why: str, judge: Measure | None) -> Sample:
    prompt = as_text(found[0].rows[place]["prompt"])
    cards = [
        Card(
            source.name,
            _numbers(source, place, judge),
            shown(as_text(source.rows[place]["responses"][0]), _CHARACTERS),
            source.name == THE_START,
        )
        for source in found
    ]
    return Sample(why, shown(prompt, _CHARACTERS), one_line(prompt, _SUMMARY_CHARACTERS), cards)


def _numbers(source: _Source, place: int, judge: Measure | None) -> str:
    said = []
    if judge is not None:
        value = source.number(judge.key, place)
        said.append(f"{judge.name} {'–' if value is None else written(value, judge, 2)}")
    kl = source.number("kl", place)
    if kl is not None and source.name != THE_START:
        said.append(f"{written(kl, GOLD, 1)} nats")
    if source.rows[place].get("finished") == [False]:
        said.append("cut off at the limit")
    return " · ".join(said)

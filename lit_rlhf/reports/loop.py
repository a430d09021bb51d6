"""The page of a loop: what each round gained, how far annotators agree, how far reward models can be trusted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from lit_rlhf import __version__
from lit_rlhf.reports.foreign_text import shown
from lit_rlhf.reports.loop_figures import Line, draw_by_round, draw_frontier_by_round
from lit_rlhf.reports.loop_words import (
    AGREEMENT,
    BEFORE,
    BY_ANNOTATORS,
    BY_REWARD,
    GLOSSARY,
    GOLD,
    HELD_OUT,
    QUANTITIES,
    Numbers,
    Quantity,
    cautions,
    verdict,
)
from lit_rlhf.reports.page import Picture, write_page

_TEXT = 1200
"""Characters of a setting that are shown."""
_COUNTS = [
    ("judgements", "judgements"),
    ("labels", "labels of the round"),
    ("labels_so_far", "labels so far"),
    ("held_out", "held out of the round’s"),
]


@dataclass(frozen=True)
class Cell:
    """A number with its interval."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A quantity over the rounds."""

    name: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Keyed:
    """A picture, with the colours of its lines where there are several."""

    picture: Picture
    key: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Page:
    title: str
    verdict: str
    cautions: list[str]
    pictures: list[Keyed]
    columns: list[str]
    rows: list[Row]
    facts: list[tuple[str, str]]
    glossary: list[tuple[str, str]]
    footer: str


def draw_loop(folder: Path) -> None:
    """Write ``loop.html`` from the ``results.json`` in a loop's folder."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    footer = f"Written by lit-rlhf {__version__} on {time.strftime('%Y-%m-%d %H:%M')}."
    write_loop_page(folder / "loop.html", results, folder.resolve().name, footer)


def write_loop_page(path: Path, results: Numbers, title: str, footer: str) -> None:
    """Write the page, beside `path` and then renamed.

    Args:
        path: of the page.
        results: ``settings`` (names with words), ``start`` and ``rounds``; of a round ``round``, counts, and
            quantities, each None or with a ``mean`` and, where they are known, ``low`` and ``high``.
        title: of the loop.
        footer: the last line.
    """
    rounds, start = results["rounds"], results["start"]
    before = ["before"] if start.get("gold") else []
    page = _Page(
        title=shown(title, 120).text,
        verdict=verdict(start, rounds),
        cautions=cautions(rounds),
        pictures=draw_pictures(start, rounds),
        columns=[*before, *(f"round {numbers['round']}" for numbers in rounds)],
        rows=table(start, rounds),
        facts=[(name, fact(str(value))) for name, value in results["settings"]],
        glossary=GLOSSARY,
        footer=footer,
    )
    write_page(path, "loop", page)


def fact(value: str) -> str:
    """A setting, cut where it is very long."""
    text, left_out = shown(value, _TEXT)
    return text + ("…" if left_out else "")


def table(start: Numbers, rounds: Sequence[Numbers]) -> list[Row]:
    """All numbers by round; rows without any are left out."""
    before: list[Cell | None] = [None] if start.get("gold") else []
    rows = []
    for quantity in QUANTITIES:
        first = [cell(quantity, start.get(quantity.key))] if before else []
        rows.append(
            Row(quantity.name, [*first, *(cell(quantity, numbers.get(quantity.key)) for numbers in rounds)])
        )
    for key, name in _COUNTS:
        counts = [numbers.get(key) for numbers in rounds]
        rows.append(
            Row(name, [*before, *(None if count is None else Cell(f"{count:,}") for count in counts)])
        )
    minutes = [Cell(f"{(numbers.get('seconds') or 0) / 60:.1f}") for numbers in rounds]
    rows.append(Row("minutes, waiting for people left out", [*before, *minutes]))
    return [row for row in rows if any(row.cells)]


def cell(quantity: Quantity, value: Numbers | None) -> Cell | None:
    """A number as the table has it."""
    if value is None:
        return None
    unit = " %" if quantity.share else ""
    if value.get("low") is None:
        return Cell(quantity.write(value["mean"]) + unit)
    ends = f"[{quantity.write(value['low'])}, {quantity.write(value['high'])}]"
    return Cell(quantity.write(value["mean"]) + unit, ends)


def draw_pictures(start: Numbers, rounds: Sequence[Numbers]) -> list[Keyed]:
    """The figures that there are numbers for."""
    whole = [{"round": 0, **start}, *rounds]
    drawn = [
        _by_round(
            "gold",
            Picture(
                "Gold",
                "Rises while labels teach something new; falls where a policy has outrun its reward.",
                Markup(),
            ),
            whole,
            [(GOLD, "blue")],
            "gold",
        ),
        _against_kl(whole),
        _by_round(
            "wins",
            Picture(
                "Against the start",
                "Above one half is better than the loop’s model: as annotators say (blue), or the newest reward model "
                "(red), which flatters what was trained to please it.",
                Markup(),
            ),
            whole,
            [(BY_ANNOTATORS, "blue"), (BY_REWARD, "vermillion")],
            "share of wins",
            level=0.5,
        ),
        _by_round(
            "accuracy",
            Picture(
                "Reward model and annotators",
                "The old model on new labels far below the new one on held-out ones: the policy had left what it knew.",
                Markup(),
            ),
            whole,
            [(HELD_OUT, "blue"), (BEFORE, "vermillion"), (AGREEMENT, "green")],
            "share right, or agreeing",
            level=0.5,
        ),
    ]
    return [picture for picture in drawn if picture is not None]


def _by_round(
    name: str,
    empty: Picture,
    whole: Sequence[Numbers],
    quantities: Sequence[tuple[Quantity, str]],
    unit: str,
    level: float | None = None,
) -> Keyed | None:
    lines = []
    for quantity, colour in quantities:
        found = [numbers for numbers in whole if numbers.get(quantity.key)]
        if found:
            rounds, values = (
                [numbers["round"] for numbers in found],
                [numbers[quantity.key] for numbers in found],
            )
            lines.append(Line(quantity.name, colour, rounds, values))
    if not lines:
        return None
    said = "; ".join(f"{line.name}: {_in_words(line)}" for line in lines)
    figure = draw_by_round(name, lines, unit, f"{empty.title} by round. {said}.", level)
    key = [(line.name, line.colour) for line in lines] if len(lines) > 1 else []
    return Keyed(Picture(empty.title, empty.look_for, Markup(figure)), key)


def _in_words(line: Line) -> str:
    each = zip(line.rounds, line.values, strict=True)
    return ", ".join(f"{value['mean']:.3g} in round {number}" for number, value in each)


def _against_kl(whole: Sequence[Numbers]) -> Keyed | None:
    found = [
        numbers for numbers in whole if numbers.get("gold") and (numbers.get("kl") or numbers["round"] == 0)
    ]
    if len(found) < 2:
        return None
    points = [
        (
            f"round {numbers['round']}" if numbers["round"] else "start",
            numbers["kl"]["mean"] if numbers.get("kl") else 0.0,
            numbers["gold"],
        )
        for numbers in found
    ]
    said = "; ".join(f"{label}: gold {value['mean']:.2f} at {kl:.2f} nats" for label, kl, value in points)
    figure = draw_frontier_by_round("frontier", points, "gold", f"Gold against KL. {said}.")
    look_for = "Higher at the same KL is better; further to the right alone is not."
    return Keyed(Picture("Gold against KL", look_for, Markup(figure)))

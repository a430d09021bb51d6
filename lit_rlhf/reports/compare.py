"""The page of a comparison: methods from one start on one budget, what is shown between them and what is not."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_rlhf import __version__
from lit_rlhf.reports.compare_cautions import cautions
from lit_rlhf.reports.compare_cells import Results, asked_seeds, read_results, undone
from lit_rlhf.reports.compare_numbers import (
    ACCURACY,
    COMPARED,
    MEASURES,
    Difference,
    Measure,
    Summary,
    column_decimals,
    differences,
    differences_to_start,
    leading_measure,
    summarise,
    summarise_start,
    written,
)
from lit_rlhf.reports.compare_pictures import Keyed, draw_pictures
from lit_rlhf.reports.compare_resampling import Estimate
from lit_rlhf.reports.compare_samples import Samples, collect_samples
from lit_rlhf.reports.compare_settings import SettingsTable, held_equal, settings_table
from lit_rlhf.reports.compare_words import (
    NAME,
    comparisons_made,
    glossary,
    verdict,
    what_is_shown,
)
from lit_rlhf.reports.foreign_text import one_line, shown
from lit_rlhf.reports.page import write_page

_REASON, _COMMANDS = 600, 6000
"""Characters that are shown of why a run is not done, and of commands.sh."""


@dataclass(frozen=True)
class WrittenNumber:
    """A number with its interval."""

    value: str
    interval: str = ""
    shown: str = ""
    """Of a difference: ``above``, ``below`` or ``nothing``."""


@dataclass(frozen=True)
class Row:
    """A method with its numbers."""

    number: str
    name: str
    cells: list[WrittenNumber | None]
    seeds: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers by method."""

    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class _Page:
    title: str
    verdict: str
    cautions: list[str]
    equal: list[tuple[str, str]]
    settings: SettingsTable
    table: Table
    not_measured: str
    differences: Table
    against: str
    said: list[str]
    made: str
    headline: Keyed | None
    pictures: list[Keyed]
    samples: Samples
    undone: list[tuple[str, str, str, str]]
    command: str
    commands: str
    glossary: list[tuple[str, str]]
    footer: str


def draw_compare(out: Path) -> None:
    """Write ``compare.html`` from the ``results.json`` and the ``responses.jsonl`` in a comparison's folder.

    Args:
        out: the folder. ``results.json`` must be there; of responses that are not, the page says so.

    Raises:
        FileNotFoundError: there is no ``results.json``.
        ValueError: it is no JSON, has no methods, or its methods were measured on different prompts.
    """
    results = read_results(out)
    rows, start = summarise(results), summarise_start(results)
    paired, to_start = differences(results), differences_to_start(results)
    leading = leading_measure(results)
    headline, pictures = draw_pictures(results, rows, start)
    said_of = [leading, *([ACCURACY] if leading != ACCURACY else [])] if leading else []
    page = _Page(
        title=shown(out.resolve().name, 120).text,
        verdict=verdict(results, rows, paired),
        cautions=[shown(line, _REASON).text for line in cautions(results, rows, start)],
        equal=held_equal(results),
        settings=settings_table(results),
        table=_numbers_table(rows, start),
        not_measured=_not_measured(rows),
        differences=_differences_table(rows, paired, to_start, leading),
        against=one_line(rows[0].method, NAME),
        said=[sentence for measure in said_of for sentence in what_is_shown(paired, measure)],
        made=comparisons_made(paired, to_start),
        headline=headline,
        pictures=pictures,
        samples=collect_samples(out, results),
        undone=_undone(results),
        command=command_again(results, out),
        commands=_commands(out),
        glossary=glossary(rows),
        footer=f"Written by lit-rlhf {__version__} on {time.strftime('%Y-%m-%d %H:%M')}.",
    )
    write_page(out / "compare.html", "compare", page)


def command_again(results: Results, out: Path) -> str:
    """The command that makes the same comparison, or goes on with it: as it was typed, where that is known."""
    if results.get("command"):
        return shown(shlex.join(map(str, results["command"])), _COMMANDS).text
    settings: Mapping[str, Any] = results.get("settings") or {}
    words = ["lit-rlhf", "compare", "--configs"]
    words += [str(method.get("config") or f"{method['name']}.yaml") for method in results["methods"]]
    for name in ("model", "data", "val", "prompts", "reward", "evaluation", "gold"):
        given = settings.get(name)
        if given is not None:
            words += [f"--{name}", *map(str, given if isinstance(given, list) else [given])]
    seeds = asked_seeds(results)
    # one number is a count
    words += ["--seeds", *(map(str, seeds) if seeds != list(range(len(seeds))) else [str(len(seeds))])]
    for name, value in (settings.get("budget") or {}).items():
        words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    for name in ("samples", "max_new_tokens"):
        if settings.get(name):  # no samples were asked for where there is no evaluation file
            words += [f"--{name.replace('_', '-')}", str(settings[name])]
    words += ["--out", str(out)]
    return shown(shlex.join(words), _COMMANDS).text


def _numbers_table(rows: Sequence[Summary], start: Summary | None) -> Table:
    """All numbers by method; columns without any are left out."""
    everybody = [*([start] if start else []), *rows]
    measures = [measure for measure in MEASURES if any(row.get(measure) for row in everybody)]
    decimals = {each: column_decimals(each, [row.get(each) for row in everybody]) for each in measures}
    found = []
    for place, row in enumerate(everybody, 1 - bool(start)):
        cells = [_cell(row.get(measure), measure, decimals[measure]) for measure in measures]
        seeds = f"{row.seeds_done} of {row.seeds_asked}" if place else ""
        found.append(Row(str(place) if place else "", one_line(row.method, NAME), cells, seeds))
    return Table([measure.name for measure in measures], found)


def _not_measured(rows: Sequence[Summary]) -> str:
    missing = [measure.name for measure in MEASURES if not any(row.get(measure) for row in rows)]
    return f"Not measured, of any method: {', '.join(missing)}." if missing else ""


def _differences_table(
    rows: Sequence[Summary],
    paired: Sequence[Difference],
    to_start: Sequence[Difference],
    leading: Measure | None,
) -> Table:
    """Paired differences, to the first method and, in the leading quantity, to the start."""
    columns: list[tuple[str, dict[str, Difference]]] = []
    for measure in COMPARED:
        columns.append(
            (measure.name, {one.method: one for one in paired if one.measure == measure and one.estimate})
        )
    if leading is not None:
        columns.append(
            (f"{leading.name}, to the start", {one.method: one for one in to_start if one.estimate})
        )
    columns = [(name, of) for name, of in columns if of]
    found = []
    for place, row in enumerate(rows, 1):
        cells = [_difference_cell(of, row.method) for _, of in columns]
        if any(cells):
            found.append(Row(str(place), one_line(row.method, NAME), cells))
    return Table([name for name, _ in columns], found)


def _cell(estimate: Estimate | None, measure: Measure, decimals: int) -> WrittenNumber | None:
    if estimate is None:
        return None
    write: Callable[[float], str] = lambda number: written(number, measure, decimals)  # noqa: E731
    value = write(estimate.mean) + (" %" if measure.share else "")
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return WrittenNumber(value)
    return WrittenNumber(value, f"[{write(estimate.low)}, {write(estimate.high)}]")


def _difference_cell(column: Mapping[str, Difference], method: str) -> WrittenNumber | None:
    difference = column.get(method)
    if difference is None:
        return None
    measure = difference.measure
    decimals = column_decimals(measure, [one.estimate for one in column.values()])
    cell = _cell(difference.estimate, measure, decimals)
    assert cell is not None
    value = cell.value.replace(" %", "")
    return WrittenNumber(value if value.startswith("−") else f"+{value}", cell.interval, difference.shown)


def _undone(results: Results) -> list[tuple[str, str, str, str]]:
    return [
        (one_line(each.method, NAME), str(each.seed), one_line(each.state, 20), shown(each.why, _REASON).text)
        for each in undone(results)
    ]


def _commands(out: Path) -> str:
    path = out / "commands.sh"
    if not path.is_file():
        return ""
    text, left_out = shown(path.read_text(encoding="utf-8", errors="replace"), _COMMANDS)
    return text + (f"\n… {left_out:,} more characters in commands.sh" if left_out else "")

"""The figures that a comparison has numbers for, each with its numbers in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lit_rlhf.reports.compare_cells import Results, measured, seed_means
from lit_rlhf.reports.compare_figures import (
    SHAPES,
    Bar,
    Place,
    are_named,
    described,
    draw_against_kl,
    draw_by_method,
    look_of,
)
from lit_rlhf.reports.compare_numbers import (
    ACCURACY,
    GOLD,
    KL,
    REWARD,
    SECONDS,
    TOKENS,
    Measure,
    Summary,
)
from lit_rlhf.reports.compare_words import NAME, some_of, with_interval
from lit_rlhf.reports.foreign_text import one_line
from lit_rlhf.reports.page import Picture

_EVEN = 0.5


@dataclass(frozen=True)
class KeyEntry:
    """A method in the key of a figure."""

    number: int
    name: str
    colour: str
    path: str


@dataclass(frozen=True)
class Keyed:
    """A picture, with the markers of its methods where their names do not stand in it."""

    picture: Picture
    key: list[KeyEntry] = field(default_factory=list)


def draw_pictures(
    results: Results, rows: Sequence[Summary], start: Summary | None
) -> tuple[Keyed | None, list[Keyed]]:
    """The figure against KL, None where it has too few numbers, and those of one number a method."""
    headline = next(
        (
            drawn
            for measure in (GOLD, REWARD)
            if (drawn := _against_kl(results, rows, start, measure)) is not None
        ),
        None,
    )
    length = start.tokens.mean if start and start.tokens else None
    others = [
        _by_method(
            results,
            rows,
            ACCURACY,
            "accuracy",
            "Held-out accuracy",
            "The dashed line is an even chance.",
            _EVEN,
        ),
        _by_method(
            results,
            rows,
            TOKENS,
            "length",
            "Length",
            "The dashed line is the start. A method that wins by writing more is seen here."
            if length is not None
            else "A method that wins by writing more is seen here.",
            length,
        ),
        _by_method(
            results,
            rows,
            SECONDS,
            "seconds",
            "CPU seconds in training",
            "What each run cost, responses that it drew and judged included.",
            None,
        ),
    ]
    return headline, [picture for picture in others if picture is not None]


def _against_kl(
    results: Results, rows: Sequence[Summary], start: Summary | None, measure: Measure
) -> Keyed | None:
    places = []
    for number, (row, method) in enumerate(zip(rows, results["methods"], strict=True), 1):
        kl, value = row.kl, row.get(measure)
        if kl is None or value is None:
            continue
        kls, values = (measured(results, method, key) for key in (KL.key, measure.key))
        across, up = (seed_means(found) if found else {} for found in (kls, values))
        seeds = [(across[seed], up[seed]) for seed in across if seed in up]
        places.append(Place(one_line(row.method, NAME), number, kl, value, seeds))
    if not places:
        return None
    at_start = start.get(measure) if start else None
    named = are_named([place.name for place in places])
    numbers = [
        (place.name, f"{with_interval(place.value, measure)} at {with_interval(place.kl, KL)} nats")
        for place in places
    ]
    if at_start is not None:
        numbers.insert(0, ("start", f"{with_interval(at_start, measure)} at 0 nats"))
    title = f"{measure.name.capitalize()} against KL"
    figure = draw_against_kl(
        places, at_start.mean if at_start else None, measure.name, named, f"{title}. {described(numbers)}."
    )
    look_for = (
        "Higher at the same KL is better; further to the right alone is not. A small marker is a seed, a large one "
        "the mean, with 95 % intervals both ways."
    )
    drawn = {place.number for place in places}
    left_out = [row.method for number, row in enumerate(rows, 1) if number not in drawn]
    if left_out:
        look_for += f" Not in it, for want of one of the two numbers: {some_of(left_out)}."
    table = [
        [place.name, with_interval(place.kl, KL), with_interval(place.value, measure)] for place in places
    ]
    if at_start is not None:
        table.insert(0, ["start", "0", with_interval(at_start, measure)])
    picture = Picture(title, look_for, Markup(figure), ["method", KL.name, measure.name], table)
    return Keyed(picture, [_entry(place.number, place.name) for place in places])


def _by_method(
    results: Results,
    rows: Sequence[Summary],
    measure: Measure,
    name: str,
    title: str,
    look_for: str,
    level: float | None,
) -> Keyed | None:
    bars: list[Bar] = []
    numbers: list[tuple[str, str]] = []
    for number, (row, method) in enumerate(zip(rows, results["methods"], strict=True), 1):
        value, found = row.get(measure), measured(results, method, measure.key)
        if value is None or found is None:
            continue
        bars.append(Bar(one_line(row.method, NAME), number, value, list(seed_means(found).values())))
        numbers.append((bars[-1].name, with_interval(value, measure)))
    if not bars:
        return None
    figure = draw_by_method(name, bars, measure.name, level, f"{title}. {described(numbers)}.")
    return Keyed(
        Picture(title, look_for, Markup(figure), ["method", measure.name], [list(row) for row in numbers])
    )


def _entry(number: int, name: str) -> KeyEntry:
    look = look_of(number - 1)
    return KeyEntry(number, name, look.colour, SHAPES[look.marker])

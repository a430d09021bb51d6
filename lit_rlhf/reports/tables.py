"""Short tables for the terminal: results, and samples side by side. Readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rich import box
from rich.table import Table
from rich.text import Text

Cell: TypeAlias = str | int | float | None
"""Numbers stand to the right, fractions with two decimals; None is shown as a dash."""


def result_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table of results: the first column names what was measured, the others hold numbers or words.

    Nothing is cut off where the terminal is narrow; long cells go over several lines.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    table = _empty_table(title)
    for place, name in enumerate(header):
        table.add_column(Text(name), justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"table {title!r}: expected {len(header)} cells in a row, found {list(row)}")
        table.add_row(*map(_cell_text, row))
    return table


def samples_table(title: str, prompts: Sequence[str], samples: Mapping[str, Sequence[str]]) -> Table:
    """Samples side by side: a row for each prompt, a column for each policy, all of one width.

    Args:
        title: above the table.
        prompts: what was asked.
        samples: per policy's name, in order, its response to each prompt.

    Raises:
        ValueError: a policy has another number of responses than there are prompts.
    """
    for name, responses in samples.items():
        if len(responses) != len(prompts):
            raise ValueError(
                f"samples of {name!r}: expected {len(prompts)}, one a prompt, found {len(responses)}"
            )
    table = _empty_table(title, show_lines=True)
    for name in ("prompt", *samples):
        # Text is shown as it is: a sample may hold square brackets, which rich would read as markup.
        table.add_column(Text(name), ratio=1 if name == "prompt" else 2, overflow="fold")
    for place, prompt in enumerate(prompts):
        table.add_row(Text(prompt), *(Text(responses[place]) for responses in samples.values()))
    return table


def _empty_table(title: str, show_lines: bool = False) -> Table:
    style = box.SIMPLE_HEAD if not show_lines else box.HORIZONTALS
    return Table(title=Text(title), title_justify="left", box=style, show_lines=show_lines)


def _cell_text(cell: Cell) -> Text:
    if cell is None:
        return Text("-")
    return Text(f"{cell:.2f}" if isinstance(cell, float) else str(cell))

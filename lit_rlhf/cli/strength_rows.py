"""What becomes of a row once its strength is known: flipped, softened, given a margin; and what is said of it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.score_sides import sides_of
from lit_rlhf.cli.strength_flip import MARKS, flipped_fields, marks, sided_names
from lit_rlhf.records import Comparison, Row, Tree
from lit_rlhf.reports.tables import Cell, result_table

SHOWN = 5
"""Rows of the most negative strength that are shown."""
LONGEST_CELL = 120
"""Characters of a text that are shown."""


@dataclass
class StrengthRow:
    """A row of the file, and what the models say of its comparisons."""

    fields: Mapping[str, Any]
    """As the file has them."""
    row: Row
    tree: Tree
    """With the comparisons of :func:`comparisons_to_judge`, but for those of the same tokens."""
    strengths: list[float] = field(default_factory=list)
    """Mean over the models of score(better) - score(worse), one a comparison; of a pair, better is `chosen`."""
    spreads: list[float] = field(default_factory=list)
    """Its population standard deviation."""
    added: dict[str, Any] = field(default_factory=dict)
    """What the treatment sets."""
    is_flipped: bool = False
    """Whether the treatment swaps its sides."""

    @property
    def is_label(self) -> bool:
        """Whether it is a pair whose label says that `chosen` is better; a tie, or a target under 1/2, does not."""
        return (
            sides_of(self.fields) is not None
            and bool(self.strengths)
            and self.tree.comparisons[0].target > 0.5
        )

    def written(self) -> dict[str, Any]:
        """The row as it was, with strengths and treatment; one that compares nothing as it was."""
        if not self.strengths:
            return dict(self.fields)
        if sides_of(self.fields) is not None:
            strength = -self.strengths[0] if self.is_flipped else self.strengths[0]
            measured = {"strength": strength, "strength_std": self.spreads[0]}
            kept = {name: value for name, value in self.fields.items() if name not in MARKS}
            return {**kept, **measured, **self.added, **marks(self.fields, self.is_flipped)}
        pairs = [[one.better, one.worse] for one in self.tree.comparisons]
        return {
            **self.fields, "strength": self.strengths, "strength_std": self.spreads, "strength_pairs": pairs
        }  # fmt: skip


def comparisons_to_judge(fields: Mapping[str, Any], row: Row) -> list[Comparison]:
    """Of a pair chosen against rejected, whatever is said of them; of another row what it tells apart."""
    if sides_of(fields) is None:
        return [one for one in row.comparisons if one.target > 0.5]
    (one,) = row.comparisons
    if one.better == 0:
        return [one]
    return [replace(one, better=0, worse=1, target=1 - one.target)]


def refuse_untreatable(rows: Sequence[StrengthRow], then: str) -> None:
    """Refuse to treat rows that are no pairs: a label of theirs is no single field that could be changed."""
    others = [row for row in rows if sides_of(row.fields) is None]
    if then != "none" and others:
        refuse(
            f"--then {then} changes the labels of pairs, and {len(others)} of {len(rows)} rows are rankings or votes "
            f"(first: {others[0].row.place}).",
            "Give pairs (prompt, chosen, rejected; or HelpSteer's), or --then none, which writes a strength for each "
            "comparison.",
        )


def treat(rows: Sequence[StrengthRow], then: str, share: float, alpha: float) -> dict[str, int]:
    """Change rows by their strengths, and say how many of each change there are.

    ``flip``: the pairs of the weakest share have chosen and rejected swapped, and the sign of their strength with
    them. ``soft``: a target t of a pair with negative strength becomes (1 - α)·t + α·(1 - t). ``margin``: every pair's
    margin becomes its strength, that of the swapped label where it was, and 0 where it is negative. Ties and pairs
    whose target says that `rejected` is better are left as they are.

    Source:
        Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II", arXiv 2401.06080, who recommend flip and
        soft each together with the margin.
    """
    labels = [row for row in rows if row.is_label]
    changes: dict[str, int] = {}
    if "flip" in then:
        weakest = sorted(labels, key=lambda row: row.strengths[0])[: round(share * len(labels))]
        for row in weakest:
            flip(row)
        changes["flipped"] = len(weakest)
        changes["flipped though positive"] = sum(row.strengths[0] > 0 for row in weakest)
    if "soft" in then:
        doubtful = [row for row in labels if row.strengths[0] < 0]
        for row in doubtful:
            target = row.tree.comparisons[0].target
            row.added["target"] = (1 - alpha) * target + alpha * (1 - target)
        changes["softened"] = len(doubtful)
    if "margin" in then:
        for row in labels:
            row.added["margin"] = max(-row.strengths[0] if row.is_flipped else row.strengths[0], 0.0)
        changes["margin above 0"] = sum(row.added["margin"] > 0 for row in labels)
    if then != "none":
        changes["left as they were"] = sum(not row.added for row in rows)
    return changes


def flip(row: StrengthRow) -> None:
    """Turn the label round, and all that the row says of its sides with it."""
    row.is_flipped = True
    row.added |= flipped_fields(row.fields)
    if row.tree.comparisons[0].margin:
        row.added["margin"] = 0.0  # it was said of the label as it stood


def labelled(rows: Sequence[StrengthRow]) -> list[tuple[float, StrengthRow, int]]:
    """The comparisons that say which of two responses is better: strength, row, and number in the row."""
    return [
        (strength, row, place)
        for row in rows
        for place, strength in enumerate(row.strengths)
        if row.tree.comparisons[place].target > 0.5
    ]


def unswapped(rows: Sequence[StrengthRow]) -> list[str]:
    """Of flipped rows, the fields that by their name speak of a side, and still say what they said before."""
    left = Counter(
        name for row in rows if row.is_flipped for name in sided_names(row.fields) if name not in row.added
    )
    if not left:
        return []
    shown = ", ".join(f"{name} ({count} rows)" for name, count in sorted(left.items()))
    return [f"not swapped in flipped rows, since the other side has no such field: {shown}"]


def report(rows: Sequence[StrengthRow], changes: Mapping[str, int]) -> None:
    """Print the strengths in numbers, what was changed, and the comparisons whose label is doubted most."""
    measured = labelled(rows)
    strengths = torch.tensor([strength for strength, *_ in measured])
    lines: list[list[Cell]] = [["comparisons that tell two responses apart", len(measured)]]
    if measured:
        lines.append(["share of them with a negative strength", float((strengths < 0).float().mean())])
    for share in (0.05, 0.25, 0.5, 0.75, 0.95) if measured else ():
        lines.append([f"{share:.0%} quantile of the strength", float(strengths.quantile(share))])
    lines += [[f"rows {name}", count] for name, count in changes.items()]
    unused = sum(not row.strengths for row in rows)
    if unused:
        lines.append(["rows that compare nothing, without a strength", unused])
    console = Console()
    console.print(result_table("preference strength", ["", "value"], lines))
    for line in unswapped(rows):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    lowest = sorted(measured, key=lambda entry: entry[0])[:SHOWN]
    shown: list[list[Cell]] = [
        [row.row.place, strength, row.spreads[place], *texts(row, place)] for strength, row, place in lowest
    ]
    header = ["row", "strength", "std", "better, it says", "worse, it says"]
    console.print(result_table("the most doubted", header, shown))


def texts(row: StrengthRow, place: int) -> list[str]:
    """The two responses of a comparison, the better one first, cut where they are long."""
    one = row.tree.comparisons[place]
    found = [response_text(row.row.responses[number]) for number in (one.better, one.worse)]
    return [text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…" for text in found]


def response_text(response: Any) -> str:
    """A response in one string: its turns one under the other."""
    text = response if isinstance(response, str) else "\n".join(turn["content"] for turn in response)
    return text.encode("utf-8", "replace").decode("utf-8")  # half characters cannot be printed

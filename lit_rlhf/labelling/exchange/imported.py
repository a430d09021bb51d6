"""What came of an import, in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from lit_rlhf.labelling.texts import counted

UNSIGNED = "unsigned"
"""Annotator here of judgements whose file names none; of several of one item also -2, -3."""


@dataclass
class Imported:
    """What came of an import."""

    items: int = 0
    """New in the store."""
    known_items: int = 0
    judgements: int = 0
    """New in the store."""
    known: int = 0
    """Judgements that their annotator had made here already."""
    older: int = 0
    """Judgements that differ from what their annotator says here, and are no later by the file's own times."""
    repeated: int = 0
    """Judgements whose annotator judges the same item once more in the files; the last one counts."""
    unsigned: int = 0
    """Judgements in the files whose annotator is not named."""
    taken_back: int = 0
    """Judgements that were imported before and taken back here since."""
    not_held: dict[str, int] = field(default_factory=dict)
    """Judgements that cannot be kept here, by why."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first of some of these, by why."""
    rows: int = 0
    """Of the items: several may ask the same."""
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, example: str | None = None) -> None:
        """Remember that something cannot be kept."""
        self.not_held[what] = self.not_held.get(what, 0) + 1
        if example is not None:
            self.examples.setdefault(what, example)

    def describe(self) -> list[str]:
        """A line for each thing to be said."""
        rows = f", in {counted(self.rows, 'row')}" if self.rows > self.items + self.known_items else ""
        lines = [
            f"{counted(self.items, 'item')} added, {self.known_items:,} were there{rows}",
            f"{counted(self.judgements, 'judgement')} added, {self.known:,} were there",
        ]
        if self.older:
            lines.append(
                f"left out: {self.older:,} judgements other than what the same annotator says here, and not later "
                "by their own time"
            )
        if self.repeated:
            lines.append(
                f"left out: {self.repeated:,} judgements that their annotator gave again in the files; the last counts"
            )
        if self.taken_back:
            lines.append(f"left out: {self.taken_back:,} judgements that were taken back here")
        for what, count in self.not_held.items():
            example = f", such as {self.examples[what]}" if what in self.examples else ""
            lines.append(f"left out: {count:,} {what}{example}")
        lines += self.notes
        if self.unsigned:
            lines.append(
                f"{self.unsigned:,} judgements name nobody: they are by {UNSIGNED!r}, and -2, -3 where several judge "
                "an item"
            )
        return lines

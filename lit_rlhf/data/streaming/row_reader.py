"""Rows to trees one by one, the same way when they are counted as when their turn comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lit_rlhf.data.formats import Kind, RowError, parse_row
from lit_rlhf.data.planting import Judging, Planted, plant_rows
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.tokenization import AssistantTurns, TextEncoder
from lit_rlhf.data.trees import Truncation, plant_tree
from lit_rlhf.records import Row, Tree


@dataclass
class RowReader:
    """What makes trees of a row's fields; can be pickled, as a spawned process needs it."""

    kind: Kind
    encoder: TextEncoder
    max_prompt_tokens: int | None = None
    max_response_tokens: int | None = None
    assistant_turns: AssistantTurns = "all"
    judging: Judging = field(default_factory=lambda: Judging(False))
    judge: partial[Row] | None = None
    """The row with the comparisons that are made of its votes."""

    @property
    def settings(self) -> str:
        """All that decides which trees a row becomes but the tokenizer and its template, as text."""
        limits = (self.max_prompt_tokens, self.max_response_tokens, self.assistant_turns)
        return f"{self.kind} {limits} {self.judging} {self.judge and sorted(self.judge.keywords.items())}"

    def row(self, fields: Any, place: str) -> Row:
        """The row that fields spell, judged.

        Raises:
            RowError: it cannot be read.
        """
        if isinstance(fields, RowError):
            raise fields
        row = parse_row(fields, self.kind, place)
        return row if self.judge is None else self.judge(row)

    def plant(self, rows: Sequence[Row], report: SplitReport) -> Planted:
        """The trees of those rows that are of use; see :func:`~lit_rlhf.data.planting.plant_rows`."""
        texts = [
            text for row in rows for text in (row.prompt, *row.responses) if isinstance(text, str) and text
        ]
        with self.encoder.tokenizing_together(texts):
            return plant_rows(rows, [1.0] * len(rows), self._plant_tree, self.judging, report)

    def _plant_tree(self, row: Row) -> tuple[list[Tree], Truncation]:
        return plant_tree(
            row, self.encoder, self.max_prompt_tokens, self.max_response_tokens, self.assistant_turns
        )

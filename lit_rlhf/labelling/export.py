"""Judgements as the rows that reward models and DPO train on as they are.

``rankings``: a row a judgement, ranked or rated (`RankingDataModule`). ``pairs``: a row for every two responses that
were told apart or tied (`PairDataModule`). ``votes``: a row for every two responses of an item, with what each
annotator chose (`PairDataModule`). ``demonstrations``: what annotators wrote themselves (`DemonstrationDataModule`);
the best response of a ranking is no demonstration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lit_rlhf.labelling.columns import plain_fields
from lit_rlhf.labelling.export_rows import (
    RESERVED,
    demonstration_row,
    judged_pairs,
    ranking_row,
    votes_rows,
)
from lit_rlhf.labelling.export_selection import Selection, select
from lit_rlhf.labelling.export_votes import agreed_pairs, agreed_rankings, majority_pairs, majority_ranking
from lit_rlhf.labelling.items import Judgement
from lit_rlhf.labelling.texts import counted

Rows: TypeAlias = Literal["rankings", "pairs", "votes", "demonstrations"]
ROWS: tuple[Rows, ...] = ("rankings", "pairs", "votes", "demonstrations")
VoteUse: TypeAlias = Literal["each", "majority", "min-agree"]


class ExportError(ValueError):
    """Settings of an export that contradict each other."""


@dataclass(frozen=True)
class ExportSettings:
    """What is written."""

    rows: Rows | None = None
    """None: `default_rows`."""
    votes: VoteUse = "each"
    """A row a judgement; or one an item, what most said; or what at least `min_agree` annotators said alike."""
    min_agree: int = 2
    ties: Literal["keep", "drop"] = "keep"
    """Of a ranking, ``drop`` takes those that tie everything; a tie among some stays, as groups are written."""
    since: int = 0
    """Judgements with a higher number only. With ``majority``, ``min-agree`` and votes, all judgements of the items
    that have such a one, so that an item's row is always whole."""
    without_flagged: bool = False
    people_only: bool = False
    margins: bool = False
    """Pairs get a `margin`, 2/3 for better and 1/3 for slightly better, after Llama 2's small margins
    (Touvron et al. 2023, arXiv 2307.09288, table 27). `RewardModule` then asks that much of the difference of
    scores: −log σ(r_w − r_l − margin). It is left out unless asked for, since a pair with a margin is no vote:
    `PairDataModule` merges annotators' pairs without one into shares of votes. `strength` is written in any case."""

    def __post_init__(self) -> None:
        if self.min_agree < 1:
            raise ExportError(f"--min-agree: expected 1 or more, found {self.min_agree}")
        if self.since < 0:
            raise ExportError(f"--since: expected the number of a judgement, 0 or more, found {self.since}")
        if self.rows in ("votes", "demonstrations") and self.votes != "each":
            raise ExportError(f"--rows {self.rows}: expected --votes each beside it, found {self.votes}")
        if self.margins and (self.rows in ("rankings", "votes", "demonstrations") or self.votes != "each"):
            raise ExportError(
                "--margins: expected --rows pairs and --votes each, whose rows alone have a margin"
            )


@dataclass
class Exported:
    """Rows, and what became of the judgements that are in none."""

    rows: list[dict[str, Any]]
    kind: Rows
    judgements: int
    """Those that the rows are made of."""
    next: int
    """The highest number there was; `since` of the next export."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What was left out, in words, and how often."""
    notes: list[str] = field(default_factory=list)

    def describe(self) -> list[str]:
        """A line for each thing to be said."""
        lines = [
            f"{counted(len(self.rows), 'row')} of {self.kind}, from {counted(self.judgements, 'judgement')}"
        ]
        lines += [f"left out: {count:,} {what}" for what, count in self.left_out.items()]
        return lines + self.notes


def export_judgements(
    judgements: Sequence[Judgement], settings: ExportSettings, machines: Mapping[str, str] | None = None
) -> Exported:
    """The rows of a store's current judgements.

    The same judgements give the same rows in the same order: by the judgement's number where a row is one
    judgement, by the item's number where it is an item.

    Args:
        judgements: All current ones, of every number and kind: `settings` say which are taken.
        settings: Which rows, and of what.
        machines: Annotators that are programs, and what they are; their rows say so in `machine`.

    Raises:
        ExportError: ``margins`` where the rows turn out to be no pairs.
    """
    machines = machines or {}
    whole_items = settings.votes != "each" or settings.rows == "votes"
    selection = select(
        judgements, machines, settings.since, settings.people_only, settings.without_flagged, whole_items
    )
    kind = settings.rows
    if kind is None:  # of all that there is, or the files of two exports would not go together
        everything = selection
        if settings.since:
            everything = select(judgements, machines, 0, settings.people_only, settings.without_flagged)
        kind = default_rows(everything.judgements)
    if settings.rows is None and settings.votes != "each" and kind == "demonstrations":
        raise ExportError(f"--votes {settings.votes}: expected rankings or pairs, found rewrites alone")
    if settings.margins and kind != "pairs":
        raise ExportError(f"--margins: expected --rows pairs, found {kind}")
    rows, used = _rows(selection, kind, settings, machines)
    plain = [plain_fields(row, f"item {row.get('item')}") for row in rows]
    exported = Exported([row for row, _ in plain], kind, used, selection.next, selection.left_out)
    exported.notes += _notes(selection, settings)
    if nulls := sum(found for _, found in plain):
        exported.notes.append(f"{nulls:,} numbers that are none (NaN, infinities) are written as null")
    return exported


def default_rows(judgements: Sequence[Judgement]) -> Rows:
    """Pairs of items that have two responses, demonstrations of rewrites alone, else rankings."""
    modes = {judgement.task.item.mode for judgement in judgements}
    if modes == {"rewrite"}:
        return "demonstrations"
    most = max((len(judgement.task.item.distinct) for judgement in judgements), default=2)
    return "pairs" if modes <= {"pairwise"} and most <= 2 else "rankings"


def _rows(
    selection: Selection, kind: Rows, settings: ExportSettings, machines: Mapping[str, str]
) -> tuple[list[dict[str, Any]], int]:
    """The rows, and how many judgements they are made of."""
    rewrites = [one for one in selection.judgements if one.task.item.mode == "rewrite"]
    judged = [one for one in selection.judgements if one.task.item.mode != "rewrite"]
    drop = settings.ties == "drop"
    rows: list[dict[str, Any]] = []
    used = 0
    if kind == "demonstrations":
        selection.count("rankings and ratings (--rows rankings has them)", len(judged))
        return [demonstration_row(one, selection.flags, machines) for one in rewrites], len(rewrites)
    selection.count("rewrites (--rows demonstrations has them)", len(rewrites))
    if settings.votes == "each" and kind != "votes":
        for one in judged:
            if kind == "rankings":
                new = [ranking_row(one, selection.flags, machines)]
            else:
                new = judged_pairs(one, selection.flags, machines, settings.margins)
                selection.count("ratings of a single response, which make no pair", not new)
            kept = [row for row in new if not (drop and _is_tie(row))]
            selection.count("ties", len(new) - len(kept))
            rows += kept
            used += bool(kept)
        return rows, used
    by_item: dict[int, list[Judgement]] = {}
    for one in judged:
        by_item.setdefault(one.task.item.number, []).append(one)
    for number in sorted(by_item):
        given = by_item[number]
        new = _item_rows(given, kind, settings, selection, machines)
        kept = [row for row in new if not (drop and _is_tie(row))]
        selection.count("ties", len(new) - len(kept))
        rows += kept
        used += len(given) if kept else 0
    return rows, used


def _item_rows(
    given: Sequence[Judgement],
    kind: Rows,
    settings: ExportSettings,
    selection: Selection,
    machines: Mapping[str, str],
) -> list[dict[str, Any]]:
    if kind == "votes":
        rows = votes_rows(given, selection, machines, settings.ties == "drop")
        for what, lost in [
            ("comments", sum(bool(one.comment) for one in given)),
            ("times at which and that judgements took", sum(bool(one.at or one.seconds) for one in given)),
            ("orders in which responses were seen", sum(one.task.seen for one in given)),
        ]:
            selection.count(
                f"{what}, which votes have no place for (--rows pairs has them)", lost if rows else 0
            )
        return rows
    if settings.votes == "majority":
        if kind == "pairs":
            return majority_pairs(given, selection)
        return [majority_ranking(given, selection)]
    if kind == "pairs":
        return agreed_pairs(given, selection, settings.min_agree)
    return agreed_rankings(given, selection, settings.min_agree)


def _is_tie(row: Mapping[str, Any]) -> bool:
    """Whether a row says of all its responses that they are equal; a rating of one response is no tie."""
    if "ranking" in row:
        return len(row["ranking"]) == 1
    if "scores" in row:
        return len(row["scores"]) > 1 and len(set(row["scores"])) == 1
    return bool(row.get("tie", False))


def _notes(selection: Selection, settings: ExportSettings) -> list[str]:
    notes = []
    if selection.flags and not settings.without_flagged:
        flagged = {one.task.item.number for one in selection.judgements} & set(selection.flags)
        if flagged:
            notes.append(
                f"flagged: {counted(len(flagged), 'item')}; `flag` says why, --without-flagged drops them"
            )
    clashing = sorted({name for one in selection.judgements for name in one.task.item.columns} & RESERVED)
    if clashing:
        notes.append(
            f"fields of the items' own rows not written, since they would be read as judgements: {', '.join(clashing)}"
        )
    if selection.machine_judgements:
        notes.append(
            f"by programs: {counted(selection.machine_judgements, 'judgement')}, marked `machine`; --people-only "
            "leaves them out"
        )
    return notes

"""The rows of a split as trees: which of them are used, and what is counted on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from lit_rlhf.data.judgements import is_all_ties, without_ties
from lit_rlhf.data.labels import NOT_COMPARED
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.trees import Truncation
from lit_rlhf.records import Row, Tree, Vote

MOST_TIED = 12
"""Responses of one rank that the Plackett-Luce loss takes; ``lit_rlhf.losses.rankings.MAX_TIED``."""

PlantTree: TypeAlias = Callable[[Row], tuple[list[Tree], Truncation]]


@dataclass
class Planted:
    """A split in tokens. `rows` are those that were kept, with the comparisons that were made of them; `weights`
    and `places` go with the trees. Rows and trees go side by side too, but for windows of `text`."""

    rows: list[Row] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """``file:line``, for messages."""
    votes: list[list[Vote]] = field(default_factory=list)
    """Of every row that was read with votes, those among them that were not kept."""


@dataclass(frozen=True)
class Judging:
    """What is asked of a row, and what the module takes from it."""

    compares: bool
    """A row without a comparison has nothing to give, unless `rates` or `labels`."""
    drops_ties: bool = False
    """A tie says nothing."""
    rates: bool = False
    """A rated response has something to give by itself."""
    labels: bool = False
    """A labelled response has something to give by itself."""
    ranks_whole: bool = False
    """The loss is of whole rankings, Plackett and Luce's: only so many responses may share a rank."""

    def has_use_for(self, tree: Tree) -> bool:
        """Whether anything can be learnt from a tree."""
        rated = any(rating is not None for rating in tree.ratings or [])
        alone = (self.rates and rated) or (self.labels and bool(tree.labels))
        return not self.compares or bool(tree.comparisons) or alone


def plant_rows(
    rows: Sequence[Row], weights: Sequence[float], plant: PlantTree, judging: Judging, report: SplitReport
) -> Planted:
    """Trees of all rows that are of use; the report says of the others why they are not.

    Args:
        rows: Of the split.
        weights: Per row, how often it is drawn.
        plant: Makes trees of a row.
        judging: What is asked of a row.
        report: Counts are added to it.

    Raises:
        ValueError: more responses of a row share a rank than the module's loss takes; or a row has labels, and the
            module learns from comparisons alone.
    """
    planted = Planted()
    for row, weight in zip(rows, weights, strict=True):
        if row.votes:
            planted.votes.append(row.votes)
        if judging.compares and judging.ranks_whole:
            _refuse_many_tied(row, judging.drops_ties)
        if row.labels and judging.compares and not judging.labels:
            raise ValueError(
                f"{row.place}: expected two responses that are compared, found one with a `label`: {NOT_COMPARED}."
            )
        all_ties = is_all_ties(row)
        report.count_judgements(row, all_ties, judging.drops_ties)
        if judging.drops_ties and row.comparisons:
            row = replace(row, comparisons=without_ties(row.comparisons))
        trees, lost = plant(row)
        if trees and not judging.has_use_for(trees[0]):
            report.no_comparison += not (all_ties and judging.drops_ties)  # those have a count of their own
            trees = []
        report.add(row.place, trees, lost)
        if trees:
            planted.rows.append(row)
            planted.trees += trees
            planted.weights += [weight] * len(trees)
            planted.places += [row.place] * len(trees)
    return planted


def _refuse_many_tied(row: Row, drops_ties: bool) -> None:
    """With dropped ties the last ones may be as many as they are, since nothing is below them."""
    sharing = Counter(rank for rank in row.ranks or [] if rank is not None)
    if drops_ties and sharing:
        del sharing[max(sharing)]
    rank, most = max(sharing.items(), key=lambda shared: shared[1], default=(0.0, 0))
    if most > MOST_TIED:
        raise ValueError(
            f"{row.place}: expected at most {MOST_TIED} responses of one rank for model.loss plackett_luce, found "
            f"{most} of rank {rank:g}. Use loss: pairs or best_of_k, or take the row out."
        )

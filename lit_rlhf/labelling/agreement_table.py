"""Judgements of one mode as tensors: what each annotator said of each response, and where it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import HIGHEST_RATING, Mode

NONE = -1
"""Where an item has fewer responses than others."""
SIDES = 3
"""Of two responses: the one is better, a tie, the other is."""
STEPS = 5
"""The same with `slightly` between better and tie."""

SAID = {"pairwise": "verdict", "ranking": "ranking", "rating": "rating"}
"""What a judgement is called."""


class Answers(NamedTuple):
    """What J judgements say of U units each, as one of C answers that stand in an order."""

    answer: Tensor
    """Long ``[J, U]``; `NONE` for a unit that the item does not have."""
    answers: int
    """C."""

    def counts(self, item: Tensor, items: int) -> Tensor:
        """Judgements of each item's units for each answer, float64 ``[items, U, C]``."""
        units = self.answer.shape[1]
        cell = (item[:, None] * units + torch.arange(units)) * self.answers + self.answer
        found = torch.bincount(cell[self.answer != NONE], minlength=items * units * self.answers)
        return found.view(items, units, self.answers).double()


@dataclass(frozen=True)
class Table:
    """J judgements of I items that have at most K distinct responses; identical responses are one.

    A judgement that is tied because two responses are the same text is no agreement, so only the first of each set
    of identical responses is here.
    """

    mode: Mode
    items: tuple[Item, ...]
    """By their numbers."""
    item: Tensor
    """Long ``[J]``: its place in `items`."""
    annotator: Tensor
    """Long ``[J]``: a number of who judged."""
    place: Tensor
    """Long ``[J, K]``: tie group from 0 = best, or the rating with its sign turned; only where there is a response."""
    position: Tensor
    """Long ``[J, K]``: where it was shown, from 0; `NONE` where that is not known."""
    slightly: Tensor
    """Bool ``[J]``."""
    both_bad: Tensor
    """Bool ``[J]``."""
    present: Tensor
    """Bool ``[I, K]``: what is a response."""
    lengths: Tensor
    """Long ``[I, K]``: in characters; `NONE` where there is no response."""

    def __len__(self) -> int:
        return len(self.item)

    def where(self, chosen: Tensor) -> Table:
        """Some of the judgements, by a mask or by their places, with their items."""
        kept, item = self.item[chosen].unique(return_inverse=True)
        of_judgement = ("annotator", "place", "position", "slightly", "both_bad")
        return replace(
            self,
            items=tuple(self.items[index] for index in kept.tolist()),
            item=item,
            present=self.present[kept],
            lengths=self.lengths[kept],
            **{name: getattr(self, name)[chosen] for name in of_judgement},
        )

    def by_item(self, of_judgement: Tensor) -> Tensor:
        """Sums over each item's judgements, float64 ``[I]``."""
        sums = torch.zeros(len(self.items), dtype=torch.float64)
        return sums.index_add(0, self.item, of_judgement.double())

    @cached_property
    def pairs(self) -> Tensor:
        """The columns of each pair of responses, long ``[2, P]``."""
        return torch.combinations(torch.arange(self.place.shape[1])).T.reshape(2, -1)

    @cached_property
    def signs(self) -> Tensor:
        """Of each pair of responses: 1 = the first is better, -1 = the second, 0 = a tie or no pair, ``[J, P]``."""
        first, second = self.pairs
        there = (self.present[:, first] & self.present[:, second])[self.item]
        return (self.place[:, second] - self.place[:, first]).sign() * there

    @cached_property
    def centred_ranks(self) -> Tensor:
        """Rank, ties sharing the mean of their places, less the mean rank; 0 for no response. Float64 ``[J, K]``."""
        signs = self.signs.double()
        first, second = self.pairs
        ranks = torch.zeros(self.place.shape, dtype=torch.float64)
        # who beats whom moves one up and the other down by half a place
        return ranks.index_add(1, first, signs, alpha=-0.5).index_add(1, second, signs, alpha=0.5)

    @cached_property
    def responses(self) -> Answers:
        """What is said of each response: its rank (all half places), its rating, or by how much it is the better one.

        Of two responses both are there, as mirror images: which one is called the first changes nothing.
        """
        present = self.present[self.item]
        if self.mode == "rating":
            found, answers = -self.place - 1, HIGHEST_RATING
        elif self.mode == "pairwise":
            steps = torch.where(self.slightly, 1, 2)[:, None]
            found, answers = 2 + (2 * self.centred_ranks).long() * steps, STEPS
        else:
            lowest = (present.sum(1, keepdim=True) - 1).double()
            found, answers = (2 * self.centred_ranks + lowest).long(), 2 * present.shape[1] - 1
        return Answers(torch.where(present, found, NONE), answers)

    @cached_property
    def comparisons(self) -> Answers:
        """Which of two responses is better, of each pair in either order: units 2p and 2p + 1 are mirror images."""
        first, second = self.pairs
        there = (self.present[:, first] & self.present[:, second])[self.item]
        sign = self.signs
        both = torch.stack([1 - sign, 1 + sign], 2)
        return Answers(torch.where(there[:, :, None], both, NONE).flatten(1), SIDES)


def unit_of_pairs(table: Table) -> str:
    """What the pairs of responses are called: of two responses a judgement is one."""
    return "judgements" if table.mode == "pairwise" else "pairs of responses"


def differing(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Those of items whose responses can be told apart, and of ratings, where there is nothing to be told apart."""
    alike: dict[int, bool] = {}
    for one in judgements:
        item = one.task.item
        if item.number not in alike:
            alike[item.number] = item.mode != "rating" and len(item.distinct) < 2
    return [one for one in judgements if not alike[one.task.item.number]]


def tabulate(judgements: Sequence[Judgement], mode: Mode, annotators: Sequence[str]) -> Table:
    """Judgements as tensors, in their order.

    Args:
        judgements: with a ranking or ratings, of items of this mode.
        mode: of the items.
        annotators: everybody, in the order of the numbers that they get.
    """
    by_number = {one.task.item.number: one.task.item for one in judgements}
    items = tuple(by_number[number] for number in sorted(by_number))
    distinct = [item.distinct for item in items]
    at_most = max(map(len, distinct), default=0)
    index_of = {item.number: index for index, item in enumerate(items)}
    who = {name: number for number, name in enumerate(annotators)}
    columns = {item.number: shown for item, shown in zip(items, distinct, strict=True)}
    place, position = [], []
    for one in judgements:
        responses, verdict, shown = columns[one.task.item.number], one.verdict, one.task.shown
        assert verdict is not None
        missing = [NONE] * (at_most - len(responses))
        if verdict.ratings is not None:
            of_response = {response: -rating for response, rating in enumerate(verdict.ratings)}
        else:
            groups = enumerate(verdict.ranking or ())
            of_response = {response: number for number, group in groups for response in group}
        place.append([of_response[response] for response in responses] + missing)
        of_position = {response: number for number, response in enumerate(shown)}
        known = [of_position[response] if one.task.seen else NONE for response in responses]
        position.append(known + missing)
    padded = [
        [len(item.responses[response]) for response in shown] + [NONE] * (at_most - len(shown))
        for item, shown in zip(items, distinct, strict=True)
    ]
    lengths = torch.tensor(padded, dtype=torch.long).view(len(items), at_most)
    return Table(
        mode=mode,
        items=items,
        item=torch.tensor([index_of[one.task.item.number] for one in judgements], dtype=torch.long),
        annotator=torch.tensor([who[one.annotator] for one in judgements], dtype=torch.long),
        place=torch.tensor(place, dtype=torch.long).view(len(judgements), at_most),
        position=torch.tensor(position, dtype=torch.long).view(len(judgements), at_most),
        slightly=torch.tensor(
            [one.verdict.strength == "slightly" for one in judgements if one.verdict]
        ).bool(),
        both_bad=torch.tensor([one.verdict.both_bad for one in judgements if one.verdict]).bool(),
        present=lengths != NONE,
        lengths=lengths,
    )

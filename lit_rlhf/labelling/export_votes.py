"""What several annotators said of an item, as one: by majority, or what enough of them agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any, TypeAlias

from lit_rlhf.labelling.export_rows import about_item, pair_row, with_columns, written_responses
from lit_rlhf.labelling.export_selection import Selection
from lit_rlhf.labelling.items import Item, Judgement

Answer: TypeAlias = int
"""Of a pair: -1 = the first is better, 1 = the second, 0 = they are tied."""


@dataclass
class Tally:
    """What was said of two responses."""

    by_answer: dict[Answer, list[Judgement]] = field(default_factory=lambda: {-1: [], 0: [], 1: []})

    @property
    def leading(self) -> Answer | None:
        """The answer that most gave; None where two share the lead."""
        most = max(map(len, self.by_answer.values()))
        first, *others = [answer for answer, given in self.by_answer.items() if len(given) == most]
        return None if others else first

    @property
    def majority(self) -> Answer:
        """The answer that most gave, a tie where two share the lead: as `compare_votes` has it."""
        return self.leading or 0

    def agreed(self, least: int) -> Answer | None:
        """The answer that most gave, if at least so many gave it."""
        answer = self.leading
        return answer if answer is not None and len(self.by_answer[answer]) >= least else None


def tallies(given: Sequence[Judgement]) -> dict[tuple[int, int], Tally]:
    """What an item's judgements, rankings or ratings, say of every two of its different responses."""
    found = {pair: Tally() for pair in combinations(given[0].task.item.distinct, 2)}
    for one in given:
        ranks = (one.verdict.ranks() if one.verdict else None) or []
        for (i, j), tally in found.items():
            tally.by_answer[(ranks[i] > ranks[j]) - (ranks[i] < ranks[j])].append(one)
    return found


def majority_pairs(given: Sequence[Judgement], selection: Selection) -> list[dict[str, Any]]:
    """A row for every two different responses: the answer that most gave, a tie where two share the lead."""
    found = tallies(given)
    if not found:
        selection.count("ratings of a single response, which make no pair", len(given))
    return [_pair(pair, tally, tally.majority, given, selection) for pair, tally in found.items()]


def majority_ranking(given: Sequence[Judgement], selection: Selection) -> dict[str, Any]:
    """One ranking of an item's responses, by how many others the majority puts each before.

    That is Copeland's method: a response scores 1 for each other one that most put behind it and 1/2 for each that it
    is tied with, and equal scores tie. Where the majorities make a ranking it is that ranking. Where they go in a
    circle (Condorcet's paradox: a before b, b before c, c before a) those in it come out tied, so nobody is taught an
    order that most reject; Kemeny's and Borda's methods would choose one. Such items are counted.

    Ratings become the median rating of each response, which is as near to all raters as can be.

    Source:
        Copeland, "A 'reasonable' social welfare function" (1951); Fishburn, "Condorcet social choice functions",
        SIAM Journal on Applied Mathematics 33 (1977).
    """
    item = given[0].task.item
    if item.mode == "rating":
        ratings = [one.verdict.ratings or () for one in given if one.verdict]
        row: dict[str, Any] = {"scores": [median(each) for each in zip(*ratings, strict=True)]}
    else:
        found = tallies(given)
        answers = {pair: tally.majority for pair, tally in found.items()}
        groups = copeland_groups(item.distinct, answers)
        if not fits(groups, answers):
            selection.count("answers of a majority that go in a circle with others; those responses are tied")
        row = {"ranking": with_identical(item, groups)}
        if len(groups) == 1 and _most_say_both_bad(given):
            row["both_bad"] = True
        if len(found) == 1:
            row["strength"] = _strength(next(iter(found.values())), answers[next(iter(found))])
    return _ranking_row(item, row, given, selection)


def agreed_pairs(given: Sequence[Judgement], selection: Selection, least: int) -> list[dict[str, Any]]:
    """A row for every two responses of which at least so many annotators said the same, and fewer anything else."""
    rows = []
    found = tallies(given)
    if not found:
        selection.count("ratings of a single response, which make no pair", len(given))
    for pair, tally in found.items():
        answer = tally.agreed(least)
        selection.count(_not_agreed(least), answer is None)
        if answer is not None:
            rows.append(_pair(pair, tally, answer, given, selection))
    return rows


def agreed_rankings(given: Sequence[Judgement], selection: Selection, least: int) -> list[dict[str, Any]]:
    """At most one ranking: of the most responses of which every two are agreed upon, the others not judged.

    Agreed pairs outside of it are counted, and so are items without one.
    """
    item = given[0].task.item
    found = tallies(given)
    if not found:
        selection.count("ratings of a single response, which make no pair", len(given))
    agreed = {pair: answer for pair, tally in found.items() if (answer := tally.agreed(least)) is not None}
    selection.count(_not_agreed(least), len(found) - len(agreed))
    for size in range(len(item.distinct), 1, -1):
        for members in combinations(item.distinct, size):
            pairs = list(combinations(members, 2))
            if not all(pair in agreed for pair in pairs):
                continue
            answers = {pair: agreed[pair] for pair in pairs}
            groups = copeland_groups(members, answers)
            if fits(groups, answers):
                selection.count(
                    "agreed pairs that fit into no ranking with the others (--rows pairs has them)",
                    len(agreed) - len(pairs),
                )
                row: dict[str, Any] = {"ranking": with_identical(item, groups)}
                if len(groups) == 1 and size == len(item.distinct) and _most_say_both_bad(given):
                    row["both_bad"] = True
                if len(found) == 1:
                    row["strength"] = _strength(found[pairs[0]], answers[pairs[0]])
                return [_ranking_row(item, row, given, selection)]
    return []


def copeland_groups(members: Sequence[int], answers: Mapping[tuple[int, int], Answer]) -> list[list[int]]:
    """Tie groups, best first, by 1 a response beaten and 1/2 a tie."""
    scores = dict.fromkeys(members, 0.0)
    for (i, j), answer in answers.items():
        scores[i] += (1 - answer) / 2
        scores[j] += (1 + answer) / 2
    return [
        [member for member in members if scores[member] == score]
        for score in sorted(set(scores.values()), reverse=True)
    ]


def fits(groups: Sequence[Sequence[int]], answers: Mapping[tuple[int, int], Answer]) -> bool:
    """Whether a ranking says of every pair what its answer says."""
    place = {member: position for position, group in enumerate(groups) for member in group}
    return all((place[i] > place[j]) - (place[i] < place[j]) == answer for (i, j), answer in answers.items())


def with_identical(item: Item, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """The groups of distinct responses with those that are identical to them."""
    first = {index: item.responses.index(text) for index, text in enumerate(item.responses)}
    return [sorted(index for index in first if first[index] in group) for group in groups]


def _pair(
    pair: tuple[int, int], tally: Tally, answer: Answer, given: Sequence[Judgement], selection: Selection
) -> dict[str, Any]:
    item = given[0].task.item
    better, worse = pair if answer <= 0 else pair[::-1]
    row = pair_row(item, better, worse, tie=answer == 0)
    agreeing = tally.by_answer[answer]
    row["agreed"] = len(agreeing)
    if item.mode == "pairwise":
        row["strength"] = _strength(tally, answer)
        row["both_bad"] = (answer == 0 and _most_say_both_bad(given)) or None
    row["annotators"] = [one.annotator for one in given]
    return with_columns(row | about_item(item, selection.flags), item, (better, worse))


def _ranking_row(
    item: Item, said: Mapping[str, Any], given: Sequence[Judgement], selection: Selection
) -> dict[str, Any]:
    row = {"prompt": item.prompt, "responses": written_responses(item), **said}
    row["models"] = list(item.models) if item.models else None
    row["annotators"] = [one.annotator for one in given]
    return with_columns(row | about_item(item, selection.flags), item)


def _strength(tally: Tally, answer: Answer) -> str | None:
    """What most of those who gave the answer said of how much better it is; `better` where they are even."""
    said = [one.verdict.strength for one in tally.by_answer[answer] if one.verdict and one.verdict.strength]
    if not said:
        return None
    return "slightly" if said.count("slightly") > len(said) / 2 else "better"


def _most_say_both_bad(given: Sequence[Judgement]) -> bool:
    tied = [
        one.verdict for one in given if one.verdict and one.verdict.ranking and len(one.verdict.ranking) == 1
    ]
    return sum(verdict.both_bad for verdict in tied) > len(tied) / 2


def _not_agreed(least: int) -> str:
    return f"pairs of which fewer than {least} annotators said the same, or as many something else"

"""Verdicts of programs that score: rankings, ties, ratings, an annotator's noise, and what she is never told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from lit_rlhf.labelling.annotators.scores import CANNOT_WRITE, NO_BOUNDS, Asked, Noise, ScoreAnnotator
from lit_rlhf.labelling.items import Item, Task
from lit_rlhf.labelling.verdicts import Verdict
from lit_rlhf.world.labellers import Labeller

SCORES = {"bad": -1.0, "fair": 0.0, "good": 0.4, "best": 2.0}


class Known:
    """Scores by a table, that keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[Asked]] = []

    def __call__(self, asked: Sequence[Asked]) -> list[float | str]:
        self.calls.append(list(asked))
        return [SCORES.get(one.response, f"no score for {one.response}") for one in asked]


def task(
    *responses: str,
    shown: tuple[int, ...] | None = None,
    mode: str = "ranking",
    number: int = 1,
    **item: object,
) -> Task:
    made = Item(mode, "the prompt", responses, **item)  # type: ignore[arg-type]
    return Task(number, made, "rule", "label", made.distinct if shown is None else shown)


def verdict(of: Task, **settings: object) -> Verdict:
    (opinion,) = ScoreAnnotator(Known(), **settings).opinions([of])  # type: ignore[arg-type]
    return opinion.verdict


@pytest.mark.parametrize("shown", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
def test_a_ranking_is_by_score_in_whatever_order_they_are_shown(shown: tuple[int, ...]) -> None:
    assert verdict(task("fair", "best", "bad", shown=shown)) == Verdict(((1,), (0,), (2,)))


def test_identical_responses_share_what_is_said_of_one() -> None:
    of = task("fair", "best", "fair", shown=(1, 0))
    assert verdict(of) == Verdict(((1,), (0, 2)))


def test_close_scores_are_tied_and_the_bound_belongs_to_the_tie() -> None:
    assert verdict(task("fair", "good", "best"), tie_width=0.4) == Verdict(((2,), (0, 1)))
    assert verdict(task("fair", "good", "best"), tie_width=0.39) == Verdict(((2,), (1,), (0,)))
    assert verdict(task("bad", "fair", "good", "best"), tie_width=1.0) == Verdict(((3,), (0, 1, 2)))


def test_a_pair_is_better_slightly_or_tied() -> None:
    pair = task("good", "fair", mode="pairwise")
    assert verdict(pair) == Verdict(((0,), (1,)), "better")
    assert verdict(pair, slight_width=0.4) == Verdict(((0,), (1,)), "slightly")
    assert verdict(pair, slight_width=0.39) == Verdict(((0,), (1,)), "better")
    assert verdict(pair, slight_width=1.0, tie_width=0.5) == Verdict(((0, 1),))


def test_ratings_are_by_the_bounds() -> None:
    bounds = (-0.5, 0.0, 0.5, 2.0)
    rated = task("bad", "fair", "good", "best", mode="rating", shown=(3, 2, 1, 0))
    assert verdict(rated, bounds=bounds) == Verdict(ratings=(1, 3, 3, 5))
    assert verdict(rated).skip == NO_BOUNDS


def test_what_cannot_be_judged_is_skipped_with_the_reason_and_is_not_scored() -> None:
    known = Known()
    tasks = [
        task("fair", mode="rewrite", number=1),
        task("fair", "unheard of", number=2),
        task("fair", "best", number=3),
    ]
    first, second, third = ScoreAnnotator(known).opinions(tasks)
    assert first.verdict.skip == CANNOT_WRITE
    assert second.verdict.skip == "no score for unheard of"
    assert third.verdict.ranking == ((1,), (0,))
    assert [one.response for call in known.calls for one in call] == ["fair", "unheard of", "fair", "best"]
    assert len(known.calls) == 1  # one call for all of them
    known.calls.clear()
    ScoreAnnotator(known).opinions(tasks[:1])
    assert not known.calls


def test_it_is_told_what_was_asked_for_and_nothing_of_the_source() -> None:
    of = task(
        "fair",
        "best",
        "fair",
        shown=(1, 0),
        row_id="row 7",
        models=("large", "small", "large"),
        domain="food",
        columns={"answer": "4", "finished": [False, True, False], "sampling": {"model": "large"}},
    )
    known = Known()
    ScoreAnnotator(known, columns=("answer",)).opinions([of])
    assert known.calls == [
        [
            Asked("the prompt", "fair", False, {"answer": "4"}, "row 7"),
            Asked("the prompt", "best", True, {"answer": "4"}, "row 7"),
        ]
    ]
    assert "large" not in repr(known.calls) and "small" not in repr(known.calls)


@pytest.mark.parametrize("finished", [True, [False], "no"])
def test_a_field_finished_that_is_not_of_the_responses_says_nothing(finished: object) -> None:
    known = Known()
    ScoreAnnotator(known).opinions([task("fair", "best", columns={"finished": finished})])
    assert [one.finished for one in known.calls[0]] == [True, True]


def of_item(number: int, kind: str = "label", annotator: str = "ann") -> Task:
    made = Item("ranking", f"prompt {number}", ("a", "b", "c"))
    return Task(number, made, annotator, kind, (0, 1, 2))  # type: ignore[arg-type]


def test_noise_depends_on_the_seed_the_annotator_and_the_item_alone() -> None:
    noise = Noise(temperature=1.0, seed=3)
    said = noise.felt([0.0, 1.0, 2.0], of_item(1))
    assert noise.felt([0.0, 1.0, 2.0], of_item(1)) == said
    assert [round(value - 1.0, 9) for value in noise.felt([1.0, 2.0, 3.0], of_item(1))] == [
        round(value, 9) for value in said
    ]
    assert noise.felt([0.0, 1.0, 2.0], of_item(1, "gold")) == said
    for other in (
        noise.felt([0.0, 1.0, 2.0], of_item(2)),
        noise.felt([0.0, 1.0, 2.0], of_item(1, annotator="bob")),
        Noise(temperature=1.0, seed=4).felt([0.0, 1.0, 2.0], of_item(1)),
        noise.felt([0.0, 1.0, 2.0], of_item(1, "repeat")),
        noise.felt([0.0, 1.0, 2.0], of_item(1, "swap")),
    ):
        assert other != said


def test_without_noise_what_is_felt_is_the_score() -> None:
    assert Noise().felt([0.5, -1.0, 2.0], of_item(1)) == [0.5, -1.0, 2.0]
    assert Noise(flips=1.0).felt([0.5, -1.0, 2.0], of_item(1)) == [-0.5, 1.0, -2.0]


def test_noise_is_that_of_the_demo_worlds_labellers() -> None:
    """The same distribution of rankings as a Labeller's, whose own tests hold it to Bradley, Terry, Rao and Kupper."""
    scores = [0.0, 0.7, 1.0]
    labeller = Labeller(temperature=0.8, flip_rate=0.2, tie_width=0.3)
    generator = Random(0)
    theirs = Counter(tuple(labeller.ranks(scores, generator)) for _ in range(4000))
    table = dict(zip("abc", scores, strict=True))
    annotator = ScoreAnnotator(
        lambda asked: [table[one.response] for one in asked], Noise(0.8, 0.2, seed=1), tie_width=0.3
    )
    said = annotator.opinions([of_item(number) for number in range(4000)])
    ours = Counter(tuple(one.verdict.ranks() or ()) for one in said)
    assert len(theirs) >= 10
    for ranks, count in theirs.items():  # a standard error of the difference is at most 45
        assert abs(ours[ranks] - count) < 4 * (2 * count) ** 0.5 + 4, ranks

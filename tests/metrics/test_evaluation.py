"""The evaluation of a reward model: every number of it by hand."""

import json
import math
from dataclasses import fields, replace

import pytest
import torch

from lit_rlhf.metrics import Evaluation, Judged, ReliabilityBin, evaluate
from lit_rlhf.records import Vote
from tests.metrics.judging import judge_pairs
from tests.metrics.test_agreement import votes_of

NAN = math.nan


def run(
    judged: Judged,
    votes: list[list[Vote]] | None = None,
    domains: list[str | None] | None = None,
    **baselines,
):
    rows = int(max(judged.row.max(), judged.response_row.max())) + 1
    return evaluate(
        judged,
        [f"prompt {row}" for row in range(rows)],
        domains or [None] * rows,
        votes or [[]] * rows,
        baselines,
    )


# right, wrong, equal scores, a tie, right the other way round
PAIRS = judge_pairs([2.0, 0.0, 1.0, 5.0, 0.0], [1.0, 3.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.75, 0.5, 0.25])


def mean(interval) -> float:
    assert interval is not None
    return interval.mean


def test_accuracy_is_over_strict_comparisons_and_equal_scores_are_wrong() -> None:
    found = run(PAIRS)
    assert (found.comparisons, found.strict, found.prompts) == (5, 4, 5)
    assert mean(found.accuracy) == 0.5
    assert found.accuracy is not None
    assert (found.accuracy.unit, found.accuracy.count) == ("row", 4)


def test_intervals_are_by_prompt() -> None:
    judged = judge_pairs([1.0] * 60, [0.0] * 60)
    prompts = [str(row // 3) for row in range(60)]
    found = evaluate(judged, prompts, [None] * 60, [[]] * 60, {})
    assert found.prompts == 20
    for interval in (found.accuracy, found.log_loss, found.baselines["longer wins"]):
        assert interval is not None
        assert (interval.unit, interval.count) == ("prompt", 20)


def test_baselines_are_half_right_where_they_say_neither_and_stand_beside_the_accuracy() -> None:
    judged = replace(
        PAIRS, better_lengths=torch.tensor([9, 9, 4, 9, 1]), worse_lengths=torch.tensor([1, 9, 5, 1, 9])
    )
    found = run(judged, words=torch.tensor([0.1, -3.0, 0.2, 7.0, 0.0]))
    assert list(found.baselines) == ["longer wins", "words"]
    # right, neither, wrong, (a tie), right since the worse one is the longer and the better one
    assert mean(found.baselines["longer wins"]) == (1 + 0.5 + 0 + 1) / 4
    assert mean(found.baselines["words"]) == (1 + 0 + 1 + 0.5) / 4
    assert mean(found.minus_baselines["longer wins"]) == pytest.approx(0.5 - 2.5 / 4)
    assert run(judged, **{"longer wins": torch.ones(5)}).baselines["longer wins"].mean == 0.75


def test_log_loss_and_its_floor_count_ties_and_shares() -> None:
    found = run(PAIRS)
    log_loss = 0.0
    for probability, target in zip(PAIRS.probability.tolist(), PAIRS.target.tolist(), strict=True):
        log_loss -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
    assert mean(found.log_loss) == pytest.approx(log_loss / 5, rel=1e-6)
    three_quarters = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert found.noise_floor == pytest.approx((2 * three_quarters + math.log(2)) / 5, rel=1e-6)
    assert run(judge_pairs([1.0], [0.0])).noise_floor is None


def test_calibration() -> None:
    judged = replace(judge_pairs([0.0] * 3, [0.0] * 3), probability=torch.tensor([0.82, 0.18, 0.61]))
    judged = replace(judged, target=torch.tensor([1.0, 0.75, 1.0]))
    found = run(judged)
    assert found.reliability == [
        ReliabilityBin(pytest.approx(0.61), 1.0, 1),
        ReliabilityBin(pytest.approx(0.82), 0.625, 2),
    ]
    assert found.ece == pytest.approx((0.39 + 2 * 0.195) / 3, rel=1e-5)


def rank(ranks: list[float], scores: list[float], rows: list[int]) -> Judged:
    """Responses without comparisons, beside one pair that is row 0."""
    count = len(ranks)
    return replace(
        judge_pairs([1.0], [0.0]),
        response_row=torch.tensor(rows),
        response=torch.arange(count),
        scores=torch.tensor(scores),
        ranks=torch.tensor(ranks),
        lengths=torch.ones(count).long(),
        disagreement=torch.zeros(count),
    )


def test_rankings_are_compared_where_there_are_any() -> None:
    ranks = [1.0, 2.0, 3.0, 1.0, 2.0, 1.0, 1.0, NAN, NAN]
    scores = [3.0, 1.0, 2.0, 0.0, 1.0, 0.0, 5.0, 1.0, 2.0]
    found = run(rank(ranks, scores, [0, 0, 0, 1, 1, 2, 2, 3, 3]))
    assert mean(found.kendall_tau) == pytest.approx((1 / 3 - 1) / 2)
    assert mean(found.top1) == 0.5
    assert found.tied_prompts == 1
    # pairs with ranks are comparisons, nothing more
    of_pairs = run(rank([1.0, 2.0], [1.0, 0.0], [0, 0]))
    assert of_pairs.kendall_tau is of_pairs.top1 is None


def test_length_correlation_within_rows_and_overall() -> None:
    judged = judge_pairs([0.0, 9.0], [1.0, 10.0], better_lengths=[6, 101], worse_lengths=[5, 100])
    found = run(judged)
    assert found.length_correlation == pytest.approx(-1)
    x, y = torch.tensor([6.0, 101, 5, 100]), torch.tensor([0.0, 9, 1, 10])
    assert found.length_correlation_overall == pytest.approx(torch.corrcoef(torch.stack([x, y]))[0, 1].item())
    assert run(judge_pairs([0.0], [1.0])).length_correlation is None


def test_domains_have_lines_of_their_own_up_to_twelve() -> None:
    names = [*(f"domain {place}" for place in range(12)), None]
    domains = [name for name in names for _ in range(2)] + ["rare", "seldom"]
    judged = judge_pairs([float(place % 2) for place in range(28)], [0.5] * 28)
    groups = run(judged, domains=domains).by_domain
    # thirteen twice, two once; the first twelve stand alone
    assert [group.name for group in groups] == [*names[:12], "3 others"]
    assert [group.count for group in groups] == [2] * 12 + [4]
    assert all(group.accuracy.mean == 0.5 for group in groups)
    few = run(judged, domains=["b"] * 20 + [None] * 8).by_domain
    assert [(group.name, group.count) for group in few] == [("b", 20), ("no domain", 8)]
    thirteen = run(judged, domains=[f"domain {place % 13}" for place in range(28)]).by_domain
    assert len(thirteen) == 13
    assert run(judged).by_domain == []


def test_a_domain_has_the_accuracy_of_its_rows() -> None:
    judged = judge_pairs([1.0, 1.0, 0.0, 1.0, 9.0], [0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.5])
    groups = run(judged, domains=["x", "y", "y", "y", "x"]).by_domain
    found = {group.name: (group.count, group.accuracy.mean) for group in groups}
    assert found == {"x": (1, 1.0), "y": (3, pytest.approx(2 / 3))}


def test_agreement_is_the_share_of_the_majority() -> None:
    votes = votes_of("aaaab", "aaab=", "bbbbb", "aab", "a", "", "aaaaaaaaab")
    # shares .8, .7, 1, 2/3, one vote only, none, .9; right in the first, third and last
    judged = judge_pairs([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    found = [(group.name, group.count, group.accuracy.mean) for group in run(judged, votes).by_agreement]
    assert found == [
        ("60% to 70%", 1, 0.0),
        ("70% to 80%", 1, 0.0),
        ("80% to 90%", 1, 1.0),
        ("90% to 100%", 1, 1.0),
        ("all agree", 1, 1.0),
    ]
    assert run(judged).by_agreement == []


def test_length_differences_are_in_quintiles_of_the_preferred_response() -> None:
    differences = [-20, -10, -5, -4, 0, 1, 2, 3, 30, 40]
    longer, shorter = [100 + difference for difference in differences], [100] * 10
    right = [0.0, 1.0] * 5
    judged = judge_pairs(right, [0.5] * 10, better_lengths=longer, worse_lengths=shorter)
    names = ["-20 to -10", "-5 to -4", "0 to +1", "+2 to +3", "+30 to +40"]
    groups = run(judged).by_length_difference
    assert [(group.name, group.count, group.accuracy.mean) for group in groups] == [
        (n, 2, 0.5) for n in names
    ]
    # the same where the response that is called the worse one is preferred
    turned = judge_pairs([0.5] * 10, right, [0.0] * 10, better_lengths=shorter, worse_lengths=longer)
    assert run(turned).by_length_difference == groups


def test_equal_length_differences_stay_together() -> None:
    lengths = [5] * 7 + [8, 9, 9]
    groups = run(judge_pairs([1.0] * 10, [0.0] * 10, better_lengths=lengths, worse_lengths=[5] * 10))
    found = [(group.name, group.count) for group in groups.by_length_difference]
    assert found == [("0 to +3", 8), ("+4", 2)]


def test_votes_are_counted_one_by_one_and_people_beside_the_model() -> None:
    # the model prefers a, b, neither; `better` is b in the second row
    judged = replace(
        judge_pairs([2.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]), better=torch.tensor([0, 1, 0, 0])
    )
    judged = replace(judged, worse=1 - judged.better)
    found = run(judged, votes_of("aab", "aabb", "aaa=", "b"))
    assert mean(found.vote_accuracy) == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found.vote_ceiling == pytest.approx((2 / 3 + 1 / 2 + 3.5 / 4) / 3)
    # aab: b against aa. aabb: everybody against the other two. aaa=: everybody against a
    assert mean(found.human_accuracy) == pytest.approx((0 + 0 * 4 + 3 * 1 + 0.5) / 9)
    # in aabb two of the majorities are a and two are b; equal scores are wrong in aaa=
    assert mean(found.accuracy_beside_humans) == pytest.approx((1 + 2 + 0) / 9)
    assert found.human_accuracy is not None
    assert (found.human_accuracy.unit, found.human_accuracy.count) == ("row", 3)  # not the nine votes
    none = run(judged)
    assert (
        none.vote_accuracy is none.vote_ceiling is none.human_accuracy is none.accuracy_beside_humans is None
    )


def test_a_row_with_a_comparison_a_vote_is_voted_on_once() -> None:
    judged = replace(judge_pairs([2.0, 1.0], [1.0, 2.0]), row=torch.zeros(2).long())
    judged = replace(judged, better=torch.tensor([0, 1]), worse=torch.tensor([1, 0]))
    found = run(judged, votes_of("ab", "aa"))
    assert found.vote_accuracy is not None
    assert (found.vote_accuracy.mean, found.vote_accuracy.count) == (0.5, 1)
    assert mean(found.accuracy) == 0.5
    # both of its comparisons are drawn together: half of them are right in every resample
    for interval in (found.accuracy, found.log_loss, found.baselines["longer wins"]):
        assert interval is not None
        assert (interval.unit, interval.count, interval.low) == ("row", 1, interval.high)


def test_the_most_wrong_come_first() -> None:
    judged = judge_pairs(
        [0.0, 5.0, 0.0, 0.0, 1.0, 3.0], [3.0, 0.0, 1.0, 9.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.5, 1.0, 0.25]
    )
    # 3 is a tie; 5 is wrong since its `better` is the worse one
    assert run(judged).worst == [0, 5, 2, 4]
    assert len(run(judge_pairs([0.0] * 50, [1.0] * 50)).worst) == 20


def test_two_responses_of_a_row_are_among_the_most_wrong_once() -> None:
    judged = judge_pairs([0.0, 0.0, 0.0, 0.0, 9.0], [1.0, 3.0, 2.0, 1.5, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0])
    judged = replace(judged, row=torch.tensor([0, 0, 0, 1, 0]))
    # of row 0: responses 0 and 1 three times, once turned round; 1 and 2 are another pair
    judged = replace(judged, better=torch.tensor([0, 0, 1, 0, 1]), worse=torch.tensor([1, 1, 2, 1, 0]))
    assert run(judged).worst == [4, 2, 3]


def test_disagreement_is_there_with_several_components() -> None:
    assert run(PAIRS).disagreement is None
    judged = replace(judge_pairs([1.0], [0.0]), disagreement=torch.tensor([0.5, 1.0]))
    assert run(judged).disagreement == 0.75


def test_no_strict_comparison_leaves_the_accuracies_out() -> None:
    found = run(judge_pairs([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]), domains=["x", "y"])
    assert found.accuracy is None
    assert found.baselines == found.minus_baselines == {}
    assert found.by_domain == found.by_length_difference == found.worst == []
    assert found.log_loss is not None


def test_nothing_judged_is_nothing_said() -> None:
    one = judge_pairs([1.0], [0.0])
    nothing = Judged(**{field.name: getattr(one, field.name)[:0] for field in fields(one)})
    found = evaluate(nothing, ["prompt"], ["x"], [[]], {})
    assert (found.comparisons, found.prompts, found.tied_prompts) == (0, 0, 0)
    assert found.accuracy is found.log_loss is found.ece is found.length_correlation is None
    assert found.reliability == found.by_domain == found.worst == []


def test_it_is_plain_values_and_json() -> None:
    found = run(rank([1.0, 2.0, 3.0], [0.1, 0.2, 0.3], [0, 0, 0]), votes_of("ab"), ["x"])
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["accuracy"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "unit": "row", "count": 1}
    assert read["reliability"] == [[pytest.approx(0.731, abs=1e-3), 1.0, 1]]
    assert set(read) == set(Evaluation.__dataclass_fields__)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": torch.tensor([0, 7])}, "expected rows from 0 to 1, found 0 to 7"),
        ({"response_row": torch.tensor([0, 1, 0, -1])}, "found -1 to 1"),
        ({"scores": torch.tensor([NAN, 0.0, 0.0, 0.0])}, "expected finite scores, found 1"),
        ({"probability": torch.tensor([NAN, NAN])}, "expected finite probability, found 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, torch.Tensor], message: str) -> None:
    judged = replace(judge_pairs([1.0, 1.0], [0.0, 0.0]), **changes)
    with pytest.raises(ValueError, match=message):
        evaluate(judged, ["p", "q"], [None, None], [[], []], {})


def test_the_columns_must_be_of_the_same_rows() -> None:
    judged = judge_pairs([1.0, 1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="found 2 prompts, 1 domains, 2 votes"):
        evaluate(judged, ["p", "q"], [None], [[], []], {})
    with pytest.raises(ValueError, match="baseline 'words'"):
        evaluate(judged, ["p", "q"], [None, None], [[], []], {"words": torch.ones(1)})

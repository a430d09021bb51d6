"""From scores to ranks to comparisons, by numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from lit_rlhf.records import Comparison, Experience
from lit_rlhf.rollout.judging import comparisons_of, groups_of, judged_batch, ranks_within, share_decided
from tests.rollout.test_credit import experience

NONE_FAILED = torch.zeros(6, dtype=torch.bool)


def same(found: torch.Tensor, expected: list[float]) -> bool:
    return torch.equal(found.nan_to_num(-1.0), torch.tensor(expected).nan_to_num(-1.0))


def test_responses_are_ranked_among_those_of_their_prompt() -> None:
    scores = torch.tensor([0.5, 9.0, 2.0, -1.0, 2.0, 0.0])
    prompts = torch.tensor([0, 1, 0, 1, 0, 1])
    assert groups_of(prompts) == [[0, 2, 4], [1, 3, 5]]
    assert same(ranks_within(scores, NONE_FAILED, prompts), [3, 1, 1, 3, 1, 2])


def test_a_response_whose_reward_failed_has_no_rank_and_takes_none() -> None:
    scores = torch.tensor([5.0, 0.0, 2.0])  # a failed score is 0, which would be the last
    failed = torch.tensor([False, True, False])
    assert same(ranks_within(scores, failed, torch.zeros(3).long()), [1, math.nan, 2])


def test_all_pairs_and_the_ends_alone() -> None:
    responses = [[1], [2], [3], [4]]
    ranks = [2.0, 1.0, 4.0, 2.0]
    tie = Comparison(0, 3, target=0.5, tie=1.0)
    assert comparisons_of(ranks, responses, "all") == [
        Comparison(0, 2), Comparison(1, 0), Comparison(1, 2), Comparison(1, 3), Comparison(3, 2), tie,
    ]  # fmt: skip
    assert comparisons_of(ranks, responses, "best_worst") == [Comparison(1, 2)]
    assert comparisons_of([None, None], [[1], [2]], "best_worst") == []
    assert comparisons_of([1.0, 1.0, 1.0], responses[:3], "best_worst") == [
        Comparison(0, 2, target=0.5, tie=1.0)
    ]
    assert comparisons_of([None, 1.0, 2.0], responses[:3], "best_worst") == [Comparison(1, 2)]


def test_the_same_response_twice_is_no_comparison() -> None:
    assert comparisons_of([1.0, 1.0, 3.0], [[7, 8], [7, 8], [9]], "all") == [
        Comparison(0, 2),
        Comparison(1, 2),
    ]


def drawn() -> Experience:
    """Two prompts with two responses each: the second of ``a`` is better, those of ``b`` are tied."""
    return replace(
        experience(),
        ranks=torch.tensor([2.0, 1.0, 1.0, 1.0]),
        response_ids=[[7, 7], [8], [7, 9], [9]],
    )


def test_a_batch_has_a_tree_for_each_prompt_whatever_they_are_called() -> None:
    rollout = replace(drawn(), prompt_names=["", "", "", ""])  # two draws of one prompt are two questions
    batch = judged_batch(rollout, [2, 3, 0, 1], "all")
    trees = batch.trees
    assert trees.num_trees == 2 and trees.tree_index.tolist() == [0, 0, 1, 1]
    assert trees.ranks.tolist() == [1.0, 1.0, 2.0, 1.0]
    assert (trees.better.tolist(), trees.worse.tolist()) == ([0, 3], [1, 2])
    assert trees.target.tolist() == [0.5, 1.0] and trees.tie.tolist() == [1.0, 0.0]
    torch.testing.assert_close(batch.reference_logprobs, rollout.reference_logprobs[[2, 3, 0, 1]])


def test_one_judged_response_is_no_ranking() -> None:
    trees = judged_batch(
        replace(drawn(), ranks=torch.tensor([2.0, math.nan, 1.0, 1.0])), [0, 1, 2, 3], "all"
    ).trees
    assert trees.ranks.tolist() == [1.0, 1.0, 1.0, 1.0] and trees.better.tolist() == [2]


def test_the_share_of_prompts_that_say_something() -> None:
    assert share_decided(drawn(), "all") == 0.5
    same_tokens = replace(drawn(), response_ids=[[7], [7], [7, 9], [9]])
    assert share_decided(same_tokens, "all") == 0.0


def test_a_failed_response_counts_no_token() -> None:
    rollout = replace(drawn(), failed=torch.tensor([False, True, False, False]))
    assert judged_batch(rollout, [0, 1], "all").trees.response_grid_mask().tolist() == [
        [True, True],
        [False, False],
    ]

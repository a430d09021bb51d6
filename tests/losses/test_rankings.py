"""Rankings: against orders counted one by one, and what must not change the losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.rankings import MAX_TIED, Ties, best_of_k_loss, plackett_luce_loss
from lit_rlhf.losses.reward import bradley_terry_loss

Loss = Callable[[Tensor, Tensor, Tensor, Ties], Tensor]
BOTH = pytest.mark.parametrize("loss", [plackett_luce_loss, best_of_k_loss])
TIES = pytest.mark.parametrize("ties", ["half", "drop"])
NOBODY = float("nan")

SCORES = torch.tensor([0.3, -1.2, 2.0, 0.0, -0.4, 1.1, 0.7, -2.0, 0.9, 0.2, 5.0], dtype=torch.float64)
RANKS = torch.tensor([2, 1, 2, NOBODY, 3, 1, 2, 3, 1, NOBODY, 1], dtype=torch.float64)
TREE = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 3, 3, 4])
"""A tie and an unjudged response, a strict ranking, nothing, one judged of two, one alone."""


def one_prompt(scores: list[float], ranks: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(ranks, dtype=torch.float64),
        torch.zeros(len(scores), dtype=torch.long),
    )


def orders(ranks: list[float]) -> Iterator[tuple[int, ...]]:
    """Every strict order, best first, that goes with the ranks."""
    judged = [i for i, rank in enumerate(ranks) if not math.isnan(rank)]
    for order in itertools.permutations(judged):
        if all(ranks[a] <= ranks[b] for a, b in itertools.pairwise(order)):
            yield order


def chance(scores: list[float], order: tuple[int, ...]) -> float:
    """Of drawing the responses in this order, each time in proportion to the strengths that are left."""
    strengths = [math.exp(scores[i]) for i in order]
    return math.prod(strength / sum(strengths[k:]) for k, strength in enumerate(strengths))


def value_and_gradient(
    loss: Loss, scores: Tensor, ranks: Tensor, tree: Tensor, ties: Ties
) -> tuple[Tensor, Tensor]:
    """The losses ``[B]`` and the gradient of their sum, each prompt with another weight."""
    scores = scores.clone().requires_grad_()
    losses = loss(scores, ranks, tree, ties)
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype)
    return losses.detach(), torch.autograd.grad((losses * weights).sum(), scores)[0]


def test_plackett_luce_by_hand() -> None:
    scores, ranks, tree = one_prompt([math.log(w) for w in (3, 2, 1)], [2, 1, 3])
    # second of six drawn first, then three of the four that are left
    assert plackett_luce_loss(scores, ranks, tree, "half").item() == pytest.approx(-math.log(2 / 6 * 3 / 4))


@TIES
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_orders_of_a_prompt_share_probability_1(size: int, ties: Ties) -> None:
    total = 0.0
    for order in itertools.permutations(range(size)):
        scores, ranks, tree = one_prompt([0.5, -1.0, 2.0, 0.1][:size], [float(place) for place in order])
        total += plackett_luce_loss(scores, ranks, tree, ties).neg().exp().item()
    assert total == pytest.approx(1, abs=1e-12)


TIED = [
    [1, 1, 2],
    [2, 1, 1],
    [1, 1, 1],
    [1, 2, 2, 3, 2],
    [1, 1, 1, 1, 2],
    [3, 3, 1, 1, 2],
    [2, 2, NOBODY, 1, 2, 5],
    [1, 1, 1, 1, 1, 1],
    [7, 0.5, 0.5, 0.5, 0.5, 0.5],
]


@pytest.mark.parametrize("ranks", TIED)
def test_ties_are_those_of_all_orders_counted_one_by_one(ranks: list[float]) -> None:
    values = [0.4, -1.0, 2.2, 0.1, -0.3, 1.5][: len(ranks)]
    chances = [chance(values, order) for order in orders(ranks)]
    mean = sum(-math.log(each) for each in chances) / len(chances)
    half = plackett_luce_loss(*one_prompt(values, ranks), "half")
    drop = plackett_luce_loss(*one_prompt(values, ranks), "drop")
    assert half.item() == pytest.approx(mean, rel=1e-12)
    assert drop.item() == pytest.approx(-math.log(sum(chances)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("ranks", TIED)
def test_the_best_of_several_is_one_of_them(ranks: list[float]) -> None:
    values = [0.4, -1.0, 2.2, 0.1, -0.3, 1.5][: len(ranks)]
    judged = [i for i, rank in enumerate(ranks) if not math.isnan(rank)]
    total = sum(math.exp(values[i]) for i in judged)
    first = min(ranks[i] for i in judged)
    shares = [math.exp(values[i]) / total for i in judged if ranks[i] == first]
    half = best_of_k_loss(*one_prompt(values, ranks), "half")
    drop = best_of_k_loss(*one_prompt(values, ranks), "drop")
    assert half.item() == pytest.approx(sum(-math.log(share) for share in shares) / len(shares))
    assert drop.item() == pytest.approx(-math.log(sum(shares)), abs=1e-12)


@BOTH
@TIES
@pytest.mark.parametrize("ranks", [[1, 1, 2], [1, 2, 2, 3], [2, 1, NOBODY, 1, 3]])
def test_gradients_are_those_of_finite_differences(loss: Loss, ties: Ties, ranks: list[float]) -> None:
    scores, judged, tree = one_prompt([0.4, -1.0, 2.2, 0.1, -0.3][: len(ranks)], ranks)
    assert torch.autograd.gradcheck(lambda s: loss(s, judged, tree, ties), scores.requires_grad_())


@BOTH
@TIES
def test_two_responses_are_bradley_terry(loss: Loss, ties: Ties) -> None:
    scores = torch.tensor([1.3, -0.2, 0.1, 0.9], dtype=torch.float64)
    tree = torch.tensor([0, 0, 1, 1])
    found = value_and_gradient(loss, scores, torch.tensor([1.0, 2.0, 2.0, 1.0]), tree, ties)

    def pairs(scores: Tensor, _ranks: Tensor, _tree: Tensor, _ties: Ties) -> Tensor:
        return bradley_terry_loss(scores[[0, 3]], scores[[1, 2]])

    torch.testing.assert_close(
        found, value_and_gradient(pairs, scores, tree, tree, ties), atol=1e-15, rtol=1e-13
    )


@BOTH
def test_two_tied_responses_are_half_half_or_nothing(loss: Loss) -> None:
    scores, ranks, tree = one_prompt([1.3, -0.2], [1, 1])

    def tie(scores: Tensor, _ranks: Tensor, _tree: Tensor, _ties: Ties) -> Tensor:
        return bradley_terry_loss(scores[:1], scores[1:], target=0.5)

    half = value_and_gradient(loss, scores, ranks, tree, "half")
    torch.testing.assert_close(
        half, value_and_gradient(tie, scores, ranks, tree, "half"), atol=1e-15, rtol=1e-13
    )
    losses, gradient = value_and_gradient(loss, scores, ranks, tree, "drop")
    assert losses.tolist() == [0]
    assert gradient.tolist() == [0, 0]


@BOTH
@TIES
def test_a_shift_of_a_prompts_scores_changes_nothing(loss: Loss, ties: Ties) -> None:
    shifts = torch.tensor([7.0, -3.0, 0.0, 11.0, 2.0], dtype=torch.float64)[TREE]
    shifted = value_and_gradient(loss, SCORES + shifts, RANKS, TREE, ties)
    torch.testing.assert_close(shifted, value_and_gradient(loss, SCORES, RANKS, TREE, ties))


@BOTH
@TIES
def test_only_the_order_of_the_ranks_counts(loss: Loss, ties: Ties) -> None:
    stretched = value_and_gradient(loss, SCORES, 10 * RANKS.square() - 3, TREE, ties)
    torch.testing.assert_close(stretched, value_and_gradient(loss, SCORES, RANKS, TREE, ties))


@BOTH
@TIES
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_responses_and_prompts_changes_nothing(loss: Loss, ties: Ties, seed: int) -> None:
    shuffled = torch.randperm(len(SCORES), generator=torch.Generator().manual_seed(seed))
    losses, gradient = value_and_gradient(loss, SCORES, RANKS, TREE, ties)
    found = value_and_gradient(loss, SCORES[shuffled], RANKS[shuffled], TREE[shuffled], ties)
    torch.testing.assert_close(found, (losses, gradient[shuffled]))


@BOTH
@TIES
def test_prompts_of_any_size_in_one_batch_are_as_one_by_one(loss: Loss, ties: Ties) -> None:
    losses, gradient = value_and_gradient(loss, SCORES, RANKS, TREE, ties)
    assert len(losses) == 5
    for tree in TREE.unique().tolist():
        own = tree == TREE
        alone = value_and_gradient(loss, SCORES[own], RANKS[own], torch.zeros_like(TREE[own]), ties)
        torch.testing.assert_close(losses[tree : tree + 1], alone[0])
        torch.testing.assert_close(gradient[own], (tree + 1) * alone[1])


@BOTH
@TIES
def test_who_is_not_judged_and_who_is_alone_learns_nothing(loss: Loss, ties: Ties) -> None:
    losses, gradient = value_and_gradient(loss, SCORES, RANKS, TREE, ties)
    assert losses[2:].tolist() == [0, 0, 0]
    assert gradient[[3, 8, 9, 10]].tolist() == [0, 0, 0, 0]
    assert (gradient[[0, 1, 5, 6]] != 0).all()


@BOTH
@TIES
def test_a_batch_without_a_judgement_gives_zero(loss: Loss, ties: Ties) -> None:
    losses, gradient = value_and_gradient(loss, SCORES, torch.full_like(RANKS, NOBODY), TREE, ties)
    assert losses.tolist() == [0] * 5
    assert gradient.tolist() == [0] * len(SCORES)
    empty = torch.zeros(0)
    assert loss(empty, empty, empty.long(), ties).shape == (0,)


@BOTH
@TIES
@pytest.mark.parametrize("ranks", [[1.0, 2, 3, 4], [4.0, 3, 2, 1], [1.0, 1, 2, NOBODY], [2.0, 2, 1, 1]])
def test_scores_far_apart_stay_finite(loss: Loss, ties: Ties, ranks: list[float]) -> None:
    scores, judged, tree = one_prompt([100.0, -100.0, 0.0, 300.0], ranks)
    losses, gradient = value_and_gradient(loss, scores.float(), judged, tree, ties)
    exact, exact_gradient = value_and_gradient(loss, scores, judged, tree, ties)
    assert gradient.isfinite().all()
    torch.testing.assert_close(losses.double(), exact)
    torch.testing.assert_close(gradient.double(), exact_gradient)


def test_what_is_not_judged_may_be_anything() -> None:
    scores, ranks, tree = one_prompt([1.0, 0.0, NOBODY, math.inf], [1, 2, NOBODY, NOBODY])
    losses, gradient = value_and_gradient(plackett_luce_loss, scores, ranks, tree, "half")
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert gradient[2:].tolist() == [0, 0]


def test_a_tie_too_large_is_told() -> None:
    size = MAX_TIED + 1
    tied_first = one_prompt([0.0] * (size + 1), [1.0] * size + [2.0])
    for ties in ("half", "drop"):
        with pytest.raises(ValueError, match=f"at most {MAX_TIED} .* found {size}"):
            plackett_luce_loss(*tied_first, ties)
    tied_last = one_prompt([0.0] * (size + 1), [2.0] * size + [1.0])
    # nothing below: only that the first one is first counts
    assert plackett_luce_loss(*tied_last, "drop").item() == pytest.approx(math.log(size + 1))


@TIES
def test_the_largest_tie_is_summed(ties: Ties) -> None:
    """Equal scores: each order of the b tied ones above one other has the same probability."""
    scores, ranks, tree = one_prompt([0.0] * (MAX_TIED + 1), [1.0] * MAX_TIED + [2.0])
    one_order = math.lgamma(MAX_TIED + 2)
    expected = one_order if ties == "half" else one_order - math.lgamma(MAX_TIED + 1)
    assert plackett_luce_loss(scores, ranks, tree, ties).item() == pytest.approx(expected)


@BOTH
def test_wrong_shapes_are_named(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"ranks \[11, 1\]"):
        loss(SCORES, RANKS[:, None], TREE, "half")

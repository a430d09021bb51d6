"""Reward losses, with one free score per response, find the scores that the judgements were drawn from.

Ten responses with known utilities u are compared, or ranked four at a time. What is known on paper: the
error that the Fisher information allows, how far flipped labels pull the slope down, that the loss which
knows of the noise puts it right, and what pairs lose against the likelihood of the whole ranking.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from lit_rlhf.losses.rankings import best_of_k_loss, plackett_luce_loss
from lit_rlhf.losses.reward import (
    bradley_terry_loss,
    rao_kupper_loss,
    robust_bradley_terry_loss,
    uniform_error_loss,
)

UTILITIES = torch.tensor(
    [0.1257, -0.1321, 0.6404, 0.1049, -0.5357, 0.3616, 1.3040, 0.9471, -0.7037, -1.2654], dtype=torch.float64
)
"""Ten normal numbers, numpy's with seed 0."""
UTILITIES -= UTILITIES.mean()
FIRST, SECOND = torch.triu_indices(10, 10, offset=1)
"""The 45 pairs of them."""
DIFFERENCE = UTILITIES[FIRST] - UTILITIES[SECOND]

PairLoss = Callable[[Tensor, Tensor], Tensor]


def minimum(objective: Callable[[Tensor], Tensor], *shape: int, gradient: float = 1e-10) -> Tensor:
    """Where an objective of numbers of that shape is smallest, to that largest gradient."""
    numbers = torch.zeros(*shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [numbers], max_iter=200, tolerance_grad=gradient, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(numbers)
        loss.backward()
        return loss

    optimizer.step(closure)
    return numbers.detach()


def centred(scores: Tensor) -> Tensor:
    """The mean of the scores ``[..., 10]`` is what no comparison tells."""
    return scores - scores.mean(dim=-1, keepdim=True)


def fit_pairs(loss: PairLoss, wins: Tensor) -> Tensor:
    """Scores from the share of comparisons ``[..., 90]`` that each pair's first, then its second side won."""

    def objective(scores: Tensor) -> Tensor:
        first, second = scores[..., FIRST], scores[..., SECOND]
        losses = torch.cat([loss(first, second), loss(second, first)], dim=-1)
        return (wins * losses).sum()

    return centred(minimum(objective, *wins.shape[:-1], 10))


def slope(scores: Tensor) -> float:
    """Of the regression of the scores on the utilities, both centred."""
    return (scores @ UTILITIES / UTILITIES.square().sum()).item()


def root_mean_square(errors: Tensor) -> float:
    return errors.square().mean().sqrt().item()


def expected_wins(right: Tensor) -> Tensor:
    """Of endless comparisons, every pair as often, whose first side wins with probability ``[45]``."""
    return torch.cat([right, 1 - right]) / 45


def drawn_wins(right: Tensor, comparisons: int, repeats: int, seed: int = 0) -> Tensor:
    """The same of so many comparisons, of pairs drawn at random, again and again. ``[repeats, 90]``."""
    generator = torch.Generator().manual_seed(seed)
    outcomes = expected_wins(right).expand(repeats, -1)
    drawn = outcomes.multinomial(comparisons, replacement=True, generator=generator)
    counts = torch.zeros(repeats, 90, dtype=torch.float64)
    return counts.scatter_add(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / comparisons


def test_the_utilities_are_those_of_the_published_numbers() -> None:
    assert DIFFERENCE.abs().sigmoid().mean().item() == pytest.approx(0.7032, abs=1e-4)


@pytest.mark.parametrize(
    ("comparisons", "published"),
    [(1_000, 0.1445), (10_000, 0.0457), (100_000, 0.0144)],
)
def test_utilities_are_found_as_closely_as_the_fisher_information_allows(
    comparisons: int, published: float
) -> None:
    wins = drawn_wins(DIFFERENCE.sigmoid(), comparisons, repeats=40)
    scores = fit_pairs(bradley_terry_loss, wins)
    assert root_mean_square(scores - UTILITIES) == pytest.approx(published, rel=0.15)


# ------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize(("flip_rate", "published"), [(0.1, 0.758), (0.2, 0.532), (0.3, 0.346)])
def test_flips_shrink_the_plain_scores_and_the_robust_loss_puts_them_right(
    flip_rate: float, published: float
) -> None:
    flipped = expected_wins((1 - flip_rate) * DIFFERENCE.sigmoid() + flip_rate * (-DIFFERENCE).sigmoid())
    plain = fit_pairs(bradley_terry_loss, flipped)
    assert slope(plain) == pytest.approx(published, abs=0.02)
    assert torch.corrcoef(torch.stack([plain, UTILITIES]))[0, 1] > 0.997  # the order is intact
    robust = fit_pairs(lambda better, worse: robust_bradley_terry_loss(better, worse, flip_rate), flipped)
    torch.testing.assert_close(robust, UTILITIES, atol=1e-6, rtol=0)


@pytest.mark.parametrize("flip_rate", [0.1, 0.3])
def test_the_robust_loss_puts_the_scores_of_drawn_comparisons_right(flip_rate: float) -> None:
    right = (1 - flip_rate) * DIFFERENCE.sigmoid() + flip_rate * (-DIFFERENCE).sigmoid()
    wins = drawn_wins(right, 100_000, repeats=3)
    robust = fit_pairs(lambda better, worse: robust_bradley_terry_loss(better, worse, flip_rate), wins)
    for scores in robust:
        assert slope(scores) == pytest.approx(1, abs=0.06)


def test_blind_answers_shrink_the_plain_scores_and_the_mixture_puts_them_right() -> None:
    right = 0.9 * DIFFERENCE.sigmoid() + 0.05
    assert slope(fit_pairs(bradley_terry_loss, expected_wins(right))) < 0.9
    mixture = fit_pairs(lambda better, worse: uniform_error_loss(better, worse, 0.1), expected_wins(right))
    torch.testing.assert_close(mixture, UTILITIES, atol=1e-5, rtol=0)


def test_ties_give_the_threshold_and_leave_the_utilities() -> None:
    """With ties as half-half the scores shrink; the model that they were drawn from finds scores and θ."""
    theta = 0.7
    first, second = (DIFFERENCE - theta).sigmoid(), (-DIFFERENCE - theta).sigmoid()
    tie = 1 - first - second
    target = first + tie / 2
    half = minimum(lambda s: bradley_terry_loss(s[FIRST], s[SECOND], target).mean(), 10)
    assert slope(half) < 0.92
    found = minimum(lambda s: rao_kupper_loss(s[FIRST], s[SECOND], softplus(s[10]), target, tie).mean(), 11)
    torch.testing.assert_close(centred(found[:10]), UTILITIES, atol=1e-6, rtol=0)
    assert softplus(found[10]).item() == pytest.approx(theta, abs=1e-6)


def test_the_luce_ratio_is_bradley_terry_on_log_strengths() -> None:
    ratio = -(UTILITIES[FIRST].exp() / (UTILITIES[FIRST].exp() + UTILITIES[SECOND].exp())).log()
    found = bradley_terry_loss(UTILITIES[FIRST], UTILITIES[SECOND])
    torch.testing.assert_close(found, ratio, atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------------------ rankings


def drawn_rankings(repeats: int, rankings: int, size: int, seed: int = 0) -> Tensor:
    """Which responses were ranked, best first: the order of u plus Gumbel noise. ``[repeats, rankings, size]``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (repeats, rankings, 10)
    shown = torch.rand(shape, generator=generator).argsort(dim=-1)[..., :size]
    gumbel = -(-torch.rand(shape, generator=generator, dtype=torch.float64)[..., :size].log()).log()
    return shown.gather(-1, (UTILITIES[shown] + gumbel).argsort(dim=-1, descending=True))


def test_the_whole_ranking_beats_its_pairs_by_what_is_published() -> None:
    """Plackett-Luce is the likelihood; pairs of one ranking are not independent, which costs a seventh."""
    repeats, rankings, size = 60, 300, 4
    shown = drawn_rankings(repeats, rankings, size)
    ranks = torch.arange(1.0, size + 1).repeat(repeats * rankings)
    tree_index = torch.arange(repeats * rankings).repeat_interleave(size)
    better, worse = torch.triu_indices(size, size, offset=1)

    def ranked(scores: Tensor) -> Tensor:
        return scores[:, None].expand(-1, rankings, -1).gather(-1, shown)

    def listwise(scores: Tensor) -> Tensor:
        losses = plackett_luce_loss(ranked(scores).flatten(), ranks, tree_index, ties="half")
        return losses.sum() / rankings

    def pairwise(scores: Tensor) -> Tensor:
        in_order = ranked(scores)
        return bradley_terry_loss(in_order[..., better], in_order[..., worse]).mean((1, 2)).sum()

    whole, pairs = (
        centred(minimum(objective, repeats, 10, gradient=1e-4)) - UTILITIES
        for objective in (listwise, pairwise)
    )
    assert root_mean_square(whole) == pytest.approx(0.1307, rel=0.1)
    assert root_mean_square(pairs) == pytest.approx(0.1392, rel=0.1)
    assert (pairs.square().mean() / whole.square().mean()).item() == pytest.approx(1.14, abs=0.08)


def expected_rankings() -> tuple[Tensor, Tensor]:
    """Every ranking of every three responses, ``[720, 3]``, best first, and its probability ``[720]``."""
    shown = torch.tensor(list(itertools.permutations(range(10), 3)))
    strengths = UTILITIES[shown].exp()
    left = strengths.flip(1).cumsum(1).flip(1)
    return shown, (strengths / left).prod(1) / 120


@pytest.mark.parametrize(
    ("loss", "ties", "said", "exact"),
    [
        (plackett_luce_loss, "half", [1, 2, 3], True),
        (best_of_k_loss, "half", [1, 2, 2], True),  # of the others nothing is asked
        (plackett_luce_loss, "drop", [1, 2, 2], True),
        (plackett_luce_loss, "drop", [1, 1, 2], True),  # the worst one
        (plackett_luce_loss, "half", [1, 1, 2], False),  # takes "nothing said" for "equally good"
        (best_of_k_loss, "half", [1, 1, 2], False),
    ],
)
def test_what_is_said_of_endless_rankings_gives_the_utilities(
    loss: Callable[..., Tensor], ties: str, said: list[float], exact: bool
) -> None:
    shown, probability = expected_rankings()
    assert probability.sum().item() == pytest.approx(1)
    ranks = torch.tensor(said, dtype=torch.float64).repeat(720)
    tree_index = torch.arange(720).repeat_interleave(3)
    scores = centred(minimum(lambda s: probability @ loss(s[shown].flatten(), ranks, tree_index, ties), 10))
    if exact:
        torch.testing.assert_close(scores, UTILITIES, atol=1e-6, rtol=0)
    else:
        assert slope(scores) < 0.8


def test_one_of_two_is_the_best_gives_the_utilities_when_their_chances_are_summed() -> None:
    """The best one and any other are named together: who named them could not say which it was."""
    shown, probability = expected_rankings()
    tree_index = torch.arange(720).repeat_interleave(3)

    def objective(scores: Tensor) -> Tensor:
        with_second, with_third = (
            best_of_k_loss(scores[shown].flatten(), torch.tensor(said).repeat(720), tree_index, "drop")
            for said in ([1.0, 1.0, 2.0], [1.0, 2.0, 1.0])
        )
        return probability @ (with_second + with_third) / 2

    torch.testing.assert_close(centred(minimum(objective, 10)), UTILITIES, atol=1e-6, rtol=0)


def test_responses_scored_once_give_the_mean_of_the_pair_gradients() -> None:
    """K responses, all pairs of one pass, against each pair on its own, through a small network."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)

    def score(rows: Tensor) -> Tensor:
        return (rows @ weights).tanh() @ head

    better, worse = torch.triu_indices(5, 5, offset=1)
    scores = score(inputs)
    together = torch.autograd.grad(bradley_terry_loss(scores[better], scores[worse]).mean(), (weights, head))
    alone = [
        torch.autograd.grad(bradley_terry_loss(score(inputs[[b]]), score(inputs[[w]])).sum(), (weights, head))
        for b, w in zip(better.tolist(), worse.tolist(), strict=True)
    ]
    for found, *pairs in zip(together, *alone, strict=True):
        torch.testing.assert_close(found, torch.stack(pairs).mean(0), atol=1e-12, rtol=0)

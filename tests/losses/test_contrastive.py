"""Contrastive terms: cosines by hand, balanced assignments, and what must not change the losses."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.contrastive import contrastive_views, simcse_loss, sinkhorn, swav_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FIRST, SECOND, PROTOTYPES = random(6, 4, seed=1), random(6, 4, seed=2), random(3, 4, seed=3)


def test_views_are_the_responses_or_their_differences() -> None:
    better, worse = torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([[1.0, 2.0], [5.0, 5.0]])
    on_responses = contrastive_views(better, worse, on="responses")
    assert on_responses.tolist() == [[3, 1], [0, 2], [1, 2], [5, 5]]
    on_differences = contrastive_views(better, worse, on="differences")
    assert on_differences.tolist() == [[2, -1], [-5, -3], [-2, 1], [5, 3]]


def test_simcse_by_hand() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, 1.0], [0.0, -5.0]], dtype=torch.float64)
    diagonal, half = math.sqrt(0.5), 0.5
    expected = [
        math.log(math.exp(diagonal / half) + math.exp(0 / half)) - diagonal / half,
        math.log(math.exp(diagonal / half) + math.exp(-1 / half)) + 1 / half,
    ]
    assert simcse_loss(first, second, temperature=half).tolist() == pytest.approx(expected)


def test_simcse_sees_directions_only_and_learns_across_them() -> None:
    lengths = torch.tensor([[0.1], [3.0], [7.0], [1.0], [20.0], [0.5]], dtype=torch.float64)
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    loss = simcse_loss(first, second, temperature=0.3)
    torch.testing.assert_close(loss, simcse_loss(lengths * FIRST, SECOND / lengths, temperature=0.3))
    gradients = torch.autograd.grad(loss.sum(), (first, second))
    for gradient, features in zip(gradients, (FIRST, SECOND), strict=True):
        assert gradient.norm() > 0.1
        torch.testing.assert_close((gradient * features).sum(1), torch.zeros(6, dtype=torch.float64))


def test_duplicates_are_no_negatives() -> None:
    """Rows 1 and 4 are one response: its loss is that of a batch which has it once."""
    first, second = FIRST.clone(), SECOND.clone()
    first[4], second[4] = first[1], second[1]
    same = torch.eye(6, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    once = [0, 1, 2, 3, 5]
    alone = simcse_loss(first[once], second[once], temperature=0.3)
    loss = simcse_loss(first, second, temperature=0.3, same=same)
    torch.testing.assert_close(loss[[1, 4]], alone[[1, 1]])
    assert (loss[[0, 2, 3, 5]] > alone[[0, 2, 3, 4]]).all()  # for the others it is in the batch twice
    without_diagonal = simcse_loss(
        first, second, temperature=0.3, same=same & ~torch.eye(6, dtype=torch.bool)
    )
    torch.testing.assert_close(loss, without_diagonal)
    assert (simcse_loss(first, second, temperature=0.3)[[1, 4]] > loss[[1, 4]]).all()


def test_order_changes_nothing() -> None:
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        simcse_loss(FIRST[shuffled], SECOND[shuffled], 0.3), simcse_loss(FIRST, SECOND, 0.3)[shuffled]
    )
    loss = swav_loss(FIRST, SECOND, PROTOTYPES, temperature=0.1)
    torch.testing.assert_close(
        swav_loss(FIRST[shuffled], SECOND[shuffled], PROTOTYPES, temperature=0.1), loss[shuffled]
    )
    torch.testing.assert_close(swav_loss(FIRST, SECOND, PROTOTYPES.flip(0), temperature=0.1), loss)
    torch.testing.assert_close(swav_loss(SECOND, FIRST, PROTOTYPES, temperature=0.1), loss)  # both directions


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_a_vector_of_zeros_has_no_gradient(temperature: float) -> None:
    """The difference of two equal responses, where the network has no dropout."""
    first, second = FIRST.float(), SECOND.float()
    first[2], second[2] = 0, 0
    first.requires_grad_()
    prototypes = PROTOTYPES.float().requires_grad_()
    loss = simcse_loss(first, second, temperature) + swav_loss(first, second, prototypes, temperature)
    for gradient in torch.autograd.grad(loss.sum(), (first, prototypes)):
        assert gradient.isfinite().all()
        assert gradient.norm() > 0
    assert torch.autograd.grad(simcse_loss(first, second, temperature).sum(), first)[0][2].tolist() == [0] * 4


def test_assignments_balance_the_clusters() -> None:
    scores = torch.nn.functional.normalize(FIRST, dim=1) @ PROTOTYPES.T
    assert (sinkhorn(scores, epsilon=1.0, iterations=1).sum(0) - 2).abs().max() > 1e-3
    code = sinkhorn(scores, epsilon=1.0, iterations=200)
    torch.testing.assert_close(code.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(code.sum(0), torch.full((3,), 6 / 3, dtype=torch.float64))
    # of the form u·exp(s/ε)·v: every 2 by 2 block keeps its odds ratio
    log_odds = (code.log() - scores).double()
    centred = log_odds - log_odds.mean(0) - log_odds.mean(1, keepdim=True) + log_odds.mean()
    assert centred.abs().max() < 1e-9


def test_a_smaller_epsilon_assigns_harder() -> None:
    scores = torch.nn.functional.normalize(FIRST, dim=1) @ PROTOTYPES.T
    hard, soft = sinkhorn(scores, epsilon=0.05), sinkhorn(scores, epsilon=1.0)
    assert hard.amax(1).mean() > soft.amax(1).mean() + 0.1
    torch.testing.assert_close(sinkhorn(20 * scores, epsilon=1.0), hard)


def test_assignments_stay_finite_in_float32() -> None:
    code = sinkhorn(torch.tensor([[1.0, -1.0], [1.0, -1.0], [0.5, 0.2]]), epsilon=1e-3)
    assert code.isfinite().all()
    assert code.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_swav_is_the_cross_entropy_of_the_other_views_assignment() -> None:
    """One sample, two clusters: balanced assignments are half and half, whatever the scores."""
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    centres = torch.tensor([[5.0, 0.0], [0.0, 0.1]])

    def half_half(difference: float) -> float:
        return -sum(math.log(1 / (1 + math.exp(-d))) for d in (difference, -difference)) / 2

    loss = swav_loss(first, second, centres, temperature=0.5, iterations=1)
    assert loss.item() == pytest.approx(2 * half_half(1 / 0.5))


def test_swav_trains_features_and_prototypes_but_not_the_assignments() -> None:
    first, second, prototypes = (each.clone().requires_grad_() for each in (FIRST, SECOND, PROTOTYPES))
    loss = swav_loss(first, second, prototypes, temperature=0.1)
    assert all(g.norm() > 0 for g in torch.autograd.grad(loss.sum(), (first, second, prototypes)))
    assert not sinkhorn(first @ prototypes.T).requires_grad
    scaled = swav_loss(FIRST, SECOND, 9 * PROTOTYPES, temperature=0.1)
    torch.testing.assert_close(scaled, loss.detach())  # unit vectors inside


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive_views(FIRST, SECOND[:3], on="responses"), r"worse_features \[3, 4\]"),
        (lambda: simcse_loss(FIRST, SECOND[:3], 0.1), r"second \[3, 4\]"),
        (lambda: simcse_loss(FIRST, SECOND, 0.1, same=torch.eye(3).bool()), r"same \[3, 3\]"),
        (lambda: simcse_loss(FIRST, SECOND, 0.0), "temperature above 0, found 0.0"),
        (lambda: swav_loss(FIRST, SECOND[:3], PROTOTYPES, 0.1), r"second \[3, 4\]"),
        (lambda: swav_loss(FIRST, SECOND, PROTOTYPES, -1.0), "temperature above 0, found -1.0"),
        (lambda: swav_loss(FIRST, SECOND, PROTOTYPES, 0.1, epsilon=0.0), "epsilon above 0, found 0.0"),
        (lambda: sinkhorn(FIRST, iterations=0), "iterations of at least 1, found 0"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

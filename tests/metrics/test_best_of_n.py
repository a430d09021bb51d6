"""Best-of-n against all draws there are, and the formula that bounds its KL."""

import itertools
import math

import pytest
import torch

from lit_rlhf.metrics.best_of_n import best_of_n_kl, best_of_n_probabilities
from lit_rlhf.ops.kl import exact_kl

REFERENCE = [0.1, 0.2, 0.3, 0.4]


def by_enumeration(scores: list[float], n: int) -> list[float]:
    kept = [0.0] * len(scores)
    for draws in itertools.product(range(len(scores)), repeat=n):
        best = [draw for draw in draws if scores[draw] == max(scores[each] for each in draws)]
        for draw in best:
            kept[draw] += math.prod(REFERENCE[each] for each in draws) / len(best)
    return kept


@pytest.mark.parametrize("scores", [[1.0, 3.0, 2.0, 0.0], [1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_it_keeps_what_all_draws_keep(scores: list[float], n: int) -> None:
    found = best_of_n_probabilities(torch.tensor(REFERENCE, dtype=torch.float64), torch.tensor(scores), n)
    assert found.tolist() == pytest.approx(by_enumeration(scores, n), abs=1e-12)


def test_a_response_that_is_never_drawn_stays_at_nothing() -> None:
    found = best_of_n_probabilities(torch.tensor([0.0, 0.5, 0.5]), torch.tensor([9.0, 1.0, 0.0]), 2)
    assert found.tolist() == [0, 0.75, 0.25]


def test_the_formula_is_reached_by_many_responses_and_a_bound_for_few() -> None:
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    gap = []
    for count in (4, 40, 4000):
        reference = torch.full((count,), 1 / count, dtype=torch.float64)
        kept = best_of_n_probabilities(reference, torch.arange(count), 4)
        gap.append(best_of_n_kl(4) - exact_kl(kept.log(), reference.log()).item())
    assert gap[0] > gap[1] > gap[2] > 0
    assert gap[2] < 1e-5


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        best_of_n_probabilities(torch.ones(2) / 2, torch.zeros(3), 2)
    with pytest.raises(ValueError, match="sum of 2"):
        best_of_n_probabilities(torch.ones(2), torch.zeros(2), 2)
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"1 or more, found {n}"):
            best_of_n_probabilities(torch.ones(2) / 2, torch.zeros(2), n)
        with pytest.raises(ValueError, match=f"1 or more, found {n}"):
            best_of_n_kl(n)

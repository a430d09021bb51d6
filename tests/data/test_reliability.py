"""The annotators' reliability: by hand, by another program, and recovered from simulated votes."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lit_rlhf.data.reliability import Annotator, Reliability, estimate_reliability
from lit_rlhf.records import Vote

CHOICES = (1.0, 0.0, 0.5)


def by_the_book(
    rows: list[list[tuple[str, int]]], smoothing: float, iterations: int
) -> tuple[dict, list, Annotator]:
    """The same model in plain loops over dictionaries, every probability multiplied out."""
    ties = [answer == 2 for row in rows for _, answer in row]
    tie_rate = (sum(ties) + 1) / (len(ties) + 3)
    prior = [(1 - tie_rate) / 2, (1 - tie_rate) / 2, tie_rate]
    people = sorted({name for row in rows for name, _ in row})
    theta, guessed = dict.fromkeys(people, 0.5), dict.fromkeys(people, tie_rate)
    posterior = [[sum(answer == k for _, answer in row) / len(row) for k in range(3)] for row in rows]

    def guess(name: str, answer: int) -> float:
        return guessed[name] if answer == 2 else (1 - guessed[name]) / 2

    for _ in range(iterations):
        judged = [
            (
                name,
                answer,
                q[answer] * theta[name] / (theta[name] + (1 - theta[name]) * guess(name, answer)),
            )
            for q, row in zip(posterior, rows)
            for name, answer in row
        ]
        mean = (sum(j for *_, j in judged) + 1) / (len(judged) + 2)
        mean_guess = (sum(1 - j for _, a, j in judged if a == 2) + 1) / (sum(1 - j for *_, j in judged) + 3)
        for person in people:
            own = [(answer, j) for name, answer, j in judged if name == person]
            theta[person] = (sum(j for _, j in own) + smoothing * mean) / (len(own) + smoothing)
            guessed[person] = (sum(1 - j for a, j in own if a == 2) + smoothing * mean_guess) / (
                sum(1 - j for _, j in own) + smoothing
            )
        posterior = []
        for row in rows:
            q = list(prior)
            for k in range(3):
                for name, answer in row:
                    q[k] *= theta[name] * (answer == k) + (1 - theta[name]) * guess(name, answer)
            posterior.append([value / sum(q) for value in q])
    return theta, posterior, Annotator(mean, mean_guess)


def simulated(
    people: int, rows: int, votes_a_row: int, seed: int, ties: float
) -> tuple[list[list[Vote]], list[int], list[float]]:
    """Votes with the true answers and competences."""
    chance = random.Random(seed)
    competence = [chance.uniform(0.05, 0.95) for _ in range(people)]
    weights = [(1 - ties) / 2, (1 - ties) / 2, ties]
    truth = chance.choices(range(3), weights, k=rows)
    votes = []
    for right in truth:
        answers = {
            person: right if chance.random() < competence[person] else chance.choices(range(3), weights)[0]
            for person in chance.sample(range(people), votes_a_row)
        }
        votes.append([Vote(str(person), CHOICES[answer]) for person, answer in answers.items()])
    return votes, truth, competence


@pytest.mark.parametrize("smoothing", [1.0, 10.0])
def test_equals_loops_over_dictionaries(smoothing: float) -> None:
    votes, _, _ = simulated(people=6, rows=25, votes_a_row=3, seed=1, ties=0.3)
    found = estimate_reliability(votes, smoothing, tolerance=0.0, max_iterations=15)
    rows = [[(vote.annotator, CHOICES.index(vote.choice)) for vote in row] for row in votes]
    theta, posterior, everybody = by_the_book(rows, smoothing, iterations=15)
    assert (found.iterations, found.converged) == (15, False)
    assert found.everybody.competence == pytest.approx(everybody.competence)
    assert found.everybody.guessed_ties == pytest.approx(everybody.guessed_ties)
    assert {name: annotator.competence for name, annotator in found.annotators.items()} == pytest.approx(
        theta
    )
    for row, expected in zip(votes, posterior):
        assert found.posterior(row) == pytest.approx(expected)


def test_first_iteration_by_hand() -> None:
    """Two rows, no ties: x and y agree on the first and differ on the second; everybody starts at 1/2 and g = 1/2.

    A vote on the agreed row was judged with probability 1·.5/(.5 + .5·.5) = 2/3, on the other with 1/2·2/3 = 1/3,
    so each judged 1 of 2 votes; the mean is (2 + 1)/(4 + 2), and so is everybody's competence, whatever s.
    """
    votes = [[Vote("x", 1.0), Vote("y", 1.0)], [Vote("x", 1.0), Vote("y", 0.0)]]
    found = estimate_reliability(votes, smoothing=3.0, max_iterations=1)
    assert found.annotators["x"].competence == pytest.approx(0.5)
    assert found.annotators["x"] == found.annotators["y"]
    assert (found.tie_rate, found.scale) == (0.0, pytest.approx(0.5))
    # right with .5 + .5·.5 = 3/4: two votes give 9 : 1
    assert found.posterior(votes[0]) == pytest.approx((0.9, 0.1, 0.0))
    assert found.posterior(votes[1]) == pytest.approx((0.5, 0.5, 0.0))


@pytest.mark.parametrize("ties", [0.0, 0.25])
def test_recovers_simulated_annotators_and_beats_the_majority(ties: float) -> None:
    votes, truth, competence = simulated(people=40, rows=1200, votes_a_row=5, seed=2, ties=ties)
    found = estimate_reliability(votes)
    assert found.converged
    estimated = torch.tensor([found.annotators[str(k)].competence for k in range(40)])
    true = torch.tensor(competence)
    assert torch.corrcoef(torch.stack([estimated, true]))[0, 1] > 0.95
    assert (estimated - true).abs().mean() < 0.08
    right = majority = 0.0
    for row, answer in zip(votes, truth):
        posterior = found.posterior(row)
        right += posterior.index(max(posterior)) == answer
        counts = [sum(vote.choice == choice for vote in row) for choice in CHOICES]
        majority += (counts[answer] == max(counts)) / counts.count(max(counts))
    assert right > majority + 20
    assert math.fsum(map(found.weight, (vote.annotator for row in votes for vote in row))) == pytest.approx(
        1200 * 5
    )


def test_sides_are_treated_alike() -> None:
    votes, _, _ = simulated(people=8, rows=40, votes_a_row=3, seed=3, ties=0.2)
    turned = [[Vote(vote.annotator, 1 - vote.choice) for vote in row] for row in votes]
    one, other = estimate_reliability(votes), estimate_reliability(turned)
    for name, annotator in one.annotators.items():
        assert other.annotators[name].competence == pytest.approx(annotator.competence)
    first, second, tied = one.posterior(votes[0])
    assert other.posterior(turned[0]) == pytest.approx((second, first, tied))


def test_few_votes_stay_near_the_mean() -> None:
    votes = [[Vote("x", 1.0), Vote("y", 1.0), Vote("z", 1.0), Vote("w", 1.0)] for _ in range(50)]
    votes[0].append(Vote("once", 0.0))
    found = estimate_reliability(votes)
    assert found.annotators["x"].competence > found.everybody.competence
    shrunk = 10 / 11 * found.everybody.competence
    assert found.annotators["once"].competence == pytest.approx(shrunk, abs=1e-3)
    barely = estimate_reliability(votes, smoothing=0.01)
    assert barely.annotators["once"].competence < 0.05


def test_votes_without_a_name_are_many_people_like_everybody() -> None:
    votes = [[Vote("x", 1.0), Vote("y", 1.0), Vote("", 0.0)] for _ in range(60)]
    votes += [[Vote("x", 0.0), Vote("y", 0.0), Vote("", 0.0)] for _ in range(20)]
    found = estimate_reliability(votes)
    assert set(found.annotators) == {"x", "y"}
    assert found.weight("") == found.weight("never seen") < found.weight("x")


def test_a_tie_says_nothing_where_nobody_called_one() -> None:
    found = Reliability({}, Annotator(0.5, 0.0), 0.0, 1, True, 0.5)
    assert found.posterior([Vote("x", 0.5)]) == (0.5, 0.5, 0.0)


def test_nobody_to_be_held_against_is_an_error() -> None:
    with pytest.raises(ValueError, match="two or more votes on a row somewhere, found none"):
        estimate_reliability([[Vote("x", 1.0)], [Vote("y", 0.0)]])

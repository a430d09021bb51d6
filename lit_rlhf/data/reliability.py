"""How far each annotator can be trusted, from whom they agree with: Dawid and Skene's model with one coin each.

Letters: A answers (first better, second better, tie; the first two where nobody called a tie), q(k) a row's posterior,
θ an annotator's competence, g(k) how that annotator guesses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_rlhf.records import Vote

SMOOTHING = 10.0
"""Votes like everybody's that each annotator is given beforehand. On 15 000 crowd votes 10 predicted votes held out
better than 1 and 4, and as well as 20."""
TOLERANCE = 1e-5
MAX_ITERATIONS = 1000

_ANSWER = {1.0: 0, 0.0: 1, 0.5: 2}


@dataclass(frozen=True)
class Annotator:
    """One person, or everybody together."""

    competence: float
    """θ: share of votes that are judged and not guessed; 0 = nothing but guesses."""
    guessed_ties: float
    """g(tie): share of the guesses that are ties; the rest is half and half."""

    def evidence(self, choice: float) -> float:
        """How much likelier the vote is where its answer is right than where it is wrong, as a logarithm."""
        guess = self.guessed_ties if choice == 0.5 else (1 - self.guessed_ties) / 2
        return math.log1p(self.competence / ((1 - self.competence) * guess)) if guess else 0.0


@dataclass(frozen=True)
class Reliability:
    """What :func:`estimate_reliability` found."""

    annotators: dict[str, Annotator]
    everybody: Annotator
    """Stands in for annotators not seen, and for votes without a name."""
    tie_rate: float
    """Share of ties among all votes, taken for the share of rows that are ties: 0 where nobody called one."""
    iterations: int
    converged: bool
    scale: float
    """Mean θ over all votes."""

    def weight(self, annotator: str) -> float:
        """What a vote counts: θ, divided by its mean over the votes."""
        return self.annotators.get(annotator, self.everybody).competence / self.scale

    def posterior(self, votes: Sequence[Vote]) -> tuple[float, float, float]:
        """Probabilities that the first response is better, that the second is, and that they are tied."""
        odds = [(1 - self.tie_rate) / 2, (1 - self.tie_rate) / 2, self.tie_rate]
        logs = [math.log(share) if share else -math.inf for share in odds]
        for vote in votes:
            logs[_ANSWER[vote.choice]] += self.annotators.get(vote.annotator, self.everybody).evidence(
                vote.choice
            )
        unscaled = [math.exp(value - max(logs)) for value in logs]
        first, second, tied = (value / sum(unscaled) for value in unscaled)
        return first, second, tied

    def describe(self) -> list[str]:
        """What was found, for a report."""
        found = [annotator.competence for annotator in self.annotators.values()] or [
            self.everybody.competence
        ]
        lines = [
            f"{len(self.annotators)} annotators estimated to judge and not guess {self.scale:.0%} of their votes, "
            f"the least reliable {min(found):.0%}, the most {max(found):.0%}"
        ]
        if not self.converged:
            lines.append(f"that estimate has not settled after {self.iterations} iterations")
        return lines


def estimate_reliability(
    votes: Sequence[Sequence[Vote]],
    smoothing: float = SMOOTHING,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Reliability:
    """Everybody's competence, by expectation maximisation.

    With probability θ an annotator gives the right answer k, else a guess: P(l | k) = θ·[l = k] + (1 − θ)·g(l).
    E: q(k) ∝ π(k) ∏ P(vote | k). M: with j = q(l)·θ/(θ + (1 − θ)·g(l) ) for the chance that a vote was judged,
    θ = (Σ j + s·m)/(n + s) with m the mean of j, and g(tie) from the guesses 1 − j likewise. Starts from the shares
    of votes and θ = 1/2. Votes without a name are by as many unknown people, who are like everybody.

    That is MACE with guesses symmetric in the two sides, which are arbitrary; without ties it is Dawid and Skene's
    model with one rate of errors a person, (1 − θ)/2. π is not estimated but the share of each answer among the
    votes, the two sides alike: estimated, it calls nearly every tie an error where people disagree about ties.

    Args:
        votes: One list a row.
        smoothing: s, votes like everybody's that each annotator is given beforehand.
        tolerance: It has converged where no posterior changed by more than this.
        max_iterations: When to stop though it has not.

    Raises:
        ValueError: no row has two votes: nobody can be held against anybody.

    Source:
        Dawid and Skene 1979, Appl. Statist. 28, eq. 2.3-2.5; Hovy et al. 2013, "Learning Whom to Trust with MACE".
    """
    if not any(len(given) > 1 for given in votes):
        raise ValueError("expected two or more votes on a row somewhere, found none")
    names = sorted({vote.annotator for given in votes for vote in given if vote.annotator})
    place = {name: number for number, name in enumerate(names)}
    row = torch.tensor([number for number, given in enumerate(votes) for _ in given])
    person = torch.tensor([place.get(vote.annotator, len(names)) for given in votes for vote in given])
    answer = torch.tensor([_ANSWER[vote.choice] for given in votes for vote in given])
    tied = (answer == 2).double()
    tie_rate = (tied.sum().item() + 1) / (len(answer) + 3) if tied.any() else 0.0
    prior = torch.tensor([(1 - tie_rate) / 2, (1 - tie_rate) / 2, tie_rate]).double().log()

    def by_person(values: Tensor) -> Tensor:
        """Sums over the votes of each, and in the last place, which unnamed votes share, over all votes."""
        sums = torch.zeros(len(names) + 1).double().index_add_(0, person, values)
        sums[-1] = values.sum()
        return sums

    counts = by_person(torch.ones(len(answer)).double())
    competence = torch.full((len(names) + 1,), 0.5).double()
    guessed_ties = torch.full((len(names) + 1,), tie_rate).double()
    posteriors = _add_up(torch.ones(len(answer)).double(), row, answer, len(votes))
    posteriors /= posteriors.sum(1, keepdim=True).clamp(min=1)
    change, iterations = math.inf, 0
    while change > tolerance and iterations < max_iterations:
        guess = torch.where(tied.bool(), guessed_ties[person], (1 - guessed_ties[person]) / 2)
        theta = competence[person]
        judged = by_person(judging := posteriors[row, answer] * theta / (theta + (1 - theta) * guess))
        mean = (judged[-1] + 1) / (counts[-1] + 2)
        competence = (judged + smoothing * mean) / (counts + smoothing)
        competence[-1] = mean
        if tie_rate:
            guesses, ties = by_person(1 - judging), by_person((1 - judging) * tied)
            mean = (ties[-1] + 1) / (guesses[-1] + 3)
            guessed_ties = (ties + smoothing * mean) / (guesses + smoothing)
            guessed_ties[-1] = mean
        guess = torch.where(tied.bool(), guessed_ties[person], (1 - guessed_ties[person]) / 2)
        evidence = (competence[person] / ((1 - competence[person]) * guess)).log1p()
        updated = (prior + _add_up(evidence, row, answer, len(votes))).softmax(1)
        change = (updated - posteriors).abs().max().item()
        posteriors, iterations = updated, iterations + 1

    *people, everybody = map(Annotator, competence.tolist(), guessed_ties.tolist())
    return Reliability(
        dict(zip(names, people, strict=True)),
        everybody,
        tie_rate,
        iterations,
        change <= tolerance,
        scale=competence[person].mean().item(),
    )


def _add_up(values: Tensor, row: Tensor, answer: Tensor, rows: int) -> Tensor:
    """Sums of the votes' values by row and answer, ``[rows, 3]``."""
    return torch.zeros(rows * 3).double().index_add_(0, row * 3 + answer, values).view(rows, 3)

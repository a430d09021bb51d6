"""What a reward model has to beat: the longer answer, and a bag of words.

Both say by how much they prefer the better response, as a number whose sign counts: 0 where they say neither.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation that is tried; the development comparisons decide."""
FEWEST_ANSWERS = 2
"""Words that fewer training answers hold are left out."""
_WORD = re.compile(r"\w+|[^\w\s]")
_MOST_STEPS = 500


class TextComparison(NamedTuple):
    """Two responses as text."""

    better: str
    worse: str
    target: float = 1.0
    """Probability that `better` is better."""


def longer_wins(comparisons: Sequence[TextComparison]) -> Tensor:
    """Characters of the better response minus those of the worse, ``[C]``.

    Example:
        >>> longer_wins([TextComparison("abc", "a"), TextComparison("a", "b")])
        tensor([2., 0.], dtype=torch.float64)
    """
    return torch.tensor([len(pair.better) - len(pair.worse) for pair in comparisons], dtype=torch.float64)


def bag_of_words(
    training: Sequence[TextComparison],
    development: Sequence[TextComparison],
    held_out: Sequence[TextComparison],
) -> Tensor:
    """A Bradley-Terry model whose score is linear in log(1 + count) of the words and pairs of neighbouring words.

    Minimises Σ CE(target, σ(w·d)) + ‖w‖²/2C over the training comparisons, with d the difference of the two
    responses' features: a logistic regression without intercept. The C is one of `STRENGTHS`, the smallest of those
    that are right most often on the development comparisons. Case does not count; a sign is a word.

    Args:
        training: comparisons to fit.
        development: comparisons that choose C. Not the ones that are judged: the baseline would have seen them.
        held_out: comparisons to judge.

    Returns:
        w·d of each held-out comparison, its log-odds that `better` is better. Float64 ``[C]``.

    Raises:
        ValueError: no training comparison, or no strict development comparison.
    """
    strict = [pair for pair in development if pair.target != 0.5]
    if not training or not strict:
        raise ValueError(
            "bag of words: expected training comparisons and development comparisons that are no ties, "
            f"found {len(training)} and {len(strict)}"
        )
    counted = [_differences(pairs) for pairs in (training, strict, held_out)]
    answers = Counter(word for pair in training for side in pair[:2] for word in dict.fromkeys(_words(side)))
    vocabulary = {
        word: place for place, word in enumerate(w for w, n in answers.items() if n >= FEWEST_ANSWERS)
    }
    if not vocabulary:
        return torch.zeros(len(held_out), dtype=torch.float64)
    features, development_features, held_out_features = (_features(rows, vocabulary) for rows in counted)
    target = torch.tensor([pair.target for pair in training], dtype=torch.float64)
    prefers_first = torch.tensor([pair.target for pair in strict], dtype=torch.float64) > 0.5
    weights = torch.zeros(len(vocabulary), dtype=torch.float64)
    best_right, best = -1.0, weights
    for strength in STRENGTHS:
        # from the last strength's solution, which is not far
        weights = _fit(features, target, strength, weights)
        margins = development_features.times(weights)
        # one that knows none of the words says 0 at every strength, which favours none of them
        right = ((margins > 0) == prefers_first).sum().item()
        if right > best_right:
            best_right, best = right, weights
    return held_out_features.times(best)


def _words(text: str) -> list[str]:
    """Words and pairs of neighbours, as they come."""
    words = _WORD.findall(text.lower())
    return words + [f"{one} {other}" for one, other in pairwise(words)]


def _differences(pairs: Sequence[TextComparison]) -> list[dict[str, float]]:
    """log(1 + count) of each word in `better` minus that in `worse`; words that cancel are left out."""
    found = []
    for pair in pairs:
        better, worse = Counter(_words(pair.better)), Counter(_words(pair.worse))
        counts = {word: (better[word], worse[word]) for word in better | worse}
        found.append({word: math.log1p(b) - math.log1p(w) for word, (b, w) in counts.items() if b != w})
    return found


class _Features(NamedTuple):
    """A sparse matrix ``[rows, words]`` by its entries; torch's own products with one are slow, or not everywhere."""

    row: Tensor
    word: Tensor
    value: Tensor
    rows: int
    words: int

    def times(self, weights: Tensor) -> Tensor:
        """``[words]`` to ``[rows]``."""
        products = weights.index_select(0, self.word) * self.value
        return products.new_zeros(self.rows).index_add_(0, self.row, products)

    def transposed_times(self, of_rows: Tensor) -> Tensor:
        """``[rows]`` to ``[words]``."""
        products = of_rows.index_select(0, self.row) * self.value
        return products.new_zeros(self.words).index_add_(0, self.word, products)


def _features(differences: Sequence[dict[str, float]], vocabulary: dict[str, int]) -> _Features:
    rows: list[int] = []
    words: list[int] = []
    values: list[float] = []
    for place, row in enumerate(differences):
        known = [word for word in row if word in vocabulary]
        rows += [place] * len(known)
        words += [vocabulary[word] for word in known]
        values += [row[word] for word in known]
    return _Features(
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(words, dtype=torch.long),
        torch.tensor(values, dtype=torch.float64),
        len(differences),
        len(vocabulary),
    )


def _fit(features: _Features, target: Tensor, strength: float, start: Tensor) -> Tensor:
    """The minimum, by L-BFGS from `start`; the gradient is written out."""
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_MOST_STEPS,
        tolerance_grad=1e-4,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss() -> Tensor:
        logits = features.times(weights)
        weights.grad = features.transposed_times(logits.sigmoid() - target) + weights / strength
        cross_entropy = binary_cross_entropy_with_logits(logits, target, reduction="sum")
        return cross_entropy + weights.square().sum() / (2 * strength)

    optimizer.step(loss)
    return weights.detach()

"""What a reward model has to beat: the longer answer, and a bag of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Pair = Mapping[str, Any]

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation that is tried; the development pairs decide."""


def longer_wins(pairs: Sequence[Pair]) -> list[float]:
    """1 where the chosen answer has more characters than the rejected, ½ where as many, 0 where fewer.

    Example:
        >>> longer_wins([{"chosen": "abc", "rejected": "a"}, {"chosen": "a", "rejected": "b"}])
        [1.0, 0.5]
    """
    return [_ahead(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs]


def bag_of_words(
    training: Sequence[Pair], development: Sequence[Pair], held_out: Sequence[Pair]
) -> list[float]:
    """The same of a logistic regression on the difference of the two answers' word counts (1 and 2 words).

    A pair is seen both ways round and the regression has no intercept, so it is a Bradley-Terry model whose score is
    linear in log(1 + count). Words that fewer than two training answers hold are left out.

    Args:
        training: pairs to fit.
        development: pairs that choose the regularisation among `STRENGTHS`; the smallest of equally good ones.
        held_out: pairs to judge.
    """
    import numpy
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=r"\b\w+\b|[^\w\s]")
    words.fit([pair[side] for pair in training for side in ("chosen", "rejected")])

    def differences(pairs: Sequence[Pair]) -> Any:
        chosen, rejected = (
            words.transform([pair[side] for pair in pairs]) for side in ("chosen", "rejected")
        )
        return chosen.astype(float).log1p() - rejected.astype(float).log1p()

    half = len(training) // 2
    signs = numpy.array([1.0] * half + [-1.0] * (len(training) - half))
    # A pair the other way round has the negated features and label, hence the same loss: either way will do.
    oriented = differences(training).multiply(signs[:, None]).tocsr()
    best: tuple[float, Any] = (-1.0, None)
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=strength, fit_intercept=False, max_iter=2000).fit(oriented, signs > 0)
        accuracy = sum(_ahead(margin, 0.0) for margin in fitted.decision_function(differences(development)))
        if accuracy > best[0]:
            best = (accuracy, fitted)
    return [_ahead(margin, 0.0) for margin in best[1].decision_function(differences(held_out))]


def _ahead(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)

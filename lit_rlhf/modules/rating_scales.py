"""Ratings on one scale: everybody's own offset and spread taken off."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lit_rlhf.records import ResponseTrees, Tree

Scale = tuple[float, float]
"""Mean and population standard deviation, in the annotator's own units."""

EVERYBODY = ""
"""Under which the scale of all ratings together is kept: for annotators not seen in training, or not named."""


def annotator_scales(trees: Iterable[Tree]) -> dict[str, Scale]:
    """Each annotator's scale, from all their ratings; of fewer than two different ratings the spread is 1.

    Raises:
        ValueError: there is no rating at all.

    Example:
        >>> strict = Tree([1], [[2], [3]], ratings=[1.0, 3.0], annotator="ann")
        >>> annotator_scales([strict])["ann"]
        (2.0, 1.0)
    """
    given: dict[str, list[float]] = {}
    for tree in trees:
        ratings = [rating for rating in tree.ratings or [] if rating is not None]
        for name in {EVERYBODY, tree.annotator or EVERYBODY}:
            given.setdefault(name, []).extend(ratings)
    if not given.get(EVERYBODY):
        raise ValueError(
            "model.loss: ratings needs ratings, and the training data holds none. Give `scores` in a ranking file, or "
            "use loss: pairs."
        )
    return {name: _scale(ratings) for name, ratings in given.items() if ratings}


def rescaled_ratings(batch: ResponseTrees, scales: dict[str, Scale]) -> Tensor:
    """(rating − mean) / deviation of each response's annotator, ``[N]``, NaN where not rated."""
    of_tree = [scales.get(name or EVERYBODY, scales[EVERYBODY]) for name in batch.annotators]
    mean, deviation = torch.tensor(of_tree, device=batch.ratings.device)[batch.tree_index].unbind(1)
    return (batch.ratings - mean) / deviation


def _scale(ratings: list[float]) -> Scale:
    mean = math.fsum(ratings) / len(ratings)
    deviation = math.sqrt(math.fsum((rating - mean) ** 2 for rating in ratings) / len(ratings))
    return mean, deviation or 1.0

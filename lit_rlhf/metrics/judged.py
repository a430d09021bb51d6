"""Every judged comparison and response of an evaluation, from all ranks, beside what the model says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_rlhf.ops.shapes import check_same_shape
from lit_rlhf.records import ResponseTrees


@dataclass
class Judged:
    """What people said and what a model says, CPU tensors of one dimension, comparisons and responses of all ranks.

    C comparisons in all, N responses in all; in the order of the rows.
    """

    row: Tensor
    """Long ``[C]``: the comparison's row, its place in the data set."""
    better: Tensor
    """Long ``[C]``: the preferred response, its place in the row."""
    worse: Tensor
    """Long ``[C]``."""
    better_scores: Tensor
    """Float ``[C]``."""
    worse_scores: Tensor
    """Float ``[C]``."""
    probability: Tensor
    """Float ``[C]``: what the model thinks the probability is that `better` is better."""
    target: Tensor
    """Float ``[C]``: what people made of it; see :class:`~lit_rlhf.records.Comparison`."""
    tie: Tensor
    """Float ``[C]``: share of the judgements that were ties, half of it in `target`."""
    better_lengths: Tensor
    """Long ``[C]``, in response tokens."""
    worse_lengths: Tensor
    """Long ``[C]``, in response tokens."""
    response_row: Tensor
    """Long ``[N]``: the response's row, its place in the data set."""
    response: Tensor
    """Long ``[N]``: the response's place in its row."""
    scores: Tensor
    """Float ``[N]``."""
    ranks: Tensor
    """Float ``[N]``: 1 = best, NaN = not judged."""
    lengths: Tensor
    """Long ``[N]``, in tokens."""
    disagreement: Tensor
    """Float ``[N]``: standard deviation of the score over the model's components, 0 where it has one."""


OF_RESPONSES = ("response_row", "response", "scores", "ranks", "lengths", "disagreement")
"""Fields of :class:`Judged` that have an entry a response; the others have one a comparison."""


class JudgedComparisons(Metric):
    """Collects a :class:`Judged` over batches and ranks."""

    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for field in fields(Judged):
            self.add_state(field.name, [], dist_reduce_fx="cat")

    def update(self, batch: ResponseTrees, scores: Tensor, probability: Tensor, disagreement: Tensor) -> None:
        """Adds a batch.

        Args:
            batch: what was judged.
            scores: Shape ``[N]``.
            probability: that `better` is better, in each comparison. Shape ``[C]``.
            disagreement: standard deviation of each score over the components. Shape ``[N]``.

        Raises:
            ValueError: the shapes differ from the batch's.
        """
        check_same_shape(ranks=batch.ranks, scores=scores, disagreement=disagreement)
        check_same_shape(target=batch.target, probability=probability)
        lengths = torch.tensor(batch.response_lengths, device=batch.tree_index.device)
        response_row = batch.row_indices[batch.tree_index]
        # responses stand tree by tree, so that a tree's first one is as far along as there are responses before it
        counts = torch.bincount(batch.tree_index, minlength=batch.num_trees)
        response = (
            torch.arange(len(lengths), device=lengths.device) - (counts.cumsum(0) - counts)[batch.tree_index]
        )
        found = {
            "row": response_row[batch.better],
            "better": response[batch.better],
            "worse": response[batch.worse],
            "better_scores": scores[batch.better],
            "worse_scores": scores[batch.worse],
            "probability": probability,
            "target": batch.target,
            "tie": batch.tie,
            "better_lengths": lengths[batch.better],
            "worse_lengths": lengths[batch.worse],
            "response_row": response_row,
            "response": response,
            "scores": scores,
            "ranks": batch.ranks,
            "lengths": lengths,
            "disagreement": disagreement,
        }
        for name, tensor in found.items():
            # one dtype on every rank, whatever precision the model ran in
            getattr(self, name).append(tensor.detach().float() if tensor.is_floating_point() else tensor)

    def compute(self) -> Judged:
        """Everything that was added, on all ranks, in the order of the rows, whichever rank had them."""
        found = {field.name: dim_zero_cat(getattr(self, field.name)).cpu() for field in fields(Judged)}
        comparisons, responses = (
            found[key].reshape(-1).argsort(stable=True) for key in ("row", "response_row")
        )
        return Judged(**{n: v[responses if n in OF_RESPONSES else comparisons] for n, v in found.items()})

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """torchmetrics makes scalars of tensors with one element, which a single comparison is not."""
        wrapped = super()._wrap_compute(compute)

        def compute_vectors() -> Judged:
            judged = wrapped()
            return Judged(**{field.name: getattr(judged, field.name).reshape(-1) for field in fields(Judged)})

        return compute_vectors

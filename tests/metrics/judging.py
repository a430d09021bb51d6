"""A data set of judgements, its batches, and what a model says of it."""

import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.metrics import Judged
from lit_rlhf.records import Comparison, ResponseTrees, Tree


def plant(lengths: list[int], comparisons: list[Comparison], ranks: list[float | None] | None = None) -> Tree:
    """A tree whose responses have these lengths."""
    ids = [[5] * length for length in lengths]
    return Tree([1, 2], ids, [[True] * length for length in lengths], comparisons, ranks, id="tree")


def pack(trees: list[Tree], rows: list[int]) -> ResponseTrees:
    return pack_trees(trees, rows)


def judge_pairs(
    better_scores: list[float],
    worse_scores: list[float],
    target: list[float] | None = None,
    better_lengths: list[int] | None = None,
    worse_lengths: list[int] | None = None,
) -> Judged:
    """Pairs, one a row, the first response the better one; P(better) = σ(difference)."""
    count = len(better_scores)
    better, worse = torch.tensor(better_scores), torch.tensor(worse_scores)
    targets = torch.ones(count) if target is None else torch.tensor(target)
    lengths = [torch.tensor(given or [1] * count) for given in (better_lengths, worse_lengths)]
    rows, zeros = torch.arange(count), torch.zeros(count)
    return Judged(
        row=rows,
        better=torch.zeros(count).long(),
        worse=torch.ones(count).long(),
        better_scores=better,
        worse_scores=worse,
        probability=(better - worse).sigmoid(),
        target=targets,
        tie=zeros,
        better_lengths=lengths[0],
        worse_lengths=lengths[1],
        response_row=rows.repeat(2),
        response=torch.cat([torch.zeros(count), torch.ones(count)]).long(),
        scores=torch.cat([better, worse]),
        ranks=torch.full((2 * count,), torch.nan),
        lengths=torch.cat(lengths),
        disagreement=torch.zeros(2 * count),
    )

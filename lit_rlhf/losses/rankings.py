"""Rankings: what the order of a prompt's responses says of their scores, ties and gaps included.

A *block* is what shares one rank within one prompt: a single response, or some that were tied. Responses
that nobody judged are in no block. Written with w = e^r, the Luce strengths of the scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape

Ties = Literal["half", "drop"]

MAX_TIED = 12
"""Responses in one block, at most: the sums run over its subsets, 2¹² of them."""


def plackett_luce_loss(scores: Tensor, ranks: Tensor, tree_index: Tensor, ties: Ties) -> Tensor:
    """Negative log-likelihood of each prompt's ranking, drawn from the best down without replacement.

    -Σ_k [r_k - log Σ_{j≥k} e^{r_j}], over the judged responses from the best to the worst.

    Without ties as in the source. For tied responses T with the rest R ranked below them:

    - ``half``: the mean of the loss over all their orders, Σ_{S⊆T} log(w(R) + w(S)) / C(b, c) - Σ_{i∈T} r_i, with
      b and c the sizes of T and S.
      A tie pulls the scores together; two tied responses alone give the Bradley-Terry loss at p = 1/2.
    - ``drop``: minus the logarithm of the summed probability of all their orders: that T comes before R,
      and nothing on the order inside. By F(S) = Σ_{i∈S} F(S∖i)·e^{r_i} / (w(R) + w(S)), F(∅) = 1.
      A prompt whose responses are all tied says nothing.

    Both are exact, by sums over the subsets of a block instead of its orders. Two responses give
    :func:`~lit_rlhf.losses.reward.bradley_terry_loss`; K give a loss of up to log K!, so a prompt with many
    responses weighs more than one with few.

    Args:
        scores: r(x, y). Shape ``[N]``.
        ranks: 1 = best, equal = tie, NaN = not judged; only their order counts. Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.
        ties: ``half`` or ``drop``.

    Returns:
        Losses in nats, unreduced, ``[B]``, with B the largest index and one; 0 and no gradient for a prompt
        with fewer than two judged responses. Gradient flows to `scores`.

    Raises:
        ValueError: the shapes differ, or more than 12 responses of a prompt share a rank (with ``drop`` the
            last ones of a prompt may, since nothing is below them).

    Source:
        Plackett 1975, "The Analysis of Permutations", Applied Statistics 24; as a loss: Xia et al. 2008,
        "Listwise Approach to Learning to Rank", section 4.3 (ListMLE). ``drop`` is the marginal likelihood of
        Kalbfleisch and Prentice 1973, Biometrika 60, for tied failure times.

    Example:
        >>> scores = torch.tensor([3.0, 2.0, 1.0]).log()
        >>> tree = torch.zeros(3, dtype=torch.long)
        >>> ranks = torch.tensor([1.0, 2.0, 3.0])
        >>> plackett_luce_loss(scores, ranks, tree, ties="half").neg().exp()  # 3/6 · 2/3
        tensor([0.3333])
        >>> ranks = torch.tensor([2.0, 1.0, 1.0])
        >>> plackett_luce_loss(scores, ranks, tree, ties="drop").neg().exp()  # 2/6 · 1/4 + 1/6 · 2/5
        tensor([0.1500])
    """
    blocks = _blocks(scores, ranks, tree_index)
    losses = _no_losses(scores, tree_index)
    # Tied last, and their order not asked for: certain.
    counted = torch.ones_like(blocks.has_below) if ties == "half" else blocks.has_below
    for tied, below, tree in blocks.by_size(counted):
        if tied.shape[1] > MAX_TIED:
            raise ValueError(
                f"expected at most {MAX_TIED} responses of a prompt with one rank, found {tied.shape[1]}; "
                "take the loss over pairs, or of the best"
            )
        block_losses = _mean_over_orders(tied, below) if ties == "half" else _any_order(tied, below)
        losses = losses.index_add(0, tree, block_losses)
    return losses


def best_of_k_loss(scores: Tensor, ranks: Tensor, tree_index: Tensor, ties: Ties) -> Tensor:
    """Cross-entropy of the best response among the judged ones of each prompt.

    log Σ_j e^{r_j} - r_best.

    As in the source. Where several are best: ``half`` takes the mean of their losses, which pulls their
    scores together; ``drop`` minus the logarithm of their summed probability, which asks only that one of them
    comes first. That is a likelihood where a tie means "one of these, which is not said"; where all of them
    were better than the rest it lets the scores grow too large, and Plackett-Luce fits.

    Args:
        scores: r(x, y). Shape ``[N]``.
        ranks: 1 = best, equal = tie, NaN = not judged; only which is lowest counts. Shape ``[N]``.
        tree_index: the prompt of each response, in any order. Long ``[N]``.
        ties: ``half`` or ``drop``.

    Returns:
        Losses in nats, unreduced, ``[B]``, with B the largest index and one; 0 and no gradient for a prompt
        with fewer than two judged responses. Gradient flows to `scores`.

    Raises:
        ValueError: the shapes differ.

    Source:
        Ziegler et al. 2019, arXiv 1909.08593, eq. 1.

    Example:
        >>> scores = torch.tensor([3.0, 2.0, 1.0]).log()
        >>> tree = torch.zeros(3, dtype=torch.long)
        >>> best_of_k_loss(scores, torch.tensor([2.0, 1.0, 3.0]), tree, ties="half").neg().exp()  # 2/6
        tensor([0.3333])
        >>> best_of_k_loss(scores, torch.tensor([1.0, 1.0, 3.0]), tree, ties="drop").neg().exp()  # 5/6
        tensor([0.8333])
    """
    blocks = _blocks(scores, ranks, tree_index)
    losses = _no_losses(scores, tree_index)
    for tied, below, tree in blocks.by_size(blocks.is_best):
        best = tied.logsumexp(dim=1)
        everything = torch.logaddexp(best, below)
        losses = losses.index_add(0, tree, everything - (tied.mean(dim=1) if ties == "half" else best))
    return losses


@dataclass
class _Blocks:
    """The M blocks of a batch, with n judged responses; both by prompt, and there from the best down."""

    scores: Tensor
    """``[n]``."""
    block: Tensor
    """Long ``[n]``: the block of each response."""
    size: Tensor
    """Long ``[M]``."""
    tree: Tensor
    """Long ``[M]``: the prompt."""
    below: Tensor
    """log w(R), of what is ranked below the block in its prompt; -inf where nothing is. ``[M]``."""
    has_below: Tensor
    """Bool ``[M]``."""
    is_best: Tensor
    """Bool ``[M]``: the first of its prompt."""

    def by_size(self, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of the chosen blocks those of one size b at a time: scores ``[m, b]``, `below` and `tree` ``[m]``."""
        for size in self.size[chosen].unique().tolist():
            alike = chosen & (self.size == size)
            yield self.scores[alike[self.block]].view(-1, size), self.below[alike], self.tree[alike]


def _blocks(scores: Tensor, ranks: Tensor, tree_index: Tensor) -> _Blocks:
    check_same_shape(scores=scores, ranks=ranks, tree_index=tree_index)
    judged = ~ranks.isnan()
    scores, ranks, tree_index = scores[judged], ranks[judged], tree_index[judged]
    keys, block, size = torch.stack([tree_index.double(), ranks.double()], dim=1).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    block, order = block.sort()
    scores, tree = scores[order], keys[:, 0].long()
    counts = tree_index.bincount()
    prompt_end = counts.cumsum(0)[tree]
    end = size.cumsum(0)
    has_below = end < prompt_end
    # Blocks with nothing below stay out of the logsumexp, whose gradient they would make NaN.
    most = max(counts.tolist(), default=1)
    lower = end[has_below, None] + torch.arange(most, device=scores.device)
    outside = lower >= prompt_end[has_below, None]
    log_sums = scores[lower.masked_fill(outside, 0)].masked_fill(outside, -torch.inf).logsumexp(dim=1)
    below = scores.new_full((len(keys),), -torch.inf).masked_scatter(has_below, log_sums)
    return _Blocks(scores, block, size, tree, below, has_below, end - size == prompt_end - counts[tree])


def _no_losses(scores: Tensor, tree_index: Tensor) -> Tensor:
    """Zeros ``[B]``, in the graph of the scores also where nothing was judged."""
    num_trees = int(tree_index.max()) + 1 if len(tree_index) else 0
    return scores[:0].sum().repeat(num_trees)


def _mean_over_orders(tied: Tensor, below: Tensor) -> Tensor:
    """Mean loss of tied blocks ``[M, b]`` over the orders of their responses, above log w(R) ``[M]``."""
    # What is left to draw from, when c of the b are, is each subset of c with the same probability.
    size = tied.shape[1]
    losses = -tied.sum(dim=1)
    for c in range(1, size + 1):
        subsets = torch.tensor(list(combinations(range(size), c)), device=tied.device)
        losses = losses + _log_total(tied[:, subsets], below).mean(dim=1)
    return losses


def _any_order(tied: Tensor, below: Tensor) -> Tensor:
    """Minus log of the probability that tied blocks ``[M, b]`` come first, in whatever order."""
    size = tied.shape[1]
    logprob = tied.new_zeros(len(tied), 1)  # log F(S) of the subsets of c, here the empty one
    position: dict[tuple[int, ...], int] = {(): 0}
    for c in range(1, size + 1):
        subsets = list(combinations(range(size), c))
        without = [[position[(*s[:i], *s[i + 1 :])] for i in range(c)] for s in subsets]
        position = {subset: index for index, subset in enumerate(subsets)}
        drawn = tied[:, torch.tensor(subsets, device=tied.device)]
        rest = logprob[:, torch.tensor(without, device=tied.device)]
        logprob = (drawn + rest).logsumexp(dim=-1) - _log_total(drawn, below)
    return -logprob[:, 0]


def _log_total(drawn: Tensor, below: Tensor) -> Tensor:
    """log(w(S) + w(R)) of subsets ``[M, S, c]`` over what is below ``[M]``. Shape ``[M, S]``."""
    return torch.logaddexp(drawn.logsumexp(dim=-1), below[:, None])

"""The contrastive term of a reward model: responses, or differences of two, told apart without labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize

from lit_rlhf.losses.contrastive import contrastive_views, simcse_loss, swav_loss
from lit_rlhf.records import ResponseTrees


@dataclass
class Contrastive:
    """An unsupervised loss on the states that the head reads (Wang et al. 2024, arXiv 2401.06080, section 3.1).

    The defaults are what did no harm in ``benchmarks/results/reward_studies.md``; negatives and clusters are those of
    one micro-batch.
    """

    method: Literal["simcse", "swav"] = "swav"
    """``simcse`` pulls two views of one input together and pushes those of others apart; ``swav`` asks each view for
    the cluster of the other."""
    on: Literal["responses", "differences"] = "responses"
    """Features: the states of the responses, or the differences of the two states of each comparison, both ways
    round, which is what the score difference is a function of."""
    weight: float = 0.05
    """Of the term beside the preference loss. The paper takes 1 (SimCSE), 0.1 (SwAV), 0.5 (SwAV on differences)."""
    temperature: float = 0.1
    """Of the softmax. The paper does not say; SwAV takes 0.1, SimCSE 0.05, and 0.2 did less harm here."""
    dropout: float = 0.05
    """Makes the two views, on the states, of a model that has no dropout of its own; one that has is run twice."""
    prototypes: int = 50
    """Clusters of ``swav``: the paper takes 50, and 20 on differences."""
    projection: int | None = None
    """Width of a projection that the term sees the features through; null = the features as they are."""

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("method", self.method in ("simcse", "swav"), "simcse or swav"),
            ("on", self.on in ("responses", "differences"), "responses or differences"),
            ("weight", self.weight > 0, "more than 0"),
            ("temperature", self.temperature > 0, "more than 0"),
            ("dropout", 0 < self.dropout < 1, "between 0 and 1"),
            ("prototypes", self.prototypes >= 2, "2 or more"),
            ("projection", self.projection is None or self.projection >= 1, "1 or more, or null"),
        ):
            if not fits:
                raise ValueError(
                    f"model.contrastive.{name}: expected {expected}, found {getattr(self, name)}."
                )

    def plain(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)


class ContrastiveTerm(nn.Module):
    """The loss of two views of a batch, and what it learns beside the network.

    Args:
        settings: see :class:`Contrastive`.
        width: D, of the states.
    """

    def __init__(self, settings: Contrastive, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.projection = nn.Linear(width, settings.projection) if settings.projection else nn.Identity()
        seen = settings.projection or width
        self.prototypes = (
            nn.Parameter(normalize(torch.randn(settings.prototypes, seen)))
            if settings.method == "swav"
            else None
        )

    def views(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of the states ``[N, D]`` by dropout."""
        rate = self.settings.dropout
        return dropout(states, rate), dropout(states, rate)

    def forward(self, first: Tensor, second: Tensor, batch: ResponseTrees) -> Tensor:
        """The term, its weight included, a scalar: a mean over the features of this batch.

        Args:
            first: one view of the responses' states, ``[N, D]``.
            second: the other.
            batch: whose responses they are.
        """
        texts = _text_numbers(batch)
        if self.settings.on == "differences":
            first, second = (
                contrastive_views(view[batch.better], view[batch.worse], "differences")
                for view in (first, second)
            )
            better, worse, count = texts[batch.better], texts[batch.worse], len(texts)
            texts = torch.cat([better * count + worse, worse * count + better])
        if not len(first):  # no comparison; the learned parts stay in the graph
            return sum((parameter.sum() for parameter in self.parameters()), first.sum()) * 0
        # similarities are what is learned: no autocast here
        with torch.autocast(first.device.type, enabled=False):
            return self.settings.weight * self._losses(first.float(), second.float(), texts).mean()

    def _losses(self, first: Tensor, second: Tensor, texts: Tensor) -> Tensor:
        """Of each feature ``[M]``; features of equal `texts` are no negatives of one another."""
        first, second = self.projection(first), self.projection(second)
        if self.prototypes is None:
            return simcse_loss(first, second, self.settings.temperature, texts[:, None] == texts[None, :])
        return swav_loss(first, second, normalize(self.prototypes, dim=-1), self.settings.temperature)


def _text_numbers(batch: ResponseTrees) -> Tensor:
    """Long ``[N]``: the same number for the same text in answer to the same prompt."""
    segments = [tuple(ids.tolist()) for ids in batch.input_ids.cpu().split(batch.segment_lengths)]
    trees = batch.tree_index.tolist()
    prompt_places = [trees.index(tree) + tree for tree in trees]  # prompt, its responses, prompt, ...
    texts = [(segments[p], segments[n + t + 1]) for n, (t, p) in enumerate(zip(trees, prompt_places))]
    names: dict[Any, int] = {}
    numbers = [names.setdefault(text, len(names)) for text in texts]
    return torch.tensor(numbers, device=batch.input_ids.device)

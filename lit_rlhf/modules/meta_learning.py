"""MetaRM: before each update, a look ahead to where the policy's own samples are told apart better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_rlhf.data.files import read_rows
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.losses.meta import difference_loss
from lit_rlhf.ops.noise import counted_uniform, counter_key
from lit_rlhf.records import ResponseTrees, Tree


@dataclass
class MetaLearning:
    """Shifted optimisation on unlabelled samples of the policy (Wang et al. 2024, arXiv 2401.06080, algorithm 1)."""

    samples: str | list[dict[str, Any]]
    """Candidates file: ``prompt`` and ``responses``, two or more, drawn from the policy; no judgement is needed."""
    step: float = 1e-3
    """η: how far the weights are moved along ∇J for the gradient of the preference loss to be taken there."""
    batch_size: int = 8
    """Prompts of the samples, on each rank, that J is taken over in a step."""

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("samples", bool(self.samples), "a file of candidates"),
            ("step", self.step > 0, "more than 0"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
        ):
            if not fits:
                raise ValueError(f"model.meta.{name}: expected {expected}, found {getattr(self, name)!r}.")

    def plain(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)


class LookAhead:
    """θ' = θ + η∇J(θ) for the time of one forward and backward; then θ is put back, to the bit.

    J is the mean over prompts of 2/k² Σ_{i<j} σ(|r_i − r_j|): it rises as the scores of one prompt's samples
    spread. The optimizer applies ∇L(θ') to θ; no second derivative is taken.

    Args:
        settings: see :class:`MetaLearning`.
        score: raw scores of a batch, ``[N, C]``.
        reduce: the mean of a tensor over the ranks.
    """

    def __init__(
        self,
        settings: MetaLearning,
        score: Callable[[ResponseTrees], Tensor],
        reduce: Callable[[Tensor], Tensor],
    ) -> None:
        self.settings = settings
        self.score = score
        self.reduce = reduce
        self.trees: list[Tree] = []
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def read(
        self, encoder: TextEncoder, max_prompt_tokens: int | None, max_response_tokens: int | None
    ) -> None:
        """Read the samples, cut as the training data is.

        Raises:
            ValueError: a row has fewer than two responses, so nothing of it could differ.
        """
        self.trees = []
        for row in read_rows(self.settings.samples, "candidates").rows:
            if len(row.responses) < 2:
                raise ValueError(
                    f"{row.place}: expected two or more `responses` for model.meta.samples, found {len(row.responses)}"
                )
            self.trees += plant_tree(row, encoder, max_prompt_tokens, max_response_tokens)[0]

    def move(self, parameters: list[nn.Parameter], *counters: int, device: torch.device) -> Tensor:
        """Move the weights and return J, detached; `counters` decide which samples are looked at."""
        batch = self._batch(*counters).to(device)
        scores = self.score(batch)
        per_head = [difference_loss(column, batch.tree_index).mean() for column in scores.unbind(1)]
        difference = torch.stack(per_head).mean()
        gradients = torch.autograd.grad(difference, parameters, allow_unused=True)
        self._held = [
            (p, p.detach().clone()) for p, g in zip(parameters, gradients, strict=True) if g is not None
        ]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.add_(self.reduce(gradient), alpha=self.settings.step)
        return difference.detach()

    @torch.no_grad()
    def put_back(self) -> None:
        """The weights as they were before :meth:`move`; nothing where they have not been moved."""
        for parameter, before in self._held:
            parameter.copy_(before)
        self._held = []

    def _batch(self, *counters: int) -> ResponseTrees:
        count = min(self.settings.batch_size, len(self.trees))
        order = counted_uniform(counter_key(*counters, torch.arange(len(self.trees))), 0).argsort()
        return pack_trees([self.trees[place] for place in order[:count].tolist()])

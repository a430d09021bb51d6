"""The scorer: a decoder's trunk with a scalar head. Reward models and critics are scorers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.loading import (
    is_scorer_folder,
    load_causal_lm,
    load_sequence_classifier,
    resolve_model_name,
)
from lit_rlhf.models.reading import Attention, last_states, predicting_states
from lit_rlhf.ops.links import log_softplus
from lit_rlhf.records import ResponseTrees

Link = Literal["bradley_terry", "luce"]


class ScorerNetwork(nn.Module):
    """One score a response, read at its last token (the EOS), or one value a response token.

    Args:
        trunk: a decoder without its head, as ``causal_lm.base_model``.
        link: how the head's output becomes the score. ``bradley_terry``: it is the score. ``luce``: the
            response's strength is softplus of it, and the score is the strength's logarithm, so that
            σ(score difference) is the ratio s_w/(s_w+s_l).
    """

    def __init__(self, trunk: PreTrainedModel, link: Link = "bradley_terry") -> None:
        super().__init__()
        self.trunk = trunk
        self.link = link
        width = trunk.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1)
        # Stiennon et al. 2020 (their text omits the root): scores of order one at the start.
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))
        nn.init.zeros_(self.head.bias)
        # Taken off after the link; only luce uses it, where the head's bias would change more than the mean.
        self.score_offset: Tensor
        self.register_buffer("score_offset", torch.zeros(()))

    def forward(self, trees: ResponseTrees) -> Tensor:
        """Scores ``[N]``, fp32. What stands behind a response's last token changes nothing."""
        return self._link(self._head(last_states(self.trunk, trees)))

    def values(self, trees: ResponseTrees) -> Tensor:
        """The value before each response token, grid ``[N, R]``, fp32, zero outside the counted tokens.

        The state before a token is read at the position that predicts it.
        """
        counted = trees.response_grid_mask()
        values = self._head(predicting_states(self.trunk, trees))
        return values.new_zeros(counted.shape).masked_scatter(counted, values)

    @torch.no_grad()
    def shift(self, amount: Tensor) -> None:
        """Take `amount` off every score: through the head's bias, or the offset behind the luce link."""
        if self.link == "luce":
            self.score_offset.add_(amount)
        else:
            self.head.bias.sub_(amount)

    def zero_head(self) -> None:
        """Start all values at 0, as a critic that was not made from a reward model does."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _head(self, hidden: Tensor) -> Tensor:
        # bf16 has three digits, and differences of scores are what is learned: no autocast here
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float()

    def _link(self, head_output: Tensor) -> Tensor:
        if self.link == "luce":
            return log_softplus(head_output) - self.score_offset
        return head_output


def load_scorer(
    model: str | nn.Module, link: Link | None = None, attention: Attention = "auto"
) -> ScorerNetwork:
    """A scorer from a reward export (head, bias and link kept) or from a causal LM (a new head).

    Args:
        model: a folder, a hub name, or a causal language model already built.
        link: the link of a new head; a reward export has its own, and another one asked for is an error.
        attention: over trees or over padded rows.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: `link` contradicts the export's.
    """
    if isinstance(model, nn.Module):
        return ScorerNetwork(load_causal_lm(model, attention).base_model, link or "bradley_terry")
    name = resolve_model_name(model)
    if not is_scorer_folder(name):
        return ScorerNetwork(load_causal_lm(name, attention).base_model, link or "bradley_terry")
    classifier = load_sequence_classifier(name, attention)
    stored_link: Link = getattr(classifier.config, "score_link", "bradley_terry")
    if link is not None and link != stored_link:
        raise ValueError(
            f"model {model!r} was trained with link {stored_link!r}; {link!r} was asked for. "
            "Leave the link out, or start from a causal language model."
        )
    scorer = ScorerNetwork(classifier.base_model, stored_link)
    with torch.no_grad():
        scorer.head.weight.copy_(classifier.score.weight)
        scorer.head.bias.fill_(getattr(classifier.config, "score_bias", 0.0))
        scorer.score_offset.fill_(getattr(classifier.config, "score_offset", 0.0))
    return scorer

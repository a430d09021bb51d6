"""The best of several responses by a reward model, which scores them all with their prompt computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lit_rlhf.cli.sample_draws import Drawn
from lit_rlhf.cli.score_lines import RowScores
from lit_rlhf.cli.scoring import score_batch, windows, without_too_long
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.models.loading import resolve_scorer
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.records import Prompt, Row

MAX_TOKENS = 8192
"""Of one forward, prompts and responses together."""


class Judge:
    """A reward model that says which responses are best, by the scores that ``lit-rlhf score`` gives them.

    Args:
        reward: its folder, or its hub name.
        device: where it computes.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no reward model.
    """

    def __init__(self, reward: str, device: torch.device) -> None:
        name = resolve_scorer(reward)
        self.encoder = TextEncoder(load_tokenizer(name))
        self.network = load_scorer(name).to(device).eval()
        self.device = device

    def check_prompts(self, rows: Sequence[Row]) -> None:
        """Refuse a prompt that its tokenizer or chat template cannot read, before anything is drawn.

        Raises:
            TokenizationError: with the row's place.
        """
        for row in rows:
            plant_tree(replace(row, responses=["x"]), self.encoder)

    def best(
        self, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Drawn]], kept: int
    ) -> tuple[list[list[Drawn]], list[list[float | None]]]:
        """The `kept` best responses to each prompt, best first, and their scores.

        What has too many tokens for the model has no score, and comes last. Of equal scores the first drawn is first.
        """
        rows = [Row(prompt, [one.text for one in some]) for prompt, some in zip(prompts, drawn, strict=True)]
        found = self._scores(rows)
        orders = [
            sorted(range(len(scores)), key=lambda place: _descending(scores[place]))[:kept]
            for scores in found
        ]
        return (
            [[some[place] for place in order] for some, order in zip(drawn, orders, strict=True)],
            [[scores[place] for place in order] for scores, order in zip(found, orders, strict=True)],
        )

    def _scores(self, rows: Sequence[Row]) -> list[list[float | None]]:
        trees = [plant_tree(row, self.encoder)[0][0] for row in rows]
        fitting = [without_too_long(tree, self.network) for tree in trees]
        found: dict[int, RowScores] = {}
        for window in windows(trees, MAX_TOKENS, 0):
            for batch in window:
                found |= score_batch(self.network, trees, fitting, batch, self.device)
        return [found[number].scores for number in range(len(trees))]


def _descending(score: float | None) -> tuple[bool, float]:
    return score is None, -(score or 0.0)

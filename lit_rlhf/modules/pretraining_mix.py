"""Pretraining rows beside PPO's minibatches (PPO-ptx), so that what the policy knew is not forgotten."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedConfig

from lit_rlhf.data.draw import EpochDraw
from lit_rlhf.data.files import BadRowsError, DataPath, read_rows
from lit_rlhf.data.lengths import check_positions
from lit_rlhf.data.planting import Judging, plant_rows
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import Truncation, plant_tree
from lit_rlhf.ops.noise import seed_from
from lit_rlhf.records import Row, Tree

_LIMITS = re.compile("max_(prompt|response)_tokens")  # what data modules call them


@dataclass(frozen=True)
class PretrainingMix:
    """Text whose language-modelling loss is added to PPO's (PPO-ptx; Ouyang et al. 2022, eq. 2).

    Args:
        path: text or demonstrations, as SFT reads them: a file, folder or hub name, a list of them, or of
            ``{path, weight}``.
        coef: γ, weight of the mean loss per pretraining token beside the mean PPO loss (27.8 in InstructGPT, where
            20 and more took back what was lost on public tasks, and a larger KL price did not).
        batch_size: rows that go with a minibatch, over all ranks and accumulation steps. InstructGPT took 8 for each
            response; as the loss is a mean, more of them make its gradient quieter and not larger.
        max_tokens: tokens of a row at the most, its prompt among them. Text is cut into windows of so many; of a longer
            demonstration the prompt keeps half of them, from its end, and the response the others, from its start.

    Raises:
        ValueError: a coefficient below 0, no rows, or no room for a prompt and a response.
    """

    path: DataPath
    coef: float = 27.8
    batch_size: int = 8
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if not self.coef >= 0:
            raise ValueError(f"model.pretraining.coef: expected 0 or more, found {self.coef}.")
        for name, least in (("batch_size", 1), ("max_tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"model.pretraining.{name}: expected {least} or more, found {getattr(self, name)}."
                )


class PretrainingRows:
    """The rows of a pretraining mix, read and tokenized once, and said what was read.

    Which rows go with a minibatch follows from its number alone, so there is no state to save: the rows are gone
    through in a new order each time round, those of a weighted file as often as their weight says.

    Args:
        settings: what to read.
        encoder: says what the ids are.
        seed: decides the orders.

    Raises:
        ValueError: a row cannot be read, or there is none.
    """

    def __init__(self, settings: PretrainingMix, encoder: TextEncoder, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        read = read_rows(settings.path, "demonstrations", bad_rows="skip")
        if read.bad:
            raise BadRowsError(
                f"model.pretraining.path: {len(read.bad)} bad of {len(read.bad) + len(read.rows)} rows, the first is "
                f"{read.bad[0]}. Mend or remove them."
            )
        self.report = SplitReport(
            "pretraining",
            duplicates=read.duplicates,
            first_duplicate=read.first_duplicate,
            notes=list(read.notes),
        )

        def plant(row: Row) -> tuple[list[Tree], Truncation]:
            return _plant_within(row, encoder, settings.max_tokens)

        self.planted = plant_rows(read.rows, read.weights, plant, Judging(compares=False), self.report)
        self._draw = EpochDraw([tree.num_tokens for tree in self.planted.trees], self.planted.weights)
        self._trees_a_round = len(self._draw.trees(torch.Generator()))
        self._last_order: tuple[int, list[int]] | None = None
        for line in self.report.lines():
            rank_zero_info(_LIMITS.sub("half of model.pretraining.max_tokens", line))

    def trees_of(self, update: int) -> list[Tree]:
        """The rows that go with a minibatch, `batch_size` of them, over all ranks.

        Args:
            update: number of the minibatch since the start of the run.
        """
        size, trees = self.settings.batch_size, self.planted.trees
        chosen: list[Tree] = []
        number = update * size
        while len(chosen) < size:
            times_round, place = divmod(number + len(chosen), self._trees_a_round)
            order = self._order(times_round)
            chosen += [trees[index] for index in order[place : place + size - len(chosen)]]
        return chosen

    def check_positions(self, config: PreTrainedConfig) -> None:
        """Refuse rows that run past a model's table of positions.

        Raises:
            ValueError: see :func:`lit_rlhf.data.lengths.check_positions`.
        """
        check_positions(self.planted.trees, config, self.planted.places)

    def _order(self, times_round: int) -> list[int]:
        """The trees in the order of one time round; kept, since many minibatches share it."""
        if self._last_order is None or self._last_order[0] != times_round:
            generator = torch.Generator().manual_seed(seed_from(self.seed, times_round))
            drawn = self._draw.trees(generator)
            shuffled = torch.randperm(len(drawn), generator=generator).tolist()
            self._last_order = times_round, [drawn[place] for place in shuffled]
        return self._last_order[1]


def _plant_within(row: Row, encoder: TextEncoder, max_tokens: int) -> tuple[list[Tree], Truncation]:
    """The trees of a row, none of them with more than `max_tokens`."""
    if row.is_text:  # behind a BOS, or the token before the window
        return plant_tree(row, encoder, max_response_tokens=max_tokens - 1)
    whole = plant_tree(row, encoder)
    if whole[0][0].num_tokens <= max_tokens:
        return whole
    prompt = max_tokens // 2
    return plant_tree(row, encoder, prompt, max_tokens - prompt)

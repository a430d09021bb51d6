"""A phase whose network is a policy: samples for the sample table and for `predict`."""

from __future__ import annotations

from typing import Any

import torch

from lit_rlhf.data.seed import settled_seed
from lit_rlhf.modules.base import PhaseModule, prompts_of
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Prompt, ResponseTrees, Row
from lit_rlhf.rollout.settings import SamplingSettings
from lit_rlhf.strategies.limits import why_not_sampling

SHOWN = 4
"""Validation prompts whose samples are shown."""


class PolicyPhase(PhaseModule):
    """A phase whose network is a policy; abstract."""

    def set_sampling(
        self,
        max_new_tokens: int,
        temperature: float,
        seed: int | None,
        max_cached_tokens: int | None = None,
    ) -> None:
        """How the phase's responses are drawn."""
        self.sampling = SamplingSettings(
            max_new_tokens, temperature=temperature, max_cached_tokens=max_cached_tokens
        )
        self._sampling_seed = settled_seed(seed)
        self._shown_prompts: list[list[int]] = []

    def keep_prompts(self, batch: ResponseTrees, batch_idx: int) -> None:
        """Remember the first validation prompts for the sample table."""
        if batch_idx == 0:
            self._shown_prompts = prompts_of(batch)[:SHOWN]

    def sample_table(self) -> list[dict[str, Any]] | None:
        """One sample for each of the first validation prompts, drawn with the same noise every time."""
        if not self._shown_prompts or why_not_sampling(self.trainer.strategy):
            return None
        keys = counter_key(self._sampling_seed, torch.arange(len(self._shown_prompts)))
        texts, finished = self.sample_texts(self._shown_prompts, self.sampling, keys)
        return [
            {"prompt": self.encoder.decode(prompt), "response": text, "finished": done}
            for prompt, text, done in zip(self._shown_prompts, texts, finished, strict=True)
        ]

    def predict_samples(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt, as JSON-able rows in the layout of the candidates file."""
        prompts = prompts_of(batch)
        numbers = torch.arange(len(prompts))
        known = batch.row_indices.cpu()
        # The row's own number, where the data module gives one, makes the sample independent of the batch.
        row_numbers = torch.where(known >= 0, known, batch_idx * 1_000_003 + numbers)
        texts, finished = self.sample_texts(
            prompts, self.sampling, counter_key(self._sampling_seed, row_numbers)
        )
        source = self.hparams.get("model") or type(self).__name__
        return [
            {"id": name, "prompt": prompt, "responses": [text], "finished": [done], "source": source}
            for name, prompt, text, done in zip(
                batch.row_ids, self._written_prompts(batch), texts, finished, strict=True
            )
        ]

    def _written_prompts(self, batch: ResponseTrees) -> list[Prompt]:
        """The prompts as the data has them, conversations too; decoded where the batch does not say its rows."""
        data = self.datamodule
        rows: list[Row] = data.rows("predict") if hasattr(data, "rows") else []
        written: list[Prompt] = []
        for index, name, ids in zip(
            batch.row_indices.tolist(), batch.row_ids, prompts_of(batch), strict=True
        ):
            row = rows[index] if 0 <= index < len(rows) else None
            # A trainer keeps an earlier data module when it is given loaders: the names tell.
            known = row is not None and name in (row.id, row.place)
            written.append(row.prompt if row is not None and known else self.encoder.decode(ids))
        return written

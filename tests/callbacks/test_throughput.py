"""Tokens are counted, not guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_rlhf.callbacks import Throughput, count_tokens
from lit_rlhf.records import ResponseTrees
from tests.callbacks.trainer import make_trainer
from tests.cli.stand_in import StandInData, StandInModule


def test_throughput_counts_this_batchs_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 16.0])
    monkeypatch.setattr("lit_rlhf.callbacks.throughput.time.perf_counter", lambda: next(clock))
    logged: list[float] = []

    class Seen(StandInModule):
        def log(self, name: str, value: Any, **settings: Any) -> None:
            if name == "perf/tokens_per_second":
                logged.append(value)

    settings = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0}
    make_trainer(tmp_path, [Throughput()], **settings).fit(Seen(), StandInData())
    assert logged == [8 / 2.0, 16 / 6.0]  # two rows of four tokens a batch


def test_tokens_of_other_shapes_are_not_guessed() -> None:
    assert count_tokens({"input_ids": torch.zeros(2, 3)}) == 6
    assert count_tokens([torch.zeros(2, 3)]) is None


def test_tokens_of_packed_trees() -> None:
    trees = object.__new__(ResponseTrees)
    trees.input_ids = torch.zeros(11, dtype=torch.long)
    assert count_tokens(trees) == 11

"""Whose share of the data is whose."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lit_rlhf.data.ranks import Processes, data_rank
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer


def test_one_process_has_everything() -> None:
    assert data_rank(None) == (0, 1)
    assert data_rank(quiet_trainer()) == (0, 1)
    assert Processes().gather("mine") == ["mine"]


def test_a_strategy_that_splits_tensors_says_who_gets_different_data() -> None:
    strategy = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2, "rank": 1})
    split: Any = SimpleNamespace(strategy=strategy, global_rank=3, world_size=4)
    assert data_rank(split) == (1, 2)


def told(numbers: list[int]) -> Any:
    trainer = quiet_trainer(devices=2, strategy="ddp")
    trainer.strategy.setup_environment()
    processes = Processes(trainer)
    return data_rank(trainer), processes.gather(numbers[processes.rank]), processes.from_first(processes.rank)


def test_processes_of_ddp_differ_and_tell_one_another() -> None:
    assert run_distributed(told, 2, [7, 9]) == [((0, 2), [7, 9], 0), ((1, 2), [7, 9], 0)]

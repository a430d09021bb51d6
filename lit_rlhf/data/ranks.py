"""Which share of the data is this process's: ranks that split one network among them get the same batches."""

from __future__ import annotations

from typing import Any, TypeVar

from lightning.pytorch import Trainer

Value = TypeVar("Value")


def data_rank(trainer: Trainer | None) -> tuple[int, int]:
    """This process's place among those that get different data, and how many of these there are.

    They are all processes, but for strategies that split a network's tensors over some of them: those hold parts of
    one replica, and have to see the same batches. Lightning's own samplers go by the same two numbers.

    Args:
        trainer: None where there is none: one process.

    Returns:
        The rank, from 0, and the number of ranks.
    """
    if trainer is None:
        return 0, 1
    replicas = getattr(trainer.strategy, "distributed_sampler_kwargs", None)  # a single device has none
    if replicas is None:
        return trainer.global_rank, trainer.world_size
    return int(replicas["rank"]), int(replicas["num_replicas"])


class Processes:
    """The processes of a run, which share work on the data and tell one another what they found.

    Args:
        trainer: None where there is none: one process.
    """

    def __init__(self, trainer: Trainer | None = None) -> None:
        self._strategy: Any = None if trainer is None else trainer.strategy
        self.rank: int = 0 if trainer is None else trainer.global_rank
        self.count: int = 1 if trainer is None else trainer.world_size

    def gather(self, mine: Value) -> list[Value]:
        """What each process has, in the order of ranks; all of them have to ask."""
        if self.count == 1:
            return [mine]
        return [self._strategy.broadcast(mine, src=rank) for rank in range(self.count)]

    def from_first(self, mine: Value) -> Value:
        """What the process of rank 0 has; all of them have to ask."""
        return mine if self.count == 1 else self._strategy.broadcast(mine, src=0)

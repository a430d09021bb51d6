"""FSDP2 as a strategy of Lightning's: ``--trainer.strategy fsdp2``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.constants import default_pg_timeout

from lit_rlhf.models.sharding import decoder_layers, is_sharded, shard
from lit_rlhf.models.tensor_parallel import split_layers
from lit_rlhf.strategies.sharded_checkpoint import (
    check_same_weights,
    load_optimizer_parts,
    load_whole_optimizer,
)


class FSDP2Strategy(ModelParallelStrategy):
    """Weights, gradients and optimizer state in parts over all ranks, on GPUs and on CPUs (gloo) alike.

    Lightning's own strategy leaves it to the module what is sharded; our modules call :meth:`shard` for each network,
    the frozen ones too.

    Args:
        data_parallel_size: ranks over which weights are spread and rows are shared out; null = all of them, divided
            by `tensor_parallel_size`.
        tensor_parallel_size: ranks that compute each layer together, and see the same rows.
        save_distributed_checkpoint: whether each rank writes its part into a folder; else rank 0 gathers and writes
            one file, which every strategy reads.
        reshard_after_forward: whether a layer's weights are gathered anew in the backward; false keeps them, which
            takes the memory of whole weights and a third less communication.
        cpu_offload: whether weights and optimizer state lie in the memory of the CPU.
        whole_while_sampling: whether every rank holds the whole policy while it draws responses, given back behind
            them; else every token gathers every layer, which takes little memory and, for large models, most of the
            time.
        timeout: how long a rank waits for the others.
    """

    def __init__(
        self,
        data_parallel_size: int | None = None,
        tensor_parallel_size: int = 1,
        save_distributed_checkpoint: bool = False,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        whole_while_sampling: bool = False,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size=data_parallel_size or "auto",
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            timeout=timeout,
        )
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.whole_while_sampling = whole_while_sampling

    def setup_environment(self) -> None:
        """Meet the other ranks and lay them out.

        Raises:
            ValueError: there are other ranks than the two sizes make.
        """
        ranks = self.num_nodes * self.num_processes
        if self._data_parallel_size == "auto":
            self._data_parallel_size = ranks // int(self._tensor_parallel_size)
        asked = self._data_parallel_size * int(self._tensor_parallel_size)
        if asked != ranks:
            raise ValueError(
                f"trainer.strategy: data_parallel_size {self._data_parallel_size} times tensor_parallel_size "
                f"{self._tensor_parallel_size} is {asked}, but there are {ranks} ranks (trainer.devices times "
                "trainer.num_nodes). Leave data_parallel_size out, or make them equal."
            )
        super().setup_environment()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Weights and optimizer states into their parts; returns the rest of the checkpoint.

        Optimizers are not left to Lightning: it takes every parameter to have a state, which those that were not
        updated yet have not, and counts parameters otherwise than a single process does.
        """
        path = Path(self.broadcast(checkpoint_path))
        assert self.model is not None
        check_same_weights(self.model, path, weights_only)
        optimizers, self.optimizers = self.optimizers, []
        try:
            rest = super().load_checkpoint(path, weights_only)
        finally:
            self.optimizers = optimizers
        for number, optimizer in enumerate(optimizers):
            if path.is_dir():
                load_optimizer_parts(self.model, optimizer, f"optimizer_{number}", path)
            else:
                load_whole_optimizer(optimizer, rest["optimizer_states"][number])
        return rest

    def model_to_device(self) -> None:
        """Move what is not spread; parts that lie in the memory of the CPU stay there."""
        assert self.model is not None
        if not self.cpu_offload:
            super().model_to_device()
            return
        for part in self.model.children():
            if not is_sharded(part):
                part.to(self.root_device)
        _update_properties(self.model, device=self.root_device)  # where batches go

    def _get_process_group_backend(self) -> str:
        backend = super()._get_process_group_backend()
        # norms, exports and checksums go over the parts, wherever they lie
        return f"cpu:gloo,cuda:{backend}" if self.cpu_offload and backend == "nccl" else backend

    @property
    def device_of_parts(self) -> torch.device:
        """Where this rank's parts of the weights lie."""
        return torch.device("cpu") if self.cpu_offload else self.root_device

    def shard(self, network: nn.Module) -> None:
        """Spread a network over the ranks, in place."""
        if is_sharded(network):
            return
        if self.device_mesh["tensor_parallel"].size() > 1:
            split_layers(network, decoder_layers(network), self.device_mesh["tensor_parallel"])
        gathered_in = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        shard(
            network,
            self.device_mesh["data_parallel"],
            self.reshard_after_forward,
            self.cpu_offload,
            gathered_in,
            self.whole_while_sampling,
        )


for name in ("fsdp2", "fsdp2strategy"):  # the second is what the command line makes of the bare class name
    StrategyRegistry.register(name, FSDP2Strategy, description="FSDP2 over all ranks")

"""Decoding steps of a few fixed shapes, replayed as CUDA graphs: launching their many small kernels takes longer.

A step runs at a bucket of rows, the next power of two, over the columns that the buffers have. Its inputs lie in
tensors that stay where they are, so that the forward of a bucket is captured once and replayed from then on. Rows
between those that are under way and the bucket's end are free ones: the rows are dense. What a step computes for
them is thrown away, and what it writes there is overwritten before anybody looks.

The fixed shapes are tested on a CPU. Capture and replay have not been run on a GPU.
"""

from __future__ import annotations

import logging

import torch

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.decoding import Feed
from lit_rlhf.models.key_value_store import Buffers, NextTokenAttention
from lit_rlhf.models.policy import NextTokens, PolicyNetwork

log = logging.getLogger(__name__)

COLUMNS_AT_A_TIME = 256
"""Buffers grow to a multiple of so many tokens here: every growth makes the graphs anew."""


def takes_static_steps(device: torch.device, sharded: bool) -> bool:
    """Whether steps have fixed shapes; ranks that share out the weights each have rows of their own number."""
    return device.type == "cuda" and not sharded


def bucket_of(count: int, rows: int) -> int:
    """Rows that are computed for `count` of them: the next power of two, and no more than there are."""
    return min(rows, 1 << (count - 1).bit_length())


class StaticSteps:
    """The next tokens of a decoding run's rows. Rows hold their prompts themselves.

    Args:
        network: whose weights stay as they are for as long as this is used.
        buffers: of the rows.
        device: where the network is; graphs are captured on CUDA alone.
    """

    def __init__(self, network: PolicyNetwork | ActorCritic, buffers: Buffers, device: torch.device) -> None:
        self.network, self.buffers = network, buffers
        self._rows = torch.arange(buffers.rows, device=device)
        # ids, positions, columns
        self._inputs = torch.zeros(3, buffers.rows, dtype=torch.long, device=device)
        self._captures = device.type == "cuda"
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, NextTokens]] = {}
        self._columns = 0  # of the buffers that the graphs were captured with
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None

    def __call__(self, feed: Feed) -> NextTokens:
        """What comes after the newest token of each of n rows; on CUDA to be read before the next call.

        Raises:
            ValueError: rows share their prompts.
        """
        assert isinstance(feed.attention, NextTokenAttention)
        if feed.attention.sharing is not None:
            raise ValueError("StaticSteps: expected rows that hold their prompts, found some that share one.")
        count = len(feed.input_ids)
        bucket = bucket_of(count, self.buffers.rows)
        # what stands behind them is from an earlier step, and as good as anything for rows that nobody reads
        self._inputs[:, :count] = torch.stack([feed.input_ids, feed.position_ids, feed.attention.columns])
        seen = self._replayed(bucket) if self._captures else self._computed(bucket)
        values = None if seen.values is None else seen.values[:count]
        return NextTokens(seen.logits[:count], seen.states[:count], values)

    def _computed(self, bucket: int) -> NextTokens:
        ids, positions, columns = self._inputs[:, :bucket]
        attention = NextTokenAttention(self.buffers, self._rows[:bucket], columns)
        return self.network.next_token_logits(Feed(ids, positions, attention))

    def _replayed(self, bucket: int) -> NextTokens:
        """The bucket's graph, captured where there is none for the buffers as they are."""
        if self.buffers.allocated != self._columns:
            self._graphs.clear()
            self._columns = self.buffers.allocated
        if bucket not in self._graphs:
            try:
                self._graphs[bucket] = self._capture(bucket)
            except RuntimeError as error:
                self._captures = False
                self._graphs.clear()
                log.warning("Decoding without CUDA graphs: capturing a step failed: %s", error)
                return self._computed(bucket)
        graph, seen = self._graphs[bucket]
        graph.replay()
        return seen

    def _capture(self, bucket: int) -> tuple[torch.cuda.CUDAGraph, NextTokens]:
        # a first run outside the graph: libraries set themselves up, and autocast keeps the weights that it has cast
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._computed(bucket)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            seen = self._computed(bucket)
        return graph, seen

"""A critic on the policy's frozen trunk: an adapter beside the policy's, and a head."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.lora import CRITIC, LoraAdapter
from lit_rlhf.models.reading import predicting_states
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.records import ResponseTrees


class AdapterCritic(nn.Module):
    """The value before each response token, from a pass of its own over the trunk, with its own adapter.

    It starts at 0 everywhere. The adapter's weights are where the policy's are, in the trunk's layers; no gradient of
    the value loss reaches the policy's.

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.head = ValueHead(hidden_size)
        self.adapter: LoraAdapter | None = None
        """Of the trunk; set once it has them."""

    def values(self, trunk: PreTrainedModel, trees: ResponseTrees) -> Tensor:
        """Values, grid ``[N, R]``, fp32, zero outside the counted tokens.

        Args:
            trunk: the policy's.
            trees: the batch.
        """
        assert self.adapter is not None
        with self.adapter.active(CRITIC):
            states = predicting_states(trunk, trees)
        counted, values = trees.response_grid_mask(), self.head(states)
        grid: Tensor = values.new_zeros(counted.shape).masked_scatter(counted, values)
        return grid

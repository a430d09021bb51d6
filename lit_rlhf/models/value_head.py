"""A critic without a trunk of its own: a linear map of the policy's states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class ValueHead(nn.Module):
    """The value before each response token, read from the state that predicts the token.

    It starts at 0 everywhere. The gradient of the value loss goes through the states into the policy's trunk.

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor) -> Tensor:
        """Values ``[M]`` of states ``[M, D]``, fp32 or wider in every precision.

        bf16 has three digits, and advantages are differences of values.
        """
        wide = torch.promote_types(states.dtype, torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            return linear(states.to(wide), self.weight.to(wide), self.bias.to(wide)).squeeze(-1)

"""The bias of a trunk's final norm, which can take in that of a head behind it."""

from __future__ import annotations

from torch import Tensor, nn

NAMES = ("ln_f", "norm", "final_layernorm", "final_layer_norm")
"""What trunks call their final norm, in the families of transformers."""


def final_norm(trunk: nn.Module) -> nn.Module | None:
    """The norm behind the last layer; None where it goes by no known name."""
    return next((norm for name in NAMES if isinstance(norm := getattr(trunk, name, None), nn.Module)), None)


def final_norm_bias(trunk: nn.Module) -> Tensor | None:
    """The bias of the norm behind the last layer; None where it has none."""
    return getattr(final_norm(trunk), "bias", None)


def fold_bias(trunk: nn.Module, weight: Tensor, bias: Tensor) -> bool:
    """Put a head's bias b into the final norm's, in place: w·(h + δ) = w·h + b with δ = b·w/‖w‖².

    Args:
        trunk: the network in front of the head.
        weight: w, ``[1, D]``.
        bias: b, a scalar.
    Returns:
        Whether there was a norm with a bias, and a w to do it with.
    """
    norm_bias = final_norm_bias(trunk)
    squared_norm = weight.square().sum()
    if norm_bias is None or squared_norm == 0:
        return False
    norm_bias += (bias * weight / squared_norm).squeeze(0)
    return True

"""The check at the door of the tensor functions: arguments that must have one shape do.

Broadcasting is what makes a wrong shape dangerous here: ``[N] - [N, 1]`` is a fine ``[N, N]`` to
torch, and its mean is a number that looks like a loss.
"""

from __future__ import annotations

from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Returns nothing; all tensors given by name have one shape.

    Raises:
        ValueError: two of them differ; the message holds every name with its shape.

    Example:
        >>> import torch
        >>> check_same_shape(values=torch.zeros(2), mask=torch.ones(2))
        >>> check_same_shape(values=torch.zeros(2), mask=torch.ones(2, 1))
        Traceback (most recent call last):
        ...
        ValueError: expected tensors of one shape, found values [2], mask [2, 1]
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"expected tensors of one shape, found {found}")

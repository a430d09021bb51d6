"""Where a command computes."""

from __future__ import annotations

import torch


def choose_device(asked: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: it is not there.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {asked}: {str(error).splitlines()[0]}") from None
    return device

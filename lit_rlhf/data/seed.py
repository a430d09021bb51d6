"""The seed of what is counted: a config's own, or the one of `seed_everything`."""

from __future__ import annotations

import os


def settled_seed(seed: int | None) -> int:
    """`seed`, or where it is None the seed that Lightning's `seed_everything` was given, or 0.

    >>> settled_seed(7)
    7
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed

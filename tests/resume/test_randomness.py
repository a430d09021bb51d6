"""Nothing in a PPO fit draws from the global generators, whose state no checkpoint holds."""

from __future__ import annotations

import random

import numpy as np
import torch

from tests.modules.test_ppo import fit, make_module


def states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


def test_a_fit_leaves_the_global_generators_alone() -> None:
    module = make_module(entropy_coef=0.01)
    before = states()
    fit(module, max_epochs=2)
    assert states() == before

"""LoRA on several ranks gives what it gives on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.ranks.conftest import Fit
from tests.ranks.phases import ADAPTED, QUIET, SGD
from tests.ranks.runs import Run, run
from tests.ranks.same import TOLERANCE, losses_differ, moved, numbers_that_differ, weights_differ

Alone = Callable[..., Any]
QUICK = {("dpo, adapter off", 2, "fsdp2")}


def adapters_differ(one: Run, other: Run) -> float:
    ours, theirs = (
        load_file(run.folder / "export-adapter/adapter_model.safetensors") for run in (one, other)
    )
    assert ours.keys() == theirs.keys() and ours
    return max(float(np.abs(weight - theirs[name]).max()) for name, weight in ours.items())


@pytest.mark.parametrize(
    ("phase", "ranks", "strategy"),
    [
        pytest.param(
            phase, ranks, strategy, marks=[] if (phase, ranks, strategy) in QUICK else pytest.mark.slow
        )
        for phase in ADAPTED
        for ranks, strategy in ((2, "ddp"), (2, "fsdp2"), (4, "fsdp2"))
    ],
)
def test_weights_under_gradient_descent(
    fit: Fit, alone: Alone, phase: str, ranks: int, strategy: str
) -> None:
    words = [*ADAPTED[phase], *SGD]
    single, several = alone(words), fit(words, ranks, strategy)
    assert moved(single) > 10 * TOLERANCE
    assert weights_differ(several, single) < TOLERANCE
    assert adapters_differ(several, single) < TOLERANCE
    assert losses_differ(several, single) < TOLERANCE
    assert numbers_that_differ(several, single) == {}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["dpo, adapter off", "ppo, adapter off", "reward"])
@pytest.mark.parametrize(
    ("first", "then"), [((2, "fsdp2"), (1, "auto")), ((1, "auto"), (2, "fsdp2"))], ids=str
)
def test_a_fit_goes_on_elsewhere(
    here: Path, alone: Alone, phase: str, first: tuple[int, str], then: tuple[int, str]
) -> None:
    words = [*ADAPTED[phase], *SGD]
    run(["fit", *words, *QUIET, "--trainer.max_epochs", "1"], here / "run", *first).went_well()
    again = run(["fit", *words, *QUIET, "--ckpt_path", "last"], here / "run", *then).went_well()
    assert weights_differ(again, alone(words)) < TOLERANCE
    assert losses_differ(again, alone(words)) < TOLERANCE

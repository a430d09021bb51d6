"""Checkpoints move between numbers of ranks and between strategies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ranks.phases import ADAMW, PAIRS, QUIET, REWARD, SFT, SGD
from tests.ranks.runs import Run, run
from tests.ranks.same import TOLERANCE, losses_differ, numbers_that_differ, weights_differ
from tests.ranks.test_stops import WORDS

Alone = Callable[..., Any]
Place = tuple[int, str]

ALL = {**WORDS, "reward": [*REWARD, *PAIRS, *ADAMW]}
ONE_EPOCH = ["--trainer.max_epochs", "1"]
MOVES: list[tuple[Place, Place]] = [
    ((2, "fsdp2"), (1, "auto")),
    ((2, "fsdp2"), (4, "ddp")),
    ((4, "fsdp2"), (2, "fsdp2")),
    ((1, "auto"), (2, "fsdp2")),
    ((2, "ddp"), (2, "fsdp2")),
    ((2, "fsdp2"), (2, "ddp")),
]
FOLDER = ["--trainer.strategy.save_distributed_checkpoint", "true"]


def moves(*quick: tuple[str, int]) -> list[Any]:
    return [
        pytest.param(
            phase, *move, id=f"{phase}-{move}", marks=[] if (phase, number) in quick else pytest.mark.slow
        )
        for phase in ALL
        for number, move in enumerate(MOVES)
    ]


@pytest.mark.parametrize(("phase", "first", "then"), moves(("ppo", 0)))
def test_a_fit_goes_on_elsewhere(here: Path, alone: Alone, phase: str, first: Place, then: Place) -> None:
    words = ["fit", *ALL[phase], *QUIET]
    run([*words, *ONE_EPOCH], here / "run", *first).went_well()
    assert (here / "run/checkpoints/last.ckpt").is_file()
    again = run([*words, "--ckpt_path", "last"], here / "run", *then).went_well()
    single = alone(ALL[phase])
    assert losses_differ(again, single) < TOLERANCE
    assert weights_differ(again, single) < TOLERANCE
    assert numbers_that_differ(again, single) == {}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ALL)
@pytest.mark.parametrize("then", [(2, "fsdp2"), (4, "fsdp2"), (1, "auto"), (2, "ddp")], ids=str)
def test_so_does_one_whose_ranks_wrote_their_parts(here: Path, alone: Alone, phase: str, then: Place) -> None:
    words = ["fit", *ALL[phase], *QUIET]
    run([*words, *ONE_EPOCH, *FOLDER], here / "run", 2, "FSDP2Strategy").went_well()
    assert (here / "run/checkpoints/last.ckpt").is_dir()
    again = run([*words, "--ckpt_path", "last"], here / "run", *then).went_well()
    single = alone(ALL[phase])
    assert losses_differ(again, single) < TOLERANCE
    assert weights_differ(again, single) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"), [((1, "auto"), (2, "fsdp2")), ((2, "fsdp2"), (2, "fsdp2"))], ids=str
)
def test_an_optimizer_without_state(here: Path, alone: Alone, first: Place, then: Place) -> None:
    words = [*SFT, *SGD]
    run(["fit", *words, *QUIET, *ONE_EPOCH], here / "run", *first).went_well()
    again = run(["fit", *words, *QUIET, "--ckpt_path", "last"], here / "run", *then).went_well()
    assert losses_differ(again, alone(words)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "flags"), [("fsdp2", []), ("FSDP2Strategy", FOLDER)], ids=["file", "folder"]
)
def test_the_export_of_a_checkpoint_is_that_of_the_fit(here: Path, strategy: str, flags: list[str]) -> None:
    fitted = run(["fit", *ALL["ppo"], *QUIET, *flags], here / "run", 2, strategy).went_well()
    from lit_rlhf.cli.main import main

    main(["export", str(here / "run/checkpoints/last.ckpt"), str(here / "again/export")])
    assert weights_differ(fitted, Run(here / "again", [0], [""])) == 0

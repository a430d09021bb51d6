"""`validate`, `test` and `predict` on several ranks say what one process says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ranks.phases import DPO, PAIRS, PPO, QUIET, RANKINGS, REWARD, SFT, SGD
from tests.ranks.runs import run
from tests.ranks.same import is_same

OTHER = [*DPO, "--model.reference", "other"]
"""Against itself a policy's margins are rounding, which is above 0 or below."""
ALL: dict[str, list[str]] = {
    "sft": SFT,
    "reward": [*REWARD, *RANKINGS],
    "reward, ensemble": [*REWARD, *PAIRS, "--model.components", "{members: 2, combine: mean_minus_std}"],
    "dpo": OTHER,
    "dpo, precomputed": [*OTHER, "--model.reference_storage", "precomputed"],
    "ppo": [*PPO, "--model.reward", "reward"],
}


def words_for(command: str, phase: str) -> list[str]:
    """The flags of its fit, with its file as what is read."""
    words = ALL[phase]
    file = words[words.index("--data.path") + 1]
    split = {"validate": "val", "test": "test", "predict": "predict"}[command]
    return [command, *words, *QUIET, f"--data.{split}_path", file]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


QUICK = {("predict", "sft", 2, "fsdp2")}
COMBINATIONS = [
    pytest.param(
        command,
        phase,
        ranks,
        strategy,
        marks=[] if (command, phase, ranks, strategy) in QUICK else pytest.mark.slow,
    )
    for command in ("validate", "test", "predict")
    for phase in ALL
    for ranks, strategy in ((2, "fsdp2"), (2, "ddp"), (4, "fsdp2"))
    if not (phase == "dpo, precomputed" and command == "predict")
]


@pytest.mark.parametrize(("command", "phase", "ranks", "strategy"), COMBINATIONS)
def test_what_one_process_says(here: Path, command: str, phase: str, ranks: int, strategy: str) -> None:
    words = words_for(command, phase)
    single = run(words, here / "one").went_well().folder
    several = run(words, here / "several", ranks, strategy).went_well().folder
    if command == "predict":
        ours, theirs = lines(several / "predictions.jsonl"), lines(single / "predictions.jsonl")
        assert [line["id"] for line in ours] == [line["id"] for line in theirs]
        assert len(ours) == (11 if phase == "ppo" else 26)
        assert not list(several.glob("*.partial"))
    else:
        ours, theirs = (
            [json.loads((folder / f"{command}.json").read_text())] for folder in (several, single)
        )
    for our, their in zip(ours, theirs, strict=True):
        assert is_same(our, their), (our, their)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "predict"])
@pytest.mark.parametrize("trained", ["fsdp2", "ddp"])
def test_from_the_checkpoint_of_a_fit(
    here: Path, alone: Callable[..., Any], command: str, trained: str
) -> None:
    words = [*ALL["sft"], "--trainer.max_epochs", "1", *SGD]
    run(["fit", *words, *QUIET], here / "run", 2, trained).went_well()
    said: list[list[dict[str, Any]]] = []
    for ranks, strategy in ((1, "auto"), (2, "fsdp2"), (2, "ddp")):
        split = {"validate": "val", "predict": "predict"}[command]
        flags = [f"--data.{split}_path", "demonstrations.jsonl", "--ckpt_path", "last"]
        run([command, *words, *QUIET, *flags], here / "run", ranks, strategy).went_well()
        if command == "predict":
            said.append(lines(here / "run/predictions.jsonl"))
        else:
            said.append([json.loads((here / "run/validate.json").read_text())])
    for several in said[1:]:
        for our, their in zip(several, said[0], strict=True):
            assert is_same(our, their), (our, their)

"""What reaches one rank alone ends all of them, or none: nobody waits for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ranks.conftest import Fit
from tests.ranks.material import write
from tests.ranks.phases import DPO, PAIRS, PPO, QUIET, REWARD, SFT, SGD
from tests.ranks.runs import Run, run
from tests.ranks.same import TOLERANCE, numbers_that_differ, weights_differ

SECONDS = 120.0
SKIP = ["--model.failed_rewards", "skip"]
REWARDS = "tests.ranks.rewards"
RAISES, NONE = f"{REWARDS}.raises_on_one", f"{REWARDS}.none_on_one"
BESIDE_A_MODEL = f"[{{reward: {RAISES}, weight: 1.0}}, {{reward: reward, weight: 1.0}}]"


def attempt(here: Path, words: list[str], strategy: str) -> Run:
    return run(["fit", *words, *SGD, *QUIET], here / "run", 2, strategy, limit=SECONDS)


@pytest.mark.parametrize(
    ("flags", "said", "strategy"),
    [
        (
            ["--model.reward", RAISES, "--model.gold_reward", "reward"],
            "raised ZeroDivisionError: the judge is out for prompt q",
            "fsdp2",
        ),
        *(
            pytest.param(flags, said, strategy, marks=pytest.mark.slow)
            for strategy in ("ddp", "fsdp2")
            for flags, said in (
                (["--model.reward", RAISES], "raised ZeroDivisionError: the judge is out for prompt q"),
                (["--model.reward", f"{REWARDS}.nan_on_one"], "expected a finite number or None, found nan"),
                (["--model.reward", f"{REWARDS}.too_few_on_one", *SKIP], "expected 9 scores, found 8"),
                (["--model.reward", f"{REWARDS}.none_anywhere", *SKIP], "failed on all 18 responses"),
                (
                    ["--model.reward", f"{REWARDS}.slow_on_one", "--model.reward_timeout", "1"],
                    "more than 1 seconds",
                ),
                (["--model.reward", "reward", "--model.gold_reward", RAISES], "the judge is out"),
                (["--model.reward", BESIDE_A_MODEL], "the judge is out"),
                (
                    ["--model.reward", BESIDE_A_MODEL.replace("raises", "too_few"), *SKIP],
                    "expected 9 scores, found 8",
                ),
                (
                    ["--model.reward", f"{{ensemble: [{RAISES}, reward], combine: mean}}"],
                    "the judge is out",
                ),
            )
        ),
    ],
)
def test_a_reward_that_fails_on_one_rank_stops_all(
    here: Path, flags: list[str], said: str, strategy: str
) -> None:
    ended = attempt(here, [*PPO, *flags], strategy)
    assert ended.codes == [1, 1], ended.outputs
    for output in ended.outputs:
        assert said in output
        assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "reward",
    [
        RAISES,
        NONE,
        BESIDE_A_MODEL,
        f"[{{reward: reward, weight: 1.0}}, {{reward: {NONE}, weight: 1.0}}, {{reward: other-reward, weight: 1.0}}]",
    ],
)
def test_a_rank_without_a_score_goes_on_with_the_others(here: Path, reward: str, strategy: str) -> None:
    ended = attempt(here, [*PPO, *SKIP, "--model.reward", reward, "--model.gold_reward", "reward"], strategy)
    assert ended.went_well().metrics["rollout/failed_rewards"] == (0 if "other-reward" in reward else 9)


def few(here: Path, name: str, count: int) -> str:
    """The first rows of a file, as a file."""
    lines = (here / name).read_text().splitlines()[:count]
    write(here / "few.jsonl", [json.loads(line) for line in lines])
    return "few.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("words", "file"),
    [
        (SFT, "demonstrations.jsonl"),
        ([*REWARD, *PAIRS], "pairs.jsonl"),
        (DPO, "pairs.jsonl"),
        ([*DPO, "--model.reference_storage", "precomputed"], "pairs.jsonl"),
        ([*PPO, "--model.reward", "reward", "--model.gold_reward", "reward"], "prompts.jsonl"),
    ],
    ids=["sft", "reward", "dpo", "dpo, precomputed", "ppo"],
)
def test_validation_of_uneven_batches(
    here: Path, fit: Fit, words: list[str], file: str, strategy: str
) -> None:
    """Five rows in batches of four or so: a rank has more of the first, and the last is one row of one."""
    words = [*words, *SGD, "--data.val_path", few(here, file, 5)]
    several, single = fit(words, 2, strategy), fit(words)
    assert numbers_that_differ(several, single) == {}
    assert weights_differ(several, single) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("split", ["path", "val_path"])
def test_fewer_rows_than_ranks_are_refused_on_all(here: Path, split: str, strategy: str) -> None:
    ended = attempt(here, [*SFT, f"--data.{split}", few(here, "demonstrations.jsonl", 1)], strategy)
    assert ended.codes == [1, 1]
    assert all("expected at least as many rows as ranks (2), found 1" in said for said in ended.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("action", ["stop", "lower_learning_rate", "roll_back"])
def test_alarms(here: Path, fit: Fit, action: str, strategy: str) -> None:
    """Those of one process, at the same iterations."""
    words = [
        *PPO, *SGD, "--trainer.max_epochs", "5", "--trainer.callbacks", "TrainingAlarms",
        "--trainer.callbacks.action", action, "--trainer.callbacks.kl_limit", "0.0001",
        "--trainer.callbacks.save_every", "1", "--trainer.callbacks.max_roll_backs", "2",
    ]  # fmt: skip
    several, single = fit(words, 2, strategy), fit(words)
    alarms = [line for line in single.outputs[0].splitlines() if "objective/kl is" in line]
    assert alarms and alarms == [
        line for line in several.outputs[0].splitlines() if "objective/kl is" in line
    ]
    assert numbers_that_differ(several, single) == {}
    assert weights_differ(several, single) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_loss_that_is_not_finite_on_one_rank(here: Path, strategy: str) -> None:
    """The rank says its rows, and the other ends too."""
    words = [*SFT, *SGD, *QUIET]

    def on_rank(rank: int) -> None:
        from lit_rlhf import SFTModule

        plain = SFTModule.compute_loss

        def broken(self: SFTModule, batch: object) -> object:
            output = plain(self, batch)  # type: ignore[arg-type]
            if rank == 1 and self.trainer.global_step == 1:
                output.total = output.total * float("nan")
            return output

        SFTModule.compute_loss = broken  # type: ignore[method-assign, assignment]

    ended = run(["fit", *words], here / "run", 2, strategy, limit=SECONDS, on_rank=on_rank)
    assert ended.codes == [1, 1]
    assert "The loss is nan at epoch" in ended.outputs[1] and "on rows d" in ended.outputs[1]
    assert "Traceback" not in ended.outputs[0] + ended.outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_budget_of_tokens(here: Path, strategy: str) -> None:
    """Other batches on each number of ranks: the fit ends, with as many batches on each."""
    for name, words in (("sft", SFT), ("reward", [*REWARD, *PAIRS]), ("dpo", DPO)):
        folder = here / name
        flags = ["--data.max_tokens", "90", "--data.val_fraction", "0.3"]
        run(["fit", *words, *SGD, *flags, *QUIET], folder, 2, strategy, limit=SECONDS).went_well()

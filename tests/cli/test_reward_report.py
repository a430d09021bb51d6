"""What a reward model's run leaves behind: a page, numbers beside the scalars, a table; never a failed run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from lit_rlhf import PairDataModule, RankingDataModule, RewardModule
from lit_rlhf.callbacks import MetricsFile
from lit_rlhf.cli import reward_report
from lit_rlhf.cli.fit import CommandLine
from lit_rlhf.cli.reward_report import RewardReport
from lit_rlhf.data.loader import TreeLoader
from tests.cli.stand_in import StandInData, StandInModule
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import quiet_trainer, random_trees

TOKENIZER = make_tokenizer()
WORDS = ["tasty", "late", "lovely", "bad", "fresh", "stale", "kind", "rude"]


def pair(number: int, **more: Any) -> dict[str, Any]:
    good, bad = WORDS[2 * number % 8], WORDS[(2 * number + 1) % 8]
    return {"prompt": f"soup {number}", "chosen": f" is {good} .", "rejected": f" is {bad} .", **more}


PAIRS = [pair(number) for number in range(24)]
VOTES = [
    {
        "prompt": f"cake {number}",
        "response_a": " is tasty .",
        "response_b": " is late .",
        "labels": [{"labeler": name, "choice": choice} for name, choice in zip("abc", choices, strict=True)],
        "domain": ("food", "trip")[number % 2],
    }
    for number, choices in enumerate(
        [["a", "a", "b"], ["b", "b", "b"], ["a", "tie", "a"], ["a", "a", "a"]] * 6
    )
]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


@pytest.fixture(scope="module")
def module() -> RewardModule:
    torch.manual_seed(0)
    return RewardModule(make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER, center=False)


def trainer_in(folder: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    ours = list(callbacks) or [MetricsFile("validate.json"), RewardReport("validate.json")]
    return quiet_trainer(callbacks=ours, default_root_dir=folder, **settings)


def page_in(folder: Path) -> str:
    return (folder / "reward-report.html").read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """Without markup and figures, on one line."""
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_validation_writes_page_numbers_and_table(
    tmp_path: Path, module: RewardModule, capsys: pytest.CaptureFixture[str]
) -> None:
    data = PairDataModule(PAIRS, val_path=VOTES, batch_size=8)
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    numbers = json.loads((tmp_path / "validate.json").read_text())
    found = numbers["evaluation"]
    assert found["accuracy"]["mean"] == pytest.approx(numbers["val/rewards/accuracies"])
    assert found["accuracy"]["low"] <= found["accuracy"]["mean"] <= found["accuracy"]["high"]
    assert set(found["baselines"]) == {"longer wins", "bag of words"}
    assert (
        found["baselines"]["bag of words"]["mean"] == 0.75
    )  # tasty beats late in training, and in 3 of 4 rows
    # two agree against one, all, 2½ of 3, all: the most that a model can have of the votes
    assert found["vote_ceiling"] == pytest.approx((2 / 3 + 1 + 5 / 6 + 1) / 4)
    assert {group["name"] for group in found["by_domain"]} == {"food", "trip"}
    assert set(found["reliability"][0]) == {"confidence", "right", "comparisons"}
    assert "worst" not in found
    page = words_of(page_in(tmp_path))
    assert f"Right on {found['accuracy']['mean']:.1%} of 24 strict comparisons" in page
    assert "cake 1" in page and "is tasty ." in page  # the texts of a pair that it gets wrong
    assert "data 24 rows, not from a file" in page
    assert "what was read val: 24 rows" in page
    assert "settings center False" in page
    printed = capsys.readouterr().out
    assert "of 24 strict comparisons: bag of words" in printed
    assert f"report: {tmp_path / 'reward-report.html'}" in printed


def test_test_has_its_own_data_and_file(tmp_path: Path, module: RewardModule) -> None:
    data = PairDataModule(PAIRS, test_path=VOTES[:4], batch_size=8)
    trainer_in(tmp_path, MetricsFile("test.json"), RewardReport("test.json")).test(
        module, datamodule=data, verbose=False
    )
    assert json.loads((tmp_path / "test.json").read_text())["evaluation"]["comparisons"] == 4
    assert "what was read test: 4 rows" in words_of(page_in(tmp_path))


def test_fit_reports_once_at_its_end_what_was_validated_last(tmp_path: Path) -> None:
    module = RewardModule(make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER)
    written: list[int] = []

    class Watched(RewardReport):
        def _write(self, trainer: L.Trainer, *args: Any) -> Any:
            written.append(trainer.global_step)
            return super()._write(trainer, *args)

    trainer = trainer_in(tmp_path, MetricsFile(), Watched(), max_epochs=2, val_check_interval=2)
    trainer.fit(module, datamodule=PairDataModule(PAIRS, val_path=VOTES, batch_size=8))
    assert written == [6]
    assert "The evaluation is of step 5; the run went on to step 6." in words_of(page_in(tmp_path))
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["step"] == 6 and numbers["evaluation"]["comparisons"] == 24
    assert "weights step 6 of this run" in words_of(page_in(tmp_path))


def test_split_off_the_training_data_is_named(tmp_path: Path, module: RewardModule) -> None:
    data = PairDataModule(PAIRS, val_fraction=0.25)
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    page = words_of(page_in(tmp_path))
    assert (
        "data validation split of 24 rows, not from a file, val_fraction 0.25 what was read val: 6 rows"
        in page
    )


def test_rankings_have_their_measures(tmp_path: Path, module: RewardModule) -> None:
    ranked = [
        {"prompt": f"ranked {n}", "responses": [" tasty", " late", " bad"], "ranks": [1, 2, 3]}
        for n in range(3)
    ]
    data = RankingDataModule(ranked, val_path=ranked)
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    found = json.loads((tmp_path / "validate.json").read_text())["evaluation"]
    assert found["comparisons"] == 9
    assert found["kendall_tau"]["count"] == 3
    assert "3 of the prompts are in the training data too" in words_of(page_in(tmp_path))


def test_without_training_data_the_page_says_why_a_baseline_is_missing(
    tmp_path: Path, module: RewardModule
) -> None:
    trainer_in(tmp_path).validate(module, datamodule=PairDataModule(val_path=VOTES), verbose=False)
    assert set(json.loads((tmp_path / "validate.json").read_text())["evaluation"]["baselines"]) == {
        "longer wins"
    }
    assert "There is no bag of words to compare with: data.path, the training data, is not given." in page_in(
        tmp_path
    )


def test_training_file_that_is_gone_costs_the_baseline_alone(tmp_path: Path, module: RewardModule) -> None:
    data = PairDataModule(str(tmp_path / "gone.jsonl"), val_path=VOTES)
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    assert re.search("There is no bag of words to compare with: [^<]*gone.jsonl", page_in(tmp_path))


def test_loader_without_rows_gives_a_page_without_texts(tmp_path: Path, module: RewardModule) -> None:
    trees = random_trees(30)
    trainer_in(tmp_path).validate(
        module, dataloaders=TreeLoader(trees, batch_size=8, shuffle=False), verbose=False
    )
    page = words_of(page_in(tmp_path))
    assert "Their texts are not at hand" in page
    assert "people preferred · score" in page


def test_bag_of_words_learns_from_a_part_of_much_training_data(
    tmp_path: Path, module: RewardModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []

    def count(training: Any, development: Any, held_out: Any) -> torch.Tensor:
        learned.append(len(training) + len(development))
        return torch.zeros(len(held_out))

    monkeypatch.setattr(reward_report, "MOST_TRAINING_COMPARISONS", 12)
    monkeypatch.setattr(reward_report, "bag_of_words", count)
    data = PairDataModule(PAIRS, val_path=VOTES)
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    assert learned == [12]


@pytest.mark.parametrize("failing", ["evaluate", "write_beside_and_rename"])
def test_report_that_cannot_be_made_costs_a_warning(
    tmp_path: Path, module: RewardModule, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **named: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(reward_report, failing, stop)
    with pytest.warns(UserWarning, match=r"reward-report\.html was not written: OSError: disk full"):
        trainer_in(tmp_path).validate(module, datamodule=PairDataModule(val_path=VOTES), verbose=False)
    assert "val/rewards/accuracies" in json.loads((tmp_path / "validate.json").read_text())


@pytest.mark.parametrize("judged", ["no method", "nothing yet"])
def test_nothing_is_written_where_nothing_was_judged(tmp_path: Path, judged: str) -> None:
    module = StandInModule()
    if judged == "nothing yet":
        module.evaluation = lambda: None  # type: ignore[attr-defined]
    trainer_in(tmp_path).validate(module, datamodule=StandInData(), verbose=False)
    assert not (tmp_path / "reward-report.html").exists()
    assert "evaluation" not in json.loads((tmp_path / "validate.json").read_text())


def test_other_ranks_are_asked_and_write_nothing(tmp_path: Path, module: RewardModule) -> None:
    trainer = trainer_in(tmp_path)
    trainer.validate(module, datamodule=PairDataModule(val_path=VOTES), verbose=False)
    (tmp_path / "reward-report.html").unlink()
    asked: list[bool] = []
    judged = module.evaluation()
    watched: Any = type("Asked", (), {"evaluation": lambda self: asked.append(True) or judged})()
    stand_in: Any = type("OnRank1", (), {"is_global_zero": False, "default_root_dir": str(tmp_path)})()
    RewardReport().on_test_end(stand_in, watched)
    assert asked == [True]
    assert not (tmp_path / "reward-report.html").exists()


@pytest.mark.parametrize(
    ("command", "file"), [("fit", "metrics.json"), ("validate", "validate.json"), ("test", "test.json")]
)
def test_command_line_reports_into_the_file_that_it_has_written(command: str, file: str) -> None:
    settings = SimpleNamespace(fast_dev_run=False, enable_checkpointing=False)
    line: Any = SimpleNamespace(command=command)
    ours = CommandLine._our_callbacks(line, settings)
    kinds = [type(callback) for callback in ours]
    assert kinds.index(RewardReport) > kinds.index(MetricsFile)
    assert [callback.numbers.name for callback in ours if isinstance(callback, RewardReport)] == [file]


def test_numbers_that_are_not_finite_are_null_in_the_file() -> None:
    assert reward_report._finite({"a": float("nan"), "b": [1.5, {"c": float("inf")}]}) == {
        "a": None,
        "b": [1.5, {"c": None}],
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("val.jsonl", "val.jsonl"),
        (["a.jsonl", "b.jsonl"], "a.jsonl, b.jsonl"),
        ([{"path": "a.jsonl", "weight": 2}], "a.jsonl"),
        ([{"prompt": "secret", "chosen": "x", "rejected": "y"}], "1 rows, not from a file"),
    ],
)
def test_data_are_named_in_a_line(path: Any, name: str) -> None:
    assert reward_report._name(path) == name


def test_bag_of_words_does_not_learn_from_what_is_evaluated(
    tmp_path: Path, module: RewardModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[str] = []

    def note(training: Any, development: Any, held_out: Any) -> torch.Tensor:
        learned.extend(text for pair in (*training, *development) for text in pair[:2])
        return torch.zeros(len(held_out))

    monkeypatch.setattr(reward_report, "bag_of_words", note)
    twice = {"prompt": "twice", "chosen": " one .", "rejected": " two ."}
    turned = {"prompt": "twice", "chosen": " two .", "rejected": " one ."}
    other = {"prompt": "twice", "chosen": " one .", "rejected": " three ."}
    data = PairDataModule([*PAIRS, turned, other], val_path=[twice, *VOTES])
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    assert len(learned) == 2 * (len(PAIRS) + 1)
    assert " two ." not in learned and " three ." in learned
    assert "1 of the 26 training rows are evaluated too, prompt and responses" in words_of(page_in(tmp_path))


def test_without_a_training_row_of_its_own_there_is_no_bag_of_words(
    tmp_path: Path, module: RewardModule
) -> None:
    trainer_in(tmp_path).validate(module, datamodule=PairDataModule(PAIRS, val_path=PAIRS), verbose=False)
    page = words_of(page_in(tmp_path))
    assert "24 of the 24 training rows are evaluated too" in page
    assert "no bag of words to compare with: no training row is left that is not evaluated." in page
    assert set(json.loads((tmp_path / "validate.json").read_text())["evaluation"]["baselines"]) == {
        "longer wins"
    }


@pytest.mark.parametrize(("long", "warned"), [(1, False), (3, True)])
def test_cut_responses_are_a_caution_on_the_page_and_in_the_terminal(
    tmp_path: Path, module: RewardModule, capsys: pytest.CaptureFixture[str], long: int, warned: bool
) -> None:
    """Of 48 responses 1 or 3 are cut: 2 % or 6 %."""
    rows = [
        pair(k) if k >= long else {**pair(k), "chosen": " is tasty and fresh and kind and lovely ."}
        for k in range(24)
    ]
    data = PairDataModule(val_path=rows, max_response_tokens=20)
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    assert data.report["val"].truncated_responses == long
    said = "6% of the responses were cut to max_response_tokens: “longer wins”"
    page, printed = words_of(page_in(tmp_path)), capsys.readouterr().out
    assert (said in page, f"note: {said}" in printed) == (warned, warned)
    assert warned or "of the responses were cut" not in page + printed
    assert "note: There is no bag of words" in printed


def test_page_says_how_labels_were_made(tmp_path: Path, module: RewardModule) -> None:
    data = PairDataModule(PAIRS, val_path=VOTES, votes="majority")
    trainer_in(tmp_path).validate(module, datamodule=data, verbose=False)
    assert "labels are shares of votes, whatever is trained on" in words_of(page_in(tmp_path))

"""The configs of a comparison: read in full before anything is trained, and held to the same start and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.cli.compare import main
from lit_rlhf.cli.compare.cells import Cells
from lit_rlhf.cli.compare.equal_terms import check_same
from lit_rlhf.cli.compare.methods import flag_words, read_methods
from lit_rlhf.cli.compare.notes import notes_on
from lit_rlhf.cli.compare.settings_that_differ import differing
from lit_rlhf.cli.refusal import Refusal
from tests.cli.comparing import GOLD, comparison_of, write_config, write_rows


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dpo(name: str, **changes: Any) -> str:
    return write_config(Path(name), **changes)


def ppo(name: str, **changes: Any) -> str:
    return write_config(Path(name), "PPOModule", "PromptDataModule", **changes)


def refused(configs: list[str], capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    with pytest.raises(Refusal):
        check_same(read_methods(comparison_of(configs, Path("out"), **changes)))
    return capsys.readouterr().err


GIVEN: dict[str, Any] = {"model": "START", "data": "d.jsonl", "prompts": "p.jsonl", "reward": GOLD}


def test_what_is_given_goes_to_those_that_take_it() -> None:
    configs = [dpo("a.yaml"), ppo("b.yaml"), dpo("c.yaml", model={"loss": "ipo"})]
    first, second, _ = read_methods(comparison_of(configs, Path("out"), seconds=2.5, updates=None, **GIVEN))
    budget = ("--trainer.max_epochs=-1", "--trainer.max_steps=-1", "--trainer.callbacks+=TrainingBudget",
              "--trainer.callbacks.seconds=2.5", "--trainer.callbacks.clock=cpu",
              "--trainer.limit_val_batches=0")  # fmt: skip
    whole = ("--data.val_path=null", "--data.val_fraction=0")
    assert flag_words(first.flags) == ("--model.model=START", "--data.path=d.jsonl", *whole, *budget)
    assert flag_words(second.flags) == (
        "--model.model=START", "--data.path=p.jsonl", *whole, f"--model.reward={GOLD}", *budget,
    )  # fmt: skip
    assert (first.name, first.class_name, first.learns_from) == ("a", "DPOModule", "comparisons")
    assert (second.name, second.class_name, second.learns_from) == ("b", "PPOModule", "prompts")


def test_a_budget_of_updates_counts_the_seconds_too() -> None:
    (method,) = read_methods(comparison_of([dpo("a.yaml")], Path("out"), **GIVEN))
    assert "--trainer.max_steps=2" in flag_words(method.flags)
    assert method.flags["trainer.callbacks+"] == "TrainingBudget"
    assert "trainer.callbacks.seconds" not in method.flags


def test_two_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    said = refused([dpo("a.yaml"), dpo("other/a.yaml")], capsys, **GIVEN)
    assert "a.yaml and other/a.yaml are both called a" in said


def test_a_mistake_in_a_later_config_is_found_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = [dpo("a.yaml"), dpo("b.yaml", model={"los": "ipo"})]
    with pytest.raises(SystemExit) as stop:
        read_methods(comparison_of(configs, Path("out"), **GIVEN))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "'los'" in said and "in b.yaml; nothing has been trained yet" in said
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("first", "second", "given", "said"),
    [
        ({"model": {"model": "A"}}, {"model": {"model": "B"}}, {"data": "d"},
         "a.yaml and b.yaml are not compared on equal terms: model.model is A in the first, B in the second.\n"
         "Make them the same in the configs, or give --model START for all."),
        ({"data": {"path": "x"}}, {"data": {"path": "y"}}, {"model": "A"},
         "data.path is x in the first, y in the second"),
        ({"data": {"path": "x"}}, {"data": {"path": "x", "val_fraction": 0.1}}, {"model": "A"},
         "data.val_fraction is 0.0 in the first, 0.1 in the second"),
        ({}, {"data": {"max_response_tokens": 9}}, {"model": "A", "data": "d"},
         "data.max_response_tokens is 512 in the first, 9 in the second.\nMake them the same in the configs.\n"),
    ],
)  # fmt: skip
def test_what_differs_is_named(
    first: Any, second: Any, given: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused([dpo("a.yaml", **first), dpo("b.yaml", **second)], capsys, **given)


def test_two_rewards_are_refused_and_one_is_measured_with(capsys: pytest.CaptureFixture[str]) -> None:
    configs = [dpo("a.yaml"), *(ppo(f"{name}.yaml", model={"reward": name * 3 + ".f"}) for name in "bc")]
    given = {**GIVEN, "reward": None, "evaluation": "e.jsonl"}
    assert "model.reward is bbb.f in the first, ccc.f in the second" in refused(configs, capsys, **given)
    comparison = comparison_of(configs[:2], Path("out"), **given)
    cells = Cells(comparison, read_methods(comparison))
    assert (cells.reward, cells.reward_function, cells.reward_model) == ("bbb.f", "bbb.f", None)


def test_prompts_and_comparisons_need_not_be_the_same_file() -> None:
    configs = [dpo("a.yaml", data={"path": "x"}), ppo("b.yaml", data={"path": "y"})]
    check_same(read_methods(comparison_of(configs, Path("out"), model="A", reward=GOLD)))


def test_an_annotator_judges_in_the_rewards_place() -> None:
    online = write_config(
        Path("a.yaml"), "OnlineDPOModule", "PromptDataModule", model={"annotator": {"annotator": GOLD}}
    )
    comparison = comparison_of([online], Path("out"), **GIVEN)
    (method,) = methods = read_methods(comparison)
    assert "model.reward" not in method.flags
    assert "a: an annotator judges, so --reward is not given to it" in notes_on(comparison, methods)


def test_ends_of_the_configs_are_set_aside_and_said() -> None:
    configs = [
        dpo("a.yaml", trainer={"max_time": "00:01:00:00", "min_epochs": 3}),
        dpo("b.yaml", model={"seed": 5}),
    ]
    comparison = comparison_of(configs, Path("out"), **GIVEN)
    first, second = methods = read_methods(comparison)
    words = flag_words(first.flags)
    assert "--trainer.max_time=null" in words and "--trainer.min_epochs=null" in words
    assert second.seed_flags == ("seed_everything", "model.seed")
    said = notes_on(comparison, methods)
    assert said == [
        "a, b: what the config says of epochs, steps and time is set aside; 2 updates end each fit",
        "b: model.seed of the config gives way to --seeds",
    ]


def test_a_callback_that_waits_for_validation_has_it() -> None:
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/loss"},
    }
    config = dpo("a.yaml", trainer={"callbacks": [stopping]})
    comparison = comparison_of([config], Path("out"), **GIVEN)
    (method,) = methods = read_methods(comparison)
    assert "trainer.limit_val_batches" not in method.flags
    assert "a: EarlyStopping may end it before its budget is spent" in notes_on(comparison, methods)


def test_a_budget_of_its_own_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    budget = {"class_path": "TrainingBudget", "init_args": {"seconds": 5}}
    assert "has a budget of its own" in refused(
        [dpo("a.yaml", trainer={"callbacks": [budget]})], capsys, **GIVEN
    )


def test_settings_are_what_the_configs_say_and_what_differs() -> None:
    configs = [
        dpo("a.yaml", model={"beta": 0.3}),
        dpo("b.yaml", model={"loss": "ipo", "beta": 0.3, "label_smoothing": 0.0}),
        ppo("c.yaml", model={"kl_coef": 0.2}, data={"batch_size": 8}, trainer={"log_every_n_steps": 3}),
    ]
    found = differing(read_methods(comparison_of(configs, Path("out"), **GIVEN)))
    assert found["a"] == {"beta": 0.3, "data.batch_size": 4}
    assert found["b"] == {"beta": 0.3, "label_smoothing": 0.0, "data.batch_size": 4}
    assert found["c"] == {"kl_coef": 0.2, "max_new_tokens": 4, "data.batch_size": 8}


def test_settings_are_the_values_in_force_and_what_trains() -> None:
    """β of each loss where the config gives none; what DPO samples with trains nothing, and what PPO does is shown."""
    configs = [
        dpo("a.yaml", model={"max_new_tokens": 64, "temperature": 0.5}),
        dpo("b.yaml", model={"loss": "simpo"}),
        dpo("c.yaml", model={"loss": "orpo"}),
        ppo("d.yaml"),
    ]
    a, b, c, d = differing(read_methods(comparison_of(configs, Path("out"), **GIVEN))).values()
    assert (a["beta"], a["margin"], b["beta"], b["margin"]) == (0.1, 0.0, 2.0, 1.0)
    assert "beta" not in c and d["max_new_tokens"] == 4
    assert not {"max_new_tokens", "temperature"} & {*a, *b, *c}
    more = [dpo("e.yaml", model={"loss": "cpo"}), dpo("f.yaml", model={"sft_coef": 0.5, "margin": 0.3})]
    e, f = differing(read_methods(comparison_of(more, Path("out"), **GIVEN))).values()
    assert (e["sft_coef"], f["sft_coef"], f["margin"]) == (1.0, 0.5, 0.3)


def test_the_steps_of_a_cell() -> None:
    configs = [dpo("a.yaml"), dpo("b.yaml")]
    Path("RM").mkdir()
    settings = {
        **GIVEN,
        "reward": "RM",
        "val": "v.jsonl",
        "evaluation": "e.jsonl",
        "gold": "g.f",
        "seeds": (3, 1),
    }
    comparison = comparison_of(configs, Path("out"), **settings)
    cells = Cells(comparison, read_methods(comparison))
    assert [cell.folder for cell in cells.cells] == ["a/seed-3", "b/seed-3", "a/seed-1", "b/seed-1"]
    fit, answer, measure, score, agree = (step.argv for step in cells.steps_of(cells.cells[0]))
    assert fit[-3:] == ("--seed_everything=3", "--out", "out/a/seed-3/run")
    same = "-k 1 --limit 256 --temperature 1 --seed 0 --max-new-tokens 4"
    assert " ".join(answer) == (
        f"sample out/a/seed-3/run/export --prompts e.jsonl {same} --out out/a/seed-3/responses.jsonl"
    )
    assert " ".join(measure[2:]) == (
        "--responses out/a/seed-3/responses.jsonl --policy out/a/seed-3/run/export --reference START --gold g.f "
        "--out out/a/seed-3/measures.json"
    )
    assert " ".join(score) == "score RM out/a/seed-3/responses.jsonl --out out/a/seed-3/scored.jsonl"
    assert " ".join(agree) == (
        "score out/a/seed-3/run/export v.jsonl --reference START --out out/a/seed-3/comparisons.jsonl"
    )
    start = [" ".join(step.argv) for step in cells.steps_of_start()]
    assert start[0] == f"sample START --prompts e.jsonl {same} --out out/start/responses.jsonl"
    assert "--reference" not in start[1] and len(start) == 3


@pytest.mark.parametrize(
    ("arguments", "val", "said"),
    [
        ({"max_response_tokens": 9}, [{"prompt": "x", "chosen": "a", "rejected": "b"}], "not compared on equal terms"),
        ({}, [{"prompt": "x", "chosen": "a"}], "v.jsonl:1"),
    ],
)  # fmt: skip
def test_the_command_looks_before_it_trains(
    arguments: Any, val: list[Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [dpo("a.yaml"), dpo("b.yaml", data=arguments)]
    files = ["--data", write_rows(Path("d.jsonl"), val), "--val", write_rows(Path("v.jsonl"), val)]
    with pytest.raises(SystemExit):
        main(["--configs", *configs, "--model", "START", *files, "--updates", "1", "--out", "out"])
    assert said in capsys.readouterr().err
    assert [file.name for file in Path("out").iterdir()] == ["comparison.lock"]

"""The config of a loop: every field documented, everything unknown or impossible refused by its dotted name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.loop import help_text, parse
from lit_rlhf.cli.loop.describing import describe_fields
from lit_rlhf.cli.loop.fits import class_of, config_file, fit_command
from lit_rlhf.cli.loop.reading import read_settings
from lit_rlhf.cli.loop.settings import Fit, Program
from lit_rlhf.cli.refusal import Refusal

LEAST: dict[str, Any] = {"model": "m", "prompts": "p.jsonl", "policy": {"config": "configs/dpo.yaml"}}


def written(folder: Path, content: Any) -> Path:
    file = folder / "loop.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_least_config_has_the_defaults(tmp_path: Path) -> None:
    loop = read_settings(written(tmp_path, LEAST), [])
    assert (loop.rounds, loop.responses, loop.overlap, loop.annotators) == (3, 2, 1, "people")
    assert (
        loop.reward == Fit("configs/reward.yaml") and loop.policy.start == "first" and loop.evaluation is None
    )


def test_values_become_what_their_fields_are(tmp_path: Path) -> None:
    content = {
        **LEAST,
        "prompts": ["a.jsonl", "b.jsonl"],
        "annotators": [{"name": "ann", "annotator": "my.rule", "temperature": 1}],
        "reward": None,
        "policy": {"config": "dpo", "set": {"model.beta": 0.2}},
    }
    loop = read_settings(written(tmp_path, content), [])
    assert loop.prompts == ("a.jsonl", "b.jsonl") and loop.reward is None
    assert loop.annotators == (Program("ann", "my.rule", temperature=1.0),)
    assert loop.policy.set == {"model.beta": 0.2}


def test_flags_win_over_the_config(tmp_path: Path) -> None:
    flags = [
        ("rounds", "5"),
        ("policy.set.model.beta", "0.3"),
        ("sampling.temperature", "0.7"),
        ("people.wait", "false"),
    ]
    loop = read_settings(written(tmp_path, {**LEAST, "rounds": 2}), flags)
    assert (loop.rounds, loop.policy.set, loop.sampling) == (5, {"model.beta": 0.3}, {"temperature": 0.7})
    assert loop.policy.config == "configs/dpo.yaml" and loop.people.wait is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"prompt_per_round": 5},
            "prompt_per_round: there is no such field. Did you mean 'prompts_per_round'?",
        ),
        (
            {"policy": {"config": "c", "strat": "first"}},
            "policy.strat: there is no such field. Did you mean 'start'?",
        ),
        ({"policy": {}}, "policy.config: is missing."),
        (
            {"policy": {"config": "c", "start": "prev"}},
            "policy.start: expected first or previous, found 'prev'",
        ),
        ({"policy": "dpo.yaml"}, "policy: expected fields (config, set, start, labels), found 'dpo.yaml'"),
        ({"rounds": "three"}, "rounds: expected a whole number, found 'three'"),
        ({"rounds": True}, "rounds: expected a whole number, found True"),
        ({"rounds": 0}, "rounds: expected 1 or more, found 0"),
        ({"responses": 10}, "responses: expected 2 to 9, found 10"),
        ({"held_out": 1.0}, "held_out: expected 0 to less than 1, found 1.0"),
        ({"annotators": "persons"}, "annotators: expected people or a list of fields"),
        ({"annotators": [{"name": "a"}]}, "annotators[0].annotator: is missing."),
        (
            {"annotators": [{"name": "a", "annotator": "r", "flip": 0.1}]},
            "annotators[0].flip: there is no such field. Did you mean 'flips'?",
        ),
        (
            {"annotators": [{"name": "a", "annotator": "r"}, {"name": "a", "annotator": "r"}]},
            "annotators: expected a name of its own for each",
        ),
        (
            {"annotators": [{"name": n, "annotator": "r"} for n in "abc"], "overlap": 2},
            "overlap: expected 1, or all 3 programs, found 2",
        ),
        ({"export": {"votes": "min-agree"}}, "export.min_agree: goes with"),
        ({"export": {"min_agree": 2}}, "export.min_agree: goes with"),
        ({"gold": "my.gold"}, "gold: needs `evaluation`"),
        ({"evaluation": {"prompts": "e", "judged": -1}}, "evaluation.judged: expected 0 or more, found -1"),
        ({"sampling": {"seed": 3}}, "sampling.seed: the loop decides it"),
        ({"sampling": ["seed"]}, "sampling: expected names with values"),
        (
            {"policy": {"config": "c", "set": {"model.reference": "r"}}},
            "policy.set.model.reference: the loop decides",
        ),
        (
            {"reward": {"config": "c", "set": {"data.val_path": "r"}}},
            "reward.set.data.val_path: the loop decides it",
        ),
        ({"people": {"serve": {"db": "x"}}}, "people.serve.db: the loop decides it"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(
    change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refusal):
        read_settings(written(tmp_path, {**LEAST, **change}), [])
    assert f"error: {tmp_path}/loop.yaml: {said}" in capsys.readouterr().err


def test_files_that_are_no_config_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refusal):
        read_settings(tmp_path / "none.yaml", [])
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(Refusal):
        read_settings(tmp_path / "list.yaml", [])
    assert "expected keys" in capsys.readouterr().err


def test_help_says_every_field_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, said in describe_fields() if len(said) > 10]
    assert names == [name for name, _ in describe_fields()]
    assert {
        "model",
        "annotators[].flips",
        "policy.set",
        "policy.start",
        "evaluation.judged",
        "people.wait",
    } <= set(names)
    text = help_text()
    assert all(f"  {name}\n" in text for name in names)
    assert max(map(len, text.splitlines())) <= 120


def test_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--config", "a.yaml", "--out=b", "--rounds", "4"]) == (
        Path("a.yaml"),
        Path("b"),
        [("rounds", "4")],
    )
    for argv, said in (
        ([], "no --config"),
        (["a.yaml"], "expected an option"),
        (["--config"], "expected a value"),
    ):
        with pytest.raises(Refusal):
            parse(argv)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["loop", "loop-demo"])
def test_the_shipped_ones_can_be_read(name: str) -> None:
    file = shipped()[name]
    first, second = file.read_text().splitlines()[:2]
    words = first.removeprefix("# ").split()
    assert words[:4] == ["lit-rlhf", "loop", "--config", f"configs/{name}.yaml"] and len(second) > 20
    config, _, flags = parse([str(file) if word == words[3] else word for word in words[2:]])
    loop = read_settings(config, flags)
    for part, fit in (("reward", loop.reward), ("policy", loop.policy)):
        assert fit is not None and config_file(fit, part).is_file()
        assert class_of(fit, "data", part) in ("PairDataModule", "PromptDataModule")


def test_a_fits_flags_are_the_loops_then_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    fit = Fit("dpo", {"model.beta": 0.2, "trainer.enable_progress_bar": False})
    words = fit_command(
        fit, "policy", Path("r/policy"), {"model.model": "m", "data.path": ["a", "b"]}, "RankingDataModule"
    )
    assert words[:2] == ("fit", "--config") and words[2].endswith("configs/dpo.yaml")
    assert words[3:] == (
        *(
            "--data",
            "RankingDataModule",
            "--model.model",
            "m",
            "--data.path",
            '["a", "b"]',
            "--model.beta",
            "0.2",
        ),
        *("--trainer.enable_progress_bar", "false", "--out", "r/policy"),
    )
    with pytest.raises(Refusal):
        config_file(Fit("configs/dpoo.yaml"), "policy")
    assert "policy.config configs/dpoo.yaml: no such file" in capsys.readouterr().err

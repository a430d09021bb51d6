"""The shipped configs: each parses, is complete, and trains a tiny model."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.given_files import option_values
from lit_rlhf.cli.main import main

WORDS = ["soup", "cake", "train", "hotel", "lamp", "tasty", "fresh", "late"]
QUICK = [
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
    "false", "--trainer.log_every_n_steps", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def data(phase: str) -> str:
    if phase == "pretrain":
        return write(
            "text.jsonl", [{"text": f"the {word} is {other} ."} for word in WORDS for other in WORDS[:3]]
        )
    rows = {
        "sft": [{"prompt": f"the {word} is", "response": " tasty"} for word in WORDS * 3],
        "reward": [
            {"prompt": f"{word} {i}", "chosen": " tasty", "rejected": " late"}
            for word in WORDS
            for i in range(3)
        ],
        "ppo": [{"prompt": f"the {word} {i}"} for word in WORDS for i in range(3)],
    }
    return write(f"{phase}.jsonl", rows[{"dpo": "reward"}.get(phase, phase)])


def count_letters(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """A reward: a tenth for each letter t."""
    return [text.count("t") / 10 for text in completions]


def test_the_configs_are_these() -> None:
    assert list(shipped()) == ["dpo", "grpo", "ppo", "pretrain", "reward", "rloo", "sft"]


def test_the_wheel_takes_every_package_and_the_configs() -> None:
    """The packages are listed by name in pyproject.toml, because the configs come from outside the package."""
    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = (root / "lit_rlhf").rglob("__init__.py")
    packages = {".".join(init.parent.relative_to(root).parts) for init in inits}
    assert set(settings["packages"]) == packages | {"lit_rlhf.configs"}
    assert settings["package-dir"] == {"lit_rlhf.configs": "configs"}
    assert settings["package-data"]["lit_rlhf.configs"] == ["*.yaml"]


@pytest.mark.parametrize("name", ["dpo", "grpo", "ppo", "pretrain", "reward", "rloo", "sft"])
def test_the_first_comment_is_the_launch_command(name: str) -> None:
    first, second = shipped()[name].read_text().splitlines()[:2]
    words = first.removeprefix("# ").split()
    assert words[:4] == ["lit-rlhf", "fit", "--config", f"configs/{name}.yaml"]
    options = dict(option_values(words))
    assert {"--model.model", "--data.path", "--out"} <= set(options)
    assert second.startswith("# ") and len(second) > 20


@pytest.mark.parametrize("name", ["dpo", "grpo", "ppo", "pretrain", "reward", "rloo", "sft"])
def test_every_field_is_one_that_the_classes_take(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser refuses unknown fields and wrong types; what it prints has the config's own values."""
    reward = ["--model.reward", "r"] if name in ("grpo", "ppo", "rloo") else []
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "fit",
                "--config",
                str(shipped()[name]),
                "--model.model",
                "m",
                "--data.path",
                "d",
                *reward,
                "--print_config",
            ]
        )
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(shipped()[name].read_text())
    assert printed["model"]["init_args"]["optimizer"] == printed["model"]["init_args"]["optimizer"] | {
        "class_path": "torch.optim.AdamW"
    }
    assert (
        printed["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        == (given["model"]["init_args"]["optimizer"]["init_args"]["lr"])
    )
    assert printed["trainer"]["num_sanity_val_steps"] == 0
    assert isinstance(given["seed_everything"], int)


@pytest.mark.parametrize("phase", ["pretrain", "sft", "dpo"])
def test_a_policy_phase_trains_and_exports(phase: str, tiny_model_dir: Path) -> None:
    config = [
        "--config",
        str(shipped()[phase]),
        "--model.model",
        str(tiny_model_dir),
        "--data.path",
        data(phase),
    ]
    short = ["--model.max_new_tokens", "4", "--trainer.val_check_interval", "1.0"]
    main(["fit", *config, *short, *QUICK, "--out", "run"])
    AutoModelForCausalLM.from_pretrained("run/export")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert {"train/loss", "val/loss", "perf/tokens_per_second"} <= set(metrics)


def test_reward_then_ppo_each_from_the_export_before(tiny_model_dir: Path) -> None:
    sft = str(tiny_model_dir)
    main(["fit", "--config", str(shipped()["reward"]), "--model.model", sft, "--data.path", data("reward"), *QUICK,
          "--out", "reward"])  # fmt: skip
    assert AutoModelForSequenceClassification.from_pretrained("reward/export").config.num_labels == 1
    ppo = ["--config", str(shipped()["ppo"]), "--model.model", sft, "--data.path", data("ppo"), *QUICK,
           "--model.max_new_tokens", "4", "--data.batch_size", "8", "--model.minibatch_size", "8",
           "--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"]  # fmt: skip
    main(["fit", *ppo, "--model.reward", "reward/export", "--out", "ppo"])
    AutoModelForCausalLM.from_pretrained("ppo/export")
    main(["export", "ppo/checkpoints/last.ckpt", "again"])
    assert Path("again/model.safetensors").read_bytes() == Path("ppo/export/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["grpo", "ppo", "rloo"])
def test_a_python_function_is_a_reward(name: str, tiny_model_dir: Path) -> None:
    main(["fit", "--config", str(shipped()[name]), "--model.model", str(tiny_model_dir), "--data.path", data("ppo"),
          *QUICK, "--model.reward", "tests.test_configs.count_letters", "--model.max_new_tokens", "4",
          "--model.samples_per_prompt", "2", "--data.batch_size", "8", "--model.minibatch_size", "8",
          "--trainer.max_epochs", "1", "--out", "r"])  # fmt: skip
    assert json.loads(Path("r/metrics.json").read_text())["objective/scores"] is not None


def test_predict_writes_samples_and_scores(tiny_model_dir: Path) -> None:
    sft = [
        "--config",
        str(shipped()["sft"]),
        "--model.model",
        str(tiny_model_dir),
        "--data.path",
        data("sft"),
    ]
    main(
        [
            "predict",
            *sft,
            *QUICK,
            "--data.predict_path",
            data("ppo"),
            "--model.max_new_tokens",
            "3",
            "--out",
            "p",
        ]
    )
    lines = [json.loads(line) for line in Path("p/predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    assert lines[0]["prompt"] == "the soup 0" and len(lines[0]["responses"]) == 1


@pytest.mark.parametrize("phase", ["sft", "reward", "dpo", "ppo"])
def test_stopped_and_continued_is_the_same_to_the_bit(
    phase: str, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes in the second of the run's steps; the run that goes on ends where the whole one does."""
    import os
    import signal

    import lit_rlhf

    name = {"sft": "SFTModule", "reward": "RewardModule", "dpo": "DPOModule", "ppo": "PPOModule"}[phase]
    module_class = getattr(lit_rlhf, name)
    run = ["fit", "--config", str(shipped()[phase]), "--model.model", str(tiny_model_dir), "--data.path", data(phase),
           *QUICK, "--data.batch_size", "8"]  # fmt: skip
    if phase == "ppo":
        run += ["--model.reward", "tests.test_configs.count_letters", "--model.max_new_tokens", "4",
                "--model.minibatch_size", "4", "--trainer.max_epochs", "2"]  # fmt: skip
    main([*run, "--out", "whole"])

    step = module_class.training_step
    with monkeypatch.context() as patch:

        def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.trainer.fit_loop.total_batch_idx == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, batch, batch_idx)

        patch.setattr(module_class, "training_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            main([*run, "--out", "parts"])
    assert stop.value.code == 130
    assert not Path("parts/export").exists()
    main([*run, "--out", "parts", "--ckpt_path", "last"])
    assert (
        Path("parts/export/model.safetensors").read_bytes()
        == Path("whole/export/model.safetensors").read_bytes()
    )

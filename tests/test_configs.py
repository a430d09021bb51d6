"""The shipped configs: each parses, is complete, and trains a tiny model."""

from __future__ import annotations

import contextlib
import io
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
from tests.config_plans import MODELS, model_folder, new_plan, planned, written_plan

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "strategy-ddp": ("ddp", {}),
    "strategy-fsdp2": ("FSDP2Strategy", {"tensor_parallel_size": 1, "reshard_after_forward": True}),
    "strategy-fsdp1": ("FSDPStrategy", {"sharding_strategy": "FULL_SHARD"}),
    "strategy-deepspeed-2": ("DeepSpeedStrategy", {"stage": 2}),
    "strategy-deepspeed-3": ("DeepSpeedStrategy", {"stage": 3}),
}
LOOPS = {"loop", "loop-demo"}
"""Those of `lit-rlhf loop`, which tests/cli/test_loop_settings.py reads."""
SAMPLING = ["expert-iteration", "grpo", "online-dpo", "ppo", "rloo"]
"""Those whose policy draws what it learns from, and has it scored."""
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
    kind = "ppo" if phase in SAMPLING else {"dpo": "reward"}.get(phase, phase)
    return write(f"{phase}.jsonl", rows[kind])


def count_letters(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """A reward: a tenth for each letter t."""
    return [text.count("t") / 10 for text in completions]


def test_the_configs_are_these() -> None:
    small = {"dpo", "expert-iteration", "grpo", "online-dpo", "ppo", "pretrain", "reward", "rloo", "sft"}
    assert set(shipped()) == {*small, *STRATEGIES, *planned(), *LOOPS}
    large = [name.split("-") for name in planned()]
    for phase in ("sft", "reward", "dpo", "ppo"):  # on one GPU, on eight, and on two nodes or more
        gpus = {int(words[-1].removesuffix("gpu")) for words in large if phase in words}
        assert {1, 8} < gpus and max(gpus) >= 16
    assert {words[1] for words in large} == {"1b", "8b", "70b"}


def test_the_wheel_takes_every_package_and_the_configs() -> None:
    """The packages are listed by name in pyproject.toml, because the configs come from outside the package."""
    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = (root / "lit_rlhf").rglob("__init__.py")
    packages = {".".join(init.parent.relative_to(root).parts) for init in inits}
    assert set(settings["packages"]) == packages | {"lit_rlhf.configs"}
    assert settings["package-dir"] == {"lit_rlhf.configs": "configs"}
    assert settings["package-data"]["lit_rlhf.configs"] == ["*.yaml"]


@pytest.mark.parametrize("name", [name for name in shipped() if name not in LOOPS])
def test_the_first_comment_is_the_launch_command(name: str) -> None:
    first, second = shipped()[name].read_text().splitlines()[:2]
    words = first.removeprefix("# ").split()
    if yaml.safe_load(shipped()[name].read_text())["trainer"].get("num_nodes", 1) > 1:
        assert words.pop(0) == "srun"  # several nodes are started from outside
    under = ["--config", "configs/sft.yaml"] if name in STRATEGIES else []
    assert words[: 4 + len(under)] == ["lit-rlhf", "fit", *under, "--config", f"configs/{name}.yaml"]
    options = dict(option_values(words))
    assert {"--model.model", "--data.path", "--out"} <= set(options)
    assert second.startswith("# ") and len(second) > 20


@pytest.mark.parametrize("name", ["dpo", "pretrain", "reward", "sft", *SAMPLING])
def test_every_field_is_one_that_the_classes_take(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser refuses unknown fields and wrong types; what it prints has the config's own values."""
    reward = ["--model.reward", "r"] if name in SAMPLING else []
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


@pytest.mark.parametrize("name", planned())
def test_every_field_of_a_large_one_is_one_that_the_classes_take(name: str) -> None:
    settings = parsed("--config", shipped()[name], "--model.model", "m", "--data.path", "d", *reward_of(name))
    ranks = settings["trainer"]["devices"] * settings["trainer"]["num_nodes"]
    assert name.endswith(f"-{ranks}gpu")
    strategy = settings["trainer"]["strategy"]
    named = strategy if isinstance(strategy, str) else strategy["class_path"]
    assert named in (("fsdp2", "lit_rlhf.FSDP2Strategy") if ranks > 1 else ("auto",))


@pytest.mark.parametrize("name", planned())
def test_a_large_one_fits_as_its_comments_say(name: str, tmp_path: Path) -> None:
    """What `lit-rlhf plan` says now is what stands there; `python -m tests.config_plans` writes it anew."""
    for model in MODELS:
        model_folder(tmp_path, model)
    words, lines = written_plan(name)
    assert words[words.index("--config") + 1] == f"configs/{name}.yaml"
    assert "--memory" in words
    said, code = new_plan(words)
    assert said == lines
    assert code == 0
    assert any("fits into" in line for line in said)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "ppo"])
def test_a_strategy_goes_beside_every_phase(strategy: str, name: str) -> None:
    """They parse everywhere; FSDP1 and DeepSpeed are built on a GPU alone."""
    beside = ["--config", shipped()[name], "--config", shipped()[strategy]]
    settings = parsed(*beside, "--model.model", "m", "--data.path", "d", *reward_of(name))["trainer"]
    given = settings["strategy"]
    class_name, arguments = STRATEGIES[strategy]
    assert (given if isinstance(given, str) else given["class_path"].rsplit(".", 1)[-1]) == class_name
    if arguments:
        assert given["init_args"] == given["init_args"] | arguments
    assert settings["num_sanity_val_steps"] == 0, "the phase's own settings stay"


def reward_of(name: str) -> list[str]:
    return ["--model.reward", "r"] if "ppo" in name else []


def parsed(*words: object) -> dict[str, Any]:
    """What the parser makes of the arguments of a fit."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as stop:
        main(["fit", *map(str, words), "--print_config"])
    assert stop.value.code == 0
    return dict(yaml.safe_load(said.getvalue()))


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


@pytest.mark.parametrize("name", SAMPLING)
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


@pytest.mark.parametrize("phase", ["sft", "reward", "dpo", "ppo", "online-dpo", "expert-iteration"])
def test_stopped_and_continued_is_the_same_to_the_bit(
    phase: str, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes in the second of the run's steps; the run that goes on ends where the whole one does."""
    import os
    import signal

    import lit_rlhf

    module_class = getattr(lit_rlhf, yaml.safe_load(shipped()[phase].read_text())["model"]["class_path"])
    run = ["fit", "--config", str(shipped()[phase]), "--model.model", str(tiny_model_dir), "--data.path", data(phase),
           *QUICK, "--data.batch_size", "8"]  # fmt: skip
    if phase in SAMPLING:
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

"""LoRA from the command line: given in a file or by flags, printed, run again, stopped, continued, exported."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_rlhf import DPOModule
from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main

WORDS = ["soup", "cake", "train", "hotel", "lamp", "tasty", "fresh", "late"]
QUICK = [
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
    "false", "--trainer.log_every_n_steps", "1", "--data.batch_size", "8",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [
        {"prompt": f"{word} {i}", "chosen": " tasty", "rejected": " late"} for word in WORDS for i in range(3)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    demos = [{"prompt": row["prompt"], "response": row["chosen"]} for row in pairs]
    Path("demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demos))


def fit(phase: str, model: Path | str, *more: str) -> list[str]:
    data = "demos.jsonl" if phase == "sft" else "pairs.jsonl"
    return [
        "fit",
        "--config",
        str(shipped()[phase]),
        "--model.model",
        str(model),
        "--data.path",
        data,
        *QUICK,
        *more,
    ]


def weights(folder: str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


ADAPTER_OFF = ["--model.reference_storage", "adapter_off"]


def test_from_phase_to_phase(tiny_model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(fit("sft", tiny_model_dir, "--out", "sft", "--model.lora", "{r: 4, lora_dropout: 0.1}"))
    assert "LoRA r=4 on q_proj, v_proj: " in caplog.text
    assert "Exported to sft/export, merged; the adapter alone to sft/export-adapter" in caplog.text
    main(fit("dpo", "sft/export", "--out", "dpo", "--model.lora.target_modules", "all-linear", *ADAPTER_OFF))
    main(fit("reward", "sft/export", "--out", "reward", "--model.lora.r", "2"))
    for run, base in (("sft", str(tiny_model_dir)), ("dpo", "sft/export"), ("reward", "sft/export")):
        stored = json.loads(Path(run, "export-adapter", "adapter_config.json").read_text())
        assert stored["base_model_name_or_path"] == base
        assert not Path(run, "export", "adapter_config.json").exists()


def test_what_is_printed_runs_again(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The config says rank 8; the flags change it and add to it."""
    config = yaml.safe_load(shipped()["dpo"].read_text())
    assert config["model"]["init_args"]["lora"] is None
    config["model"]["init_args"]["lora"] = {"r": 8, "use_rslora": True}
    Path("lora.yaml").write_text(yaml.safe_dump(config))
    command = ["fit", "--config", "lora.yaml", *fit("dpo", tiny_model_dir)[3:], *ADAPTER_OFF,
               "--model.lora.r", "2", "--model.lora.target_modules", "[q_proj, k_proj]"]  # fmt: skip
    with pytest.raises(SystemExit):
        main([*command, "--print_config"])
    printed = capsys.readouterr().out
    given = {"r": 2, "use_rslora": True, "target_modules": ["q_proj", "k_proj"]}
    assert yaml.safe_load(printed)["model"]["init_args"]["lora"] == given
    Path("printed.yaml").write_text(printed)
    main([*command, "--out", "first"])
    main(["fit", "--config", "printed.yaml", "--out", "second"])
    assert weights("first/export") == weights("second/export")
    assert yaml.safe_load(Path("second/config.yaml").read_text())["model"]["init_args"]["lora"] == given


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.lora.rank_patern", "4"], "Did you mean 'rank_pattern'?"),
        (["--model.lora.r", "many"], "model.lora.r: expected a whole number of at least 1, found 'many'"),
        (["--model.lora.target_modules", "x_proj"], "target_modules takes a list of these"),
        (["--model.lora.lora_dropout", "0.1"], "model.lora.lora_dropout: expected 0, since dropout is off"),
        (ADAPTER_OFF, "model.reference_storage: adapter_off needs model.lora"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_by_its_key(
    flags: list[str], message: str, tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(fit("dpo", tiny_model_dir, "--out", "run", *flags))
    assert stop.value.code != 0
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("storage", ["adapter_off", "precomputed"])
def test_stopped_continued_and_exported_again_to_the_bit(
    storage: str, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("dpo", tiny_model_dir, "--model.lora.r", "4", "--model.reference_storage", storage)
    main([*run, "--out", "whole"])
    step = DPOModule.training_step
    with monkeypatch.context() as patch:

        def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.trainer.fit_loop.total_batch_idx == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, batch, batch_idx)

        patch.setattr(DPOModule, "training_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            main([*run, "--out", "parts"])
    assert stop.value.code == 130
    main([*run, "--out", "parts", "--ckpt_path", "last"])
    assert weights("parts/export") == weights("whole/export")

    main(["export", "whole/checkpoints/last.ckpt", "again"])
    assert weights("again") == weights("whole/export")
    adapter = "adapter_model.safetensors"
    assert Path("again-adapter", adapter).read_bytes() == Path("whole/export-adapter", adapter).read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["export", "whole/checkpoints/last.ckpt", "new", "--model", "again"])
    assert "trained on another model than this one" in capsys.readouterr().err
    Path("third-adapter").mkdir()
    with pytest.raises(SystemExit):
        main(["export", "whole/checkpoints/last.ckpt", "third"])
    assert "third-adapter is there already" in capsys.readouterr().err

"""``fit`` and its siblings over a stand-in module: the run folder, resuming, refusals, errors."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_rlhf.callbacks.staged_checkpoint import StagedCheckpoint
from lit_rlhf.cli.checkpoints import AtomicCheckpointIO, steps_taken
from lit_rlhf.cli.main import main
from tests.cli.stand_in import StandInModule

BASE = [
    "--model", "tests.cli.stand_in.StandInModule", "--data", "tests.cli.stand_in.StandInData",
    "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "1",
    "--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == code
    return "\n".join(line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set"))


def exported(run: str) -> Any:
    return json.loads((Path(run) / "export" / "weights.json").read_text())


def scalars(run: str, name: str) -> list[int]:
    """The steps at which `name` stands in the run's TensorBoard, as a reader sees them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(run) / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_a_fit_fills_its_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--out", "r", "--model.width", "4"])
    assert capsys.readouterr().out.startswith("run folder: r\n")
    assert sorted(entry.name for entry in Path("r").iterdir()) == [
        "checkpoints", "config.yaml", "export", "metrics.json", "tensorboard",
    ]  # fmt: skip
    assert sorted(entry.name for entry in Path("r/checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert steps_taken("r/checkpoints/previous.ckpt") == 6
    weights = torch.load("r/checkpoints/last.ckpt", weights_only=True)["state_dict"]["linear.weight"]
    assert exported("r")["linear.weight"] == weights.tolist()
    assert json.loads(Path("r/metrics.json").read_text())["step"] == 12
    assert scalars("r", "train/loss") == list(range(12))
    assert not Path("lightning_logs").exists()


def test_the_default_run_folder_has_the_phase_and_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--trainer.max_epochs", "1"])
    main(["fit", *BASE, "--trainer.max_epochs", "1"])
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("standin-20") for folder in folders)


def test_the_saved_config_runs_unchanged_and_afresh() -> None:
    main(["fit", *BASE, "--out", "r", "--model.optimizer.lr", "0.1"])
    saved = yaml.safe_load(Path("r/config.yaml").read_text())
    assert saved["out"] is None and saved["ckpt_path"] is None
    assert saved["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.1
    main(["fit", "--config", "r/config.yaml", "--out", "again"])
    main(
        ["validate", "--config", "r/config.yaml", "--ckpt_path", "r/checkpoints/last.ckpt", "--out", "looked"]
    )
    assert exported("again") == exported("r")


def test_printed_config_runs_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *BASE, "--print_config"])
    assert stop.value.code == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    main(["fit", "--config", "printed.yaml", "--out", "printed"])
    main(["fit", *BASE, "--out", "flags"])
    assert exported("printed") == exported("flags")


def test_a_later_config_and_flags_win(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("model: {class_path: StandInModule, init_args: {width: 7, signals: 8}}")
    Path("b.yaml").write_text("model: {init_args: {width: 6, signals: 9}}")
    with pytest.raises(SystemExit):
        main(
            [
                "--config",
                "a.yaml",
                "--config",
                "b.yaml",
                "fit",
                *BASE[2:],
                "--model.width",
                "5",
                "--print_config",
            ]
        )
    arguments = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert (arguments["width"], arguments["signals"]) == (5, 9)


def test_an_earlier_run_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--out", "r"])
    before = Path("r/checkpoints/last.ckpt").read_bytes()
    capsys.readouterr()
    said = refusal(capsys, "fit", *BASE, "--out", "r")
    assert said == (
        "error: r holds the checkpoints of an earlier run (last.ckpt).\n"
        "Continue it with --ckpt_path last, or give another folder with --out."
    )
    assert Path("r/checkpoints/last.ckpt").read_bytes() == before


def test_continuing_equals_going_on_and_the_curves_join() -> None:
    main(["fit", *BASE, "--out", "whole", "--trainer.max_epochs", "4"])
    main(["fit", *BASE, "--out", "r"])
    main(["fit", *BASE, "--out", "r", "--ckpt_path", "last", "--trainer.max_epochs", "4"])
    assert exported("r") == exported("whole")
    assert scalars("r", "train/loss") == list(range(24))


def test_a_finished_run_that_is_continued_gets_the_files_it_lacks() -> None:
    """Killed between its last checkpoint and them; the last epoch's own numbers are in its checkpoint."""
    main(["fit", *BASE, "--out", "r"])
    written = Path("r/metrics.json").read_text()
    weights = exported("r")
    shutil.rmtree("r/export")
    Path("r/metrics.json").unlink()
    main(["fit", *BASE, "--out", "r", "--ckpt_path", "last"])
    assert exported("r") == weights
    assert Path("r/metrics.json").read_text() == written
    assert json.loads(written)["train/at_epoch_end"] == 2.0


def test_the_config_wins_over_the_checkpoint() -> None:
    main(["fit", *BASE, "--out", "r", "--model.signals", "1"])
    main(
        [
            "fit",
            *BASE,
            "--out",
            "r",
            "--ckpt_path",
            "last",
            "--model.signals",
            "5",
            "--trainer.max_epochs",
            "3",
        ]
    )
    assert yaml.safe_load(Path("r/config.yaml").read_text())["model"]["init_args"]["signals"] == 5
    assert yaml.safe_load(Path("r/tensorboard/hparams.yaml").read_text())["signals"] == 5
    hyperparameters = torch.load("r/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert hyperparameters["signals"] == 5


def test_ckpt_path_last_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "fit", *BASE, "--out", "nowhere", "--ckpt_path", "last")
    assert said.startswith("error: --ckpt_path last: nowhere/checkpoints/last.ckpt is not there.")
    assert "Leave --ckpt_path out to start afresh" in said


def test_ckpt_path_last_of_which_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--out", "runs/mine"])
    capsys.readouterr()
    said = refusal(capsys, "fit", *BASE, "--ckpt_path", "last")
    assert "--ckpt_path last needs --out DIR" in said
    assert "--out runs/mine" in said


def test_curves_drop_what_will_be_logged_again() -> None:
    """Killed two steps after its last checkpoint, a run logs those steps twice; a reader sees each once."""
    extra = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.every_n_train_steps", "4"]
    main(
        [
            "fit",
            *BASE,
            *extra,
            "--trainer.callbacks.filename",
            "four",
            "--trainer.max_epochs",
            "1",
            "--out",
            "r",
        ]
    )
    four = Path("r/checkpoints/four.ckpt")
    assert steps_taken(str(four)) == 4
    assert steps_taken(None) is None
    main(["fit", *BASE, "--trainer.max_epochs", "1", "--out", "r", "--ckpt_path", str(four)])
    assert scalars("r", "train/loss") == list(range(6))


def test_users_own_logger_and_checkpoints_stand_beside_ours() -> None:
    Path("own.yaml").write_text(
        "trainer:\n  logger: {class_path: CSVLogger, init_args: {save_dir: logs}}\n"
        "  callbacks: [{class_path: ModelCheckpoint, init_args: {monitor: val/loss, filename: best}}]\n"
    )
    main(["fit", *BASE, "--config", "own.yaml", "--out", "r"])
    names = sorted(entry.name for entry in Path("r/checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert not Path("r/tensorboard").exists()
    assert list(Path("logs").rglob("metrics.csv"))


def test_the_best_weights_are_one_command_away(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.filename", "best"]
    main(["fit", *BASE, *flags, "--out", "unmonitored run"])
    assert "holds the last weights" not in capsys.readouterr().out
    flags += ["--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.mode", "max"]
    main(["fit", *BASE, *flags, "--out", "my run"])
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "holds the last weights" in line]
    assert said.startswith("my run/export holds the last weights; for those with the best val/loss (")
    command = said[said.index("lit-rlhf export") :]
    assert command == "lit-rlhf export 'my run/checkpoints/best.ckpt' 'my run/export-best'"
    main(shlex.split(command)[1:])
    best = torch.load("my run/checkpoints/best.ckpt", weights_only=True)["state_dict"]["linear.weight"]
    written = json.loads(Path("my run/export-best/weights.json").read_text())
    assert written["linear.weight"] == best.tolist() != exported("my run")["linear.weight"]


@pytest.mark.parametrize(
    ("terminal", "flags", "lines"),
    [
        (False, [], 2),
        (True, [], 0),
        (False, ["--trainer.enable_progress_bar", "false"], 0),
        (False, ["--trainer.callbacks", "TQDMProgressBar"], 0),
    ],
)
def test_a_fit_into_a_file_says_how_far_it_is(
    terminal: bool,
    flags: list[str],
    lines: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    place = BASE.index("--trainer.enable_progress_bar")
    main(["fit", *BASE[:place], *BASE[place + 2 :], *flags, "--out", "r"])
    assert capsys.readouterr().out.count(", batch 6/6, train/loss ") == lines


def test_fast_dev_run_leaves_nothing() -> None:
    main(["fit", *BASE, "--trainer.fast_dev_run", "true", "--out", "r"])
    assert not Path("r").exists()


def test_validate_and_test_read_a_checkpoint_and_keep_the_fits_files() -> None:
    main(["fit", *BASE, "--out", "r"])
    kept = {name: Path("r", name).read_bytes() for name in ("config.yaml", "metrics.json")}
    fitted = json.loads(kept["metrics.json"])["val/loss"]
    for command in ("validate", "test"):
        main([command, *BASE, "--ckpt_path", "last", "--out", "r"])
    assert json.loads(Path("r/validate.json").read_text()) == {"val/loss": pytest.approx(fitted)}
    assert list(json.loads(Path("r/test.json").read_text())) == ["val/loss"]
    assert kept == {name: Path("r", name).read_bytes() for name in kept}


def test_predictions_lie_beside_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--out", "r"])
    main(["predict", *BASE, "--ckpt_path", "r/checkpoints/last.ckpt"])
    lines = [json.loads(line) for line in Path("r/predictions.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines[:2]] == [[0, 1, 2, 3], [4, 5, 6, 0]]
    assert len(lines) == 12
    weight = torch.tensor(exported("r")["linear.weight"][0])
    expected = float(weight @ torch.tensor([0.0, 1, 2, 3]) + exported("r")["linear.bias"][0])
    assert lines[0]["score"] == pytest.approx(expected, rel=1e-5)
    assert not list(Path("r").glob("*.partial"))
    assert "predictions: r/predictions.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.widht", "3"], ["error: model: Option 'widht' is not accepted", "Did you mean 'width'?"]),
        (["--model.width", "abc"], ["error: model.width: expected int, found: abc"]),
        (
            ["--modle.width", "3"],
            ["error: unrecognized arguments: --modle.width", "Did you mean 'model.width'?"],
        ),
        (["--trainer.max_epoch", "3"], ["error: unrecognized", "Did you mean 'trainer.max_epochs'?"]),
        (["--model", "StandInModul"], ["no class is called StandInModul", "Did you mean 'StandInModule'?"]),
        (["--model.optimizer.lrr", "3"], ["error: model.optimizer: Option 'lrr'", "Did you mean 'lr'?"]),
        (["--model.optimizer", "AdamWW"], ["no class is called AdamWW", "Did you mean 'AdamW'?"]),
    ],
)
def test_a_typing_mistake_is_said_in_a_few_lines(
    flags: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "fit", *BASE, *flags)
    for part in expected:
        assert part in said
    lines = said.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[-1].startswith("help: lit-rlhf fit --")
    assert len(lines) <= 5


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "fit").startswith("error: no data and no model: expected --config FILE, or")


def test_a_mistake_in_the_data_is_said_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, stage: str) -> None:
        raise FileNotFoundError("data.path: no such file: a.jsonl")

    monkeypatch.setattr("tests.cli.stand_in.StandInData.setup", broken)
    said = refusal(capsys, "fit", *BASE, "--out", "r", code=1)
    assert "error: data.path: no such file: a.jsonl" in said
    assert "Traceback" not in said
    monkeypatch.setenv("LIT_RLHF_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["fit", *BASE, "--out", "r"])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.model", "./nope", "--data.path", "d.jsonl"], "./nope"),
        (["--model.model", "TINY", "--data.path", "d.jsonl", "--data.batch_size", "0"], "data.batch_size: "),
        (["--model.model", "TINY", "--data.path", "d.jsonl", "--data.val_path", "x/"], "x/: no such file"),
        (
            ["--model", "PPOModule", "--model.model", "TINY", "--model.reward", "no_such.reward"],
            "reward: 'no_such.reward' is neither",
        ),
        (
            ["--model.model", "gpt/tiny", "--data.path", "d.jsonl"],
            "'gpt/tiny' is no file or folder here, so it was looked for on the Hugging Face hub, which cannot be "
            "reached, and no copy is in its cache. One of your own is written with its path, such as ./gpt/tiny",
        ),
    ],
)
def test_what_a_constructor_says_comes_alone(
    flags: list[str], expected: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("d.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    words = [str(tiny_model_dir) if word == "TINY" else word for word in flags]
    classes = ["--model", "SFTModule", "--data", "DemonstrationDataModule"]
    said = refusal(capsys, "fit", *classes, *BASE[4:], *words, "--out", "r", code=1).splitlines()
    (error,) = [line for line in said if line.startswith("error: ")]
    assert expected in error
    assert "Union" not in error
    assert said[-1] == "(LIT_RLHF_TRACEBACK=1 lit-rlhf fit … shows where it came from)"
    assert len(said[said.index(error) :]) == 2


def test_a_fault_of_the_program_in_a_constructor_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="negative dimension"):
        main(["fit", *BASE, "--model.width", "-1", "--out", "r"])


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, stage: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tests.cli.stand_in.StandInData.setup", broken)
    with pytest.raises(ZeroDivisionError):
        main(["fit", *BASE, "--out", "r"])


def test_processes_started_from_outside_need_one_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--out runs/standin" in refusal(capsys, "fit", *BASE)


def test_ctrl_c_says_how_to_continue_and_continuing_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--out", "whole"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["fit", *BASE, "--out=r", "--model.interrupt_at", "8"])
    assert stop.value.code == 130
    said = capsys.readouterr().out
    assert "stopped; everything up to this step is in r/checkpoints/last.ckpt" in said
    assert said.rstrip().endswith("--model.interrupt_at 8 --out r --ckpt_path last")
    assert not Path("r/export").exists()
    main(["fit", *BASE, "--out", "r", "--ckpt_path", "last"])
    assert exported("r") == exported("whole")
    assert scalars("r", "train/loss") == list(range(12))


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, "-m", "lit_rlhf", "fit", *BASE, "--out", "r", "--trainer.max_epochs", "2000"]
    process = subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "run folder" in line:
            break
    while not Path("r/checkpoints/last.ckpt").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "continue with: lit-rlhf fit" in rest
    steps = steps_taken("r/checkpoints/last.ckpt")
    assert steps is not None
    epochs = str(-(-steps // 6) + 1)
    main(["fit", *BASE, "--out", "r", "--ckpt_path", "last", "--trainer.max_epochs", epochs])
    main(["fit", *BASE, "--out", "whole", "--trainer.max_epochs", epochs])
    assert exported("r") == exported("whole")


def test_a_checkpoint_that_fails_to_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, target)
    with pytest.raises(Exception, match=r"pickle|local"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "bad": lambda: None}, target)
    assert torch.load(target, weights_only=True) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Updates taken at each checkpoint of the fits to come."""
    saved: list[int] = []
    stage = StagedCheckpoint.stage
    monkeypatch.setattr(
        StagedCheckpoint,
        "stage",
        lambda self, trainer: (saved.append(trainer.global_step), stage(self, trainer)),
    )
    return saved


def test_checkpoints_inside_an_epoch_by_the_clock(saved: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes a minute with every look: a checkpoint after each third update, and at the epoch's end."""
    minute = itertools.count(0, 60)
    monkeypatch.setattr("lit_rlhf.cli.checkpoints.monotonic", lambda: next(minute))
    flags = ["--checkpoint_minutes", "3", "--trainer.max_epochs", "1"]
    main(["fit", *BASE, "--out", "r", *flags])
    assert saved == [3, 6]
    saved_config = yaml.safe_load(Path("r/config.yaml").read_text())
    assert saved_config["checkpoint_minutes"] == 3.0


def test_no_checkpoint_within_an_accumulation_window(saved: list[int]) -> None:
    """Validations after batches 2, 4 and 6, updates after 4 and 6: gradients are in no checkpoint."""
    flags = ["--trainer.val_check_interval", "2", "--trainer.accumulate_grad_batches", "4"]
    main(["fit", *BASE, "--out", "r", "--trainer.max_epochs", "1", *flags])
    assert saved == [1, 2]


def test_minutes_between_checkpoints_are_more_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "checkpoint_minutes" in refusal(capsys, "fit", *BASE, "--checkpoint_minutes", "0")


def test_fits_write_checkpoints_so(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    save = AtomicCheckpointIO.save_checkpoint

    def noting(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        written.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", noting)
    main(["fit", *BASE, "--out", "r"])
    assert written == ["last.ckpt.next", "last.ckpt.next"]


def test_export_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *BASE, "--out", "r"])
    main(["export", "r/checkpoints/last.ckpt", "folder"])
    assert json.loads(Path("folder/weights.json").read_text()) == exported("r")
    assert "exported StandInModule" in capsys.readouterr().out
    assert "folder is not empty" in refusal(capsys, "export", "r/checkpoints/last.ckpt", "folder")
    assert "no such file" in refusal(capsys, "export", "r/checkpoints/lst.ckpt", "other")


def test_export_of_a_checkpoint_made_without_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    import lightning as L

    from tests.cli.stand_in import StandInData

    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **settings)
    trainer.fit(StandInModule(), StandInData())
    trainer.save_checkpoint("own.ckpt")
    assert "Give --module" in refusal(capsys, "export", "own.ckpt", "folder")
    main(["export", "own.ckpt", "folder", "--module", "tests.cli.stand_in.StandInModule"])
    assert Path("folder/weights.json").is_file()

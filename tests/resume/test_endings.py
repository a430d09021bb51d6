"""A run of a stand-in module, killed around its checkpoints, in every rhythm of validation and limit."""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import Ended, Kill, run
from benchmarks.resume import import_everything, series
from lit_rlhf.cli.checkpoints import AtomicCheckpointIO

BASE = [
    "fit", "--model", "tests.cli.stand_in.StandInModule", "--data", "tests.cli.stand_in.StandInData",
    "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.log_every_n_steps", "1",
    "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--out", "run",
]  # fmt: skip
EPOCHS = ["--trainer.max_epochs", "3"]


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_everything()
    import tests.cli.stand_in  # noqa: F401


def fit(folder: Path, *flags: str, kill: Kill | None = None, prepare: Any = None) -> Ended:
    (ended,) = run([*BASE, *flags], folder, kill, prepare=prepare)
    return ended


def left(folder: Path) -> tuple[Any, ...]:
    """What a finished run leaves."""
    metrics = json.loads((folder / "run/metrics.json").read_text())
    curves = series(folder / "run/tensorboard")
    curves.pop("config/text_summary")  # shown again where it was changed
    return (
        json.loads((folder / "run/export/weights.json").read_text()),
        curves,
        {name: value for name, value in metrics.items() if not name.startswith("perf/")},
    )


@cache
def whole(*flags: str) -> tuple[tuple[Any, ...], Ended]:
    """What the run leaves when nobody kills it, and what it counts."""
    folder = Path(tempfile.mkdtemp())
    ended = fit(folder, *flags)
    assert ended.code == 0, ended.output
    result = left(folder)
    shutil.rmtree(folder)
    return result, ended


@pytest.mark.parametrize(
    "flags",
    [
        EPOCHS,
        [*EPOCHS, "--trainer.check_val_every_n_epoch", "2"],
        [*EPOCHS, "--trainer.val_check_interval", "2", "--trainer.accumulate_grad_batches", "2"],
        ["--trainer.max_steps", "15"],
        ["--trainer.max_steps", "15", "--trainer.limit_val_batches", "0"],
    ],
)
def test_every_rhythm(tmp_path: Path, flags: list[str]) -> None:
    expected, counted = whole(*flags)
    killed = fit(tmp_path, *flags, kill=Kill("log", counted.counts["log"] * 3 // 4))
    assert killed.code == -9
    finished = fit(tmp_path, *flags, "--ckpt_path", "last")
    assert finished.code == 0, finished.output
    assert left(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("flags", [EPOCHS, ["--trainer.max_steps", "15"]])
def test_before_each_operation_on_a_file(tmp_path: Path, flags: list[str]) -> None:
    expected, counted = whole(*flags)
    for number in range(1, counted.counts["file"] + 1):
        assert fit(tmp_path, *flags, kill=Kill("file", number)).code == -9
        has_checkpoint = any((tmp_path / "run/checkpoints").glob("*.ckpt"))
        finished = fit(tmp_path, *flags, *(["--ckpt_path", "last"] if has_checkpoint else []))
        assert finished.code == 0, finished.output
        assert left(tmp_path) == expected, number
        assert not list((tmp_path / "run").rglob("*.partial")) and not list(
            (tmp_path / "run").rglob("*.next")
        )
        shutil.rmtree(tmp_path / "run")


def test_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    expected, _ = whole(*EPOCHS)
    assert fit(tmp_path, *EPOCHS, kill=Kill("log", 12)).code == -9
    refused = fit(tmp_path, *EPOCHS, "--ckpt_path", "last")
    assert refused.code == 2
    assert (
        "ended before its first checkpoint: leave --ckpt_path out, and it starts again there"
        in refused.output
    )
    assert fit(tmp_path, *EPOCHS).code == 0
    assert left(tmp_path) == expected


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    expected, _ = whole(*EPOCHS)
    assert fit(tmp_path, "--trainer.max_epochs", "2").code == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    place = content.index(b"perf/tokens_per_second")  # torch.load would not notice
    content[place] ^= 1
    last.write_bytes(content)
    finished = fit(tmp_path, *EPOCHS, "--ckpt_path", "last")
    assert finished.code == 0, finished.output
    assert "last.ckpt is damaged (the checksum of " in finished.output
    assert "continuing from the one before it: run/checkpoints/previous.ckpt, update 6" in finished.output
    assert left(tmp_path) == expected
    assert (tmp_path / "run/checkpoints/last.ckpt.damaged").read_bytes() == bytes(content)


def test_no_checkpoint_is_whole(tmp_path: Path) -> None:
    assert fit(tmp_path, "--trainer.max_epochs", "2").code == 0
    for name in ("last", "previous"):
        file = tmp_path / f"run/checkpoints/{name}.ckpt"
        file.write_bytes(file.read_bytes()[:-500])
    refused = fit(tmp_path, *EPOCHS, "--ckpt_path", "run/checkpoints/previous.ckpt")
    assert refused.code == 2 and "previous.ckpt: the file is damaged (cut short" in refused.output
    refused = fit(tmp_path, *EPOCHS, "--ckpt_path", "last")
    assert refused.code == 2 and "last.ckpt is not there" in refused.output


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    expected, _ = whole(*EPOCHS)
    assert fit(tmp_path, "--trainer.max_epochs", "1").code == 0
    before = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()

    save = AtomicCheckpointIO.save_checkpoint

    def save_on_a_full_disk(*args: Any, **settings: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, resource.RLIM_INFINITY))
        save(*args, **settings)

    def fill_the_disk() -> None:
        AtomicCheckpointIO.save_checkpoint = save_on_a_full_disk  # type: ignore[method-assign]

    full = fit(tmp_path, *EPOCHS, "--ckpt_path", "last", prepare=fill_the_disk)
    assert full.code == 1
    assert (
        "the checkpoint could not be written: File too large. The run up to update 6 is in run/"
        in full.output
    )
    assert "Traceback" not in full.output
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == before
    assert not list((tmp_path / "run/checkpoints").glob("*.partial"))
    finished = fit(tmp_path, *EPOCHS, "--ckpt_path", "last")
    assert finished.code == 0, finished.output
    assert left(tmp_path) == expected


def test_a_full_disk_that_the_log_meets_first(tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    full = fit(tmp_path, *EPOCHS, prepare=no_large_files)
    assert full.code == 1
    assert "error: a file could not be written: File too large" in full.output and "make room" in full.output
    assert "Traceback" not in full.output


def test_what_the_dead_left_is_cleared_away_and_the_living_keep_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    living = folder / "last.ckpt.1.partial"
    dead = [
        folder / f"last.ckpt.{2**22 + 1}.partial",
        tmp_path / "run/a.4194305.partial",
    ]
    for file in (living, *dead):
        file.write_text("half")
    assert fit(tmp_path, "--trainer.max_epochs", "1").code == 0
    assert living.exists() and not any(file.exists() for file in dead)


def test_a_checkpoint_that_was_not_yet_to_count_is_cleared_away(tmp_path: Path) -> None:
    assert fit(tmp_path, "--trainer.max_epochs", "1").code == 0
    unpublished = tmp_path / "run/checkpoints/last.ckpt.next"
    unpublished.write_text("half")
    assert fit(tmp_path, "--trainer.max_epochs", "1", "--ckpt_path", "last").code == 0
    assert not unpublished.exists()

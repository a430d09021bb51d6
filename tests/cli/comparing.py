"""What the tests of `lit-rlhf compare` share: files, and steps in this process, which has everything imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.main import main
from lit_rlhf.cli.steps.logged import reason_of, tail_of

GOLD = "tests.test_configs.count_letters"
TRAINER = {
    "max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_config(
    path: Path,
    module: str = "DPOModule",
    data_module: str = "PairDataModule",
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
) -> str:
    """A config of `lit-rlhf fit`, with arguments of its parts."""
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}}
    arguments = {"optimizer": optimizer, "max_new_tokens": 4, **(model or {})}
    content = {
        "model": {"class_path": module, "init_args": arguments},
        "data": {"class_path": data_module, "init_args": {"batch_size": 4, **(data or {})}},
        "trainer": {**TRAINER, **(trainer or {})},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def comparison_of(configs: Sequence[str], out: Path, **changes: Any) -> Comparison:
    settings: dict[str, Any] = {
        "model": None, "data": None, "val": None, "prompts": None, "reward": None, "evaluation": None, "gold": None,
        "seeds": (0,), "seconds": None, "clock": "cpu", "updates": 2, "samples": 256, "max_new_tokens": 4,
    }  # fmt: skip
    return Comparison(tuple(configs), out, **{**settings, **changes})


class Here:
    """Runs steps in this process, their output into their logs."""

    def __init__(self) -> None:
        self.log = Path()
        self.ran: list[Sequence[str]] = []

    def run(self, argv: Sequence[str]) -> int:
        self.ran.append(argv)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                if argv[0] == "-m":
                    import_module(argv[1]).main(argv[2:])
                else:
                    main(list(argv))
            except SystemExit as stop:
                return stop.code if isinstance(stop.code, int) else 0
        return 0

    def reason(self, code: int) -> str:
        return reason_of(tail_of(self.log), code)

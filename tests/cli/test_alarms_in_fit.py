"""Alarms in ``fit``: over PPO by default, and as the user's config has them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_rlhf.callbacks import TrainingAlarms
from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.fit import CommandLine
from lit_rlhf.cli.main import main
from tests.cli.stand_in import StandInModule
from tests.modules.ppo_runs import make_module


def test_ppo_alone_is_watched_unless_the_user_has_decided() -> None:
    def added(module: Any, given: list[Any] = [], command: str = "fit", fast: bool = False) -> list[str]:  # noqa: B006
        line: Any = SimpleNamespace(model=module, command=command)
        return [one.action for one in CommandLine._alarms(line, SimpleNamespace(fast_dev_run=fast), given)]

    ppo = make_module()
    assert added(ppo) == ["warn"]
    assert added(StandInModule()) == added(ppo, [TrainingAlarms("stop")]) == []
    assert added(ppo, command="validate") == added(ppo, fast=True) == []


@pytest.mark.filterwarnings("ignore:Iteration .*:UserWarning")
def test_a_config_may_name_its_own(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"the {word}"} for word in ("soup", "cake", "train", "lamp")]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "model.model": tiny_model_dir,
        "model.reward": "tests.cli.test_check_truths.lengths",
        "model.minibatch_size": 4,
        "model.max_new_tokens": 4,
        "model.optimizer.lr": 0.01,
        "data.path": "p.jsonl",
        "data.batch_size": 4,
        "data.val_fraction": 0,
        "trainer.max_epochs": 5,
        "trainer.callbacks": "TrainingAlarms",
        "trainer.callbacks.action": "stop",
        "trainer.callbacks.kl_limit": 1e-3,
        "out": "run",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    main(["fit", "--config", str(shipped()["ppo"]), *words])
    numbers = json.loads(Path("run/metrics.json").read_text())
    assert numbers["objective/kl"] > 1e-3
    assert numbers["episodes"] == 8  # two iterations of four: the first one's KL is 0
    assert "action: stop" in Path("run/config.yaml").read_text()

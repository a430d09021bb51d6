"""The demo on sizes that take seconds: what it leaves, how it goes on, and how it judges itself."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lit_rlhf.cli import demo
from lit_rlhf.cli.demo.presets import PRESETS
from lit_rlhf.cli.demo.summary import gold_peak, marks

TINY = replace(
    PRESETS["quick"],
    texts=128,
    demonstrations=64,
    pairs=64,
    held_out_pairs=32,
    evaluation_prompts=32,
    best_of=(2,),
    dpo_betas=(0.5,),
    ppo_betas=(0.2,),
    ppo_iterations=2,
    free_iterations=2,
    ppo_prompts=8,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", TINY)


@pytest.mark.filterwarnings("ignore")
def test_a_run_leaves_report_picture_and_logs_and_a_second_one_goes_on(tiny, tmp_path: Path, capsys):
    out = tmp_path / "demo"
    demo.main(["--out", str(out)])
    report = json.loads((out / "report.json").read_text())
    asked = {
        "sft": {"gold", "grammar", "shuffled_grammar"},
        "reward": {"accuracy_gold", "accuracy_labels", "bayes_accuracy", "reference_mean"},
        "ppo": {"beta", "gold", "grammar", "kl", "score", "cpu_seconds"},
        "ppo_no_kl": {"gold", "gold_peak", "grammar", "score", "entropy"},
        "dpo": {"beta", "gold", "grammar", "kl", "cpu_seconds"},
    }
    for name, keys in asked.items():
        assert keys <= set(report[name])
    assert (report["seed"], report["preset"]) == (0, "quick")
    assert [point["method"] for point in report["frontier"]] == ["sft", "best_of_n", "dpo", "ppo", "ppo"]
    assert (out / "frontier.png").stat().st_size > 10_000
    for run in ("pretrain", "sft", "reward", "dpo-0.5", "ppo-0.2", "ppo-0"):
        assert list((out / "runs" / run / "tensorboard").glob("events.*"))
        assert (out / "runs" / run / "export" / "model.safetensors").exists()
    assert abs(report["reward"]["reference_mean"]) < 1e-4
    assert report["ppo_no_kl"]["entropy"] > 0.1  # nats a token
    assert "Gold reward and grammar" in capsys.readouterr().out

    # interrupted: the last stage's result is gone, its checkpoint and everything before it is there
    (out / "stages" / "ppo-0.json").unlink()
    (out / "report.json").unlink()
    demo.main(["--out", str(out)])
    said = capsys.readouterr().out
    assert "sft: done already" in said
    assert json.loads((out / "report.json").read_text())["ppo_no_kl"]["gold"] == report["ppo_no_kl"]["gold"]

    demo.main(["--out", str(out)])
    assert "This demo is complete" in capsys.readouterr().out

    with pytest.raises(SystemExit) as stopped:
        demo.main(["--out", str(out), "--seed", "1"])
    assert stopped.value.code == 2
    assert "holds a demo with" in capsys.readouterr().err


def test_the_first_line_comes_before_torch():
    code = (
        "import sys; from lit_rlhf.cli import demo; import lit_rlhf.cli.demo.presets;"
        "print([m for m in ('torch', 'lightning', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def passing_report() -> dict:
    return {
        "sft": {"gold": -0.7, "grammar": 0.9, "shuffled_grammar": 0.0},
        "reward": {
            "accuracy_gold": 0.77,
            "accuracy_labels": 0.7,
            "bayes_accuracy": 0.82,
            "reference_mean": 1e-6,
        },
        "ppo": {"gold": 1.0, "grammar": 0.9, "kl": 3.0, "score": 1.8, "cpu_seconds": 40.0},
        "ppo_no_kl": {"gold": -0.8, "gold_peak": 0.9, "grammar": 0.01, "score": 2.2},
        "dpo": {"gold": 0.4, "grammar": 0.95, "kl": 0.7, "cpu_seconds": 10.0},
    }


def test_a_good_run_meets_all_marks():
    assert all(marks(passing_report()).values())


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("sft", "grammar", 0.87), ("sft", "shuffled_grammar", 0.03), ("reward", "accuracy_gold", 0.73),
        ("reward", "accuracy_labels", 0.68), ("reward", "reference_mean", -2e-4), ("ppo", "gold", 0.79),
        ("ppo", "grammar", 0.84), ("ppo", "kl", 1.9), ("ppo", "kl", 6.1), ("ppo_no_kl", "score", 1.7),
        ("ppo_no_kl", "grammar", 0.3), ("ppo_no_kl", "gold", 0.0), ("dpo", "gold", 0.2), ("dpo", "kl", 1.6),
        ("dpo", "cpu_seconds", 21.0),
    ],
)  # fmt: skip
def test_each_mark_can_be_missed(part: str, key: str, value: float):
    report = passing_report()
    report[part][key] = value
    assert list(marks(report).values()).count(False) == 1


def test_a_peak_is_a_mean_of_three():
    def at(gold: float) -> dict:
        return {"iteration": 0, "kl": 0.0, "gold": gold, "grammar": 1.0}

    assert gold_peak([at(g) for g in (0.0, 3.0, 0.0, 1.2, 1.2, 1.2, 0.0)]) == pytest.approx(1.4)
    assert gold_peak([at(0.5), at(0.7)]) == 0.7

import json

import pytest

from benchmarks.demo import main


def report(seed: int, gold: float, preset: str = "full") -> dict:
    point = {"method": "ppo", "beta": 0.2, "n": None, "kl": 3.0, "gold": gold, "grammar": 0.9}
    return {
        "seed": seed,
        "preset": preset,
        "sft": {"shuffled_grammar": 0.0},
        "reward": {
            "accuracy_gold": 0.8,
            "accuracy_labels": 0.7,
            "bayes_accuracy": 0.8,
            "reference_mean": 0.0,
        },
        "ppo": {"score": 1.0, "cpu_seconds": 40.0},
        "ppo_no_kl": {"score": 2.0, "gold_peak": 1.0, "entropy": 0.1},
        "dpo": {"cpu_seconds": 10.0},
        "frontier": [point],
        "marks": {"gold rises": gold > 1.5},
    }


def write(folder, content):
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "frontier.png").write_bytes(b"picture")
    return str(folder)


def test_medians_and_marks_of_three_runs(tmp_path):
    runs = [write(tmp_path / str(seed), report(seed, gold)) for seed, gold in enumerate((1.0, 3.0, 2.0))]
    main([*runs, "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "demo.md").read_text()
    assert "| PPO, β = 0.2 | 2.00 (1.00, 3.00, 2.00) | 0.90" in page
    assert "| gold rises | 2 of 3 |" in page
    assert (tmp_path / "out" / "frontier.png").read_bytes() == b"picture"
    assert len(json.loads((tmp_path / "out" / "demo.json").read_text())) == 3


def test_runs_of_two_presets_are_not_mixed(tmp_path, capsys):
    runs = [write(tmp_path / "a", report(0, 1.0)), write(tmp_path / "b", report(1, 1.0, "quick"))]
    with pytest.raises(SystemExit):
        main([*runs, "--out", str(tmp_path / "out")])
    assert "one preset" in capsys.readouterr().err

"""``lit-rlhf report``: a real run on a page, what the terminal says, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main
from tests.reports.runs_on_disk import write_config, write_events
from tests.reports.test_overoptimisation import Page, shown


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def count_letters(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    """A reward function."""
    return [len(text) / 10 for text in completions]


def few_letters(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    """A gold reward function that thinks otherwise."""
    return [1 - len(text) / 10 for text in completions]


def over_optimised(run: str = "r", **config: Any) -> None:
    """A run folder: gold rises and falls, the score rises."""
    d = np.linspace(0, 6, 12)
    gold = d * (2 - 1.2 * np.log(np.maximum(d, 1e-9)))
    series = {"objective/kl": d**2, "objective/gold": gold, "objective/scores": d}
    write_events(Path(run), {name: values.tolist() for name, values in series.items()})
    write_config(Path(run), max_epochs=12, **config)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["report", *argv])
    assert stop.value.code == code
    assert not Path("report.html").exists()
    return capsys.readouterr().err


def test_a_fit_of_ppo_is_reported_with_the_numbers_that_it_logged(tiny_model_dir: Path) -> None:
    rows = "".join(
        json.dumps({"prompt": f"the {word}"}) + "\n" for word in ("soup", "cake", "train", "hotel")
    )
    Path("prompts.jsonl").write_text(rows)
    main(["fit", "--config", str(shipped()["ppo"]), "--model.model", str(tiny_model_dir),
          "--model.reward", "tests.cli.test_report.count_letters",
          "--model.gold_reward", "tests.cli.test_report.few_letters", "--model.optimizer.lr", "1e-3",
          "--data.path", "prompts.jsonl", "--data.val_path", "prompts.jsonl", "--data.batch_size", "4",
          "--model.minibatch_size", "2", "--model.max_new_tokens", "6", "--trainer.max_epochs", "5",
          "--trainer.check_val_every_n_epoch", "2", "--trainer.accelerator", "cpu",
          "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
          "--out", "ppo"])  # fmt: skip
    main(["report", "ppo", "--out", "pages/report.html"])
    page = Page(Path("pages/report.html").read_text(encoding="utf-8"))
    events = EventAccumulator("ppo/tensorboard").Reload()
    for name in ("objective/kl", "objective/gold", "objective/scores", "objective/entropy"):
        logged = [event.value for event in events.Scalars(name)]
        assert len(logged) == 5
        low, high = int(np.argmin(logged)), int(np.argmax(logged))
        assert ["ppo", shown(logged[0]), shown(logged[-1]), f"{shown(logged[low])} at {low}",
                f"{shown(logged[high])} at {high}", "5"] in page.rows  # fmt: skip
    checked = [event.value for event in events.Scalars("val/objective/gold")]
    assert ["ppo, validation", shown(checked[0]), shown(checked[-1])] in [row[:3] for row in page.rows]
    assert ["ppo", "5", "20"] in [row[:3] for row in page.rows]  # updates: two passes over two minibatches


def test_terminal_says_the_most_important(capsys: pytest.CaptureFixture[str]) -> None:
    over_optimised("free-seed0", seed=0)
    over_optimised("free-seed1", seed=1)
    main(["report", "free-seed0", "free-seed1", "--out", "report.html"])
    said = capsys.readouterr().out.splitlines()
    assert (
        said[0] == "2 of 2 runs are over-optimised: gold lost beyond its noise while the score did not fall."
    )
    assert said[1].startswith("  free-seed0: Over-optimised: gold was highest about iteration 4 (")
    assert said[3].startswith(
        "fit: free (2 seeds): by the fit gold is highest at 3.79 nats of KL"
    )  # e^(2·(2/1.2 − 1))
    assert said[-1] == "report: report.html"


def test_older_page_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    over_optimised()
    Path("report.html").write_text("old")
    main(["report", "r", "--out", "report.html"])
    assert Path("report.html").read_text().startswith("<!doctype html>")


def test_best_of_n_comes_from_a_file_of_scored_responses(capsys: pytest.CaptureFixture[str]) -> None:
    over_optimised()
    row = {"prompt": "p", "responses": ["a", "b"], "reward_scores": [1.0, 2.0], "reward_ranks": [2, 1]}
    Path("c.jsonl").write_text(json.dumps({**row, "gold_scores": [5.0, 7.0]}) + "\n")
    main(["report", "r", "--best-of", "c.jsonl", "--out", "report.html"])
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert ["best of 1", "0", "1.5"] in page.rows and ["best of 2", "0.193", "7"] in page.rows
    assert "note: Best-of-n can be compared if" in capsys.readouterr().out


def test_row_of_candidates_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    over_optimised()
    Path("c.jsonl").write_text('{"prompt": "p", "responses": ["a"]}\n')
    said = refusal(capsys, "r", "--best-of", "c.jsonl", "--out", "report.html", code=1)
    assert said.startswith("error: c.jsonl:1: expected reward_scores")
    Path("c.jsonl").write_text("{\n")
    said = refusal(capsys, "r", "--best-of", "c.jsonl", "--out", "report.html", code=1)
    assert said.startswith("error: c.jsonl:1: expected a JSON object")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["r", "--out", "report.txt"], "error: --out report.txt: expected a name that ends in .html."),
        (["r", "--out", "d.html"], "error: --out d.html: is a folder; give a file in it."),
        (["rr", "--out", "report.html"], "error: RUN rr: no such folder.\nNear it: r"),
        (["file", "--out", "report.html"], "error: RUN file: expected a run folder, found a file."),
        (["r", "./r", "--out", "report.html"], "error: RUN ./r: is given twice."),
        (["r", "--best-of", "no.jsonl", "--out", "report.html"], "error: --best-of no.jsonl: no such file."),
    ],
)
def test_mistakes_are_refused_before_anything_is_read(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r").mkdir()
    Path("d.html").mkdir()
    Path("file").touch()
    assert refusal(capsys, *argv).startswith(said)


def test_folder_that_is_no_run_is_refused_with_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    over_optimised("runs/ppo")
    said = refusal(capsys, "runs", "--out", "report.html", code=1)
    assert said.startswith(
        "error: runs: expected a run folder, with TensorBoard's event files in runs/tensorboard; "
    )
    assert "found folders of runs: runs/ppo" in said


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["no-such", "--out", "o.html"], 2)])
def test_mistakes_and_help_need_nothing_heavy(argv: list[str], code: int) -> None:
    program = (
        "import sys\nfrom lit_rlhf.cli.main import main\ncode = 0\n"
        f"try:\n    main(['report', *{argv!r}])\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'lightning', 'matplotlib', 'tensorboard', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"assert code == {code}, code\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr

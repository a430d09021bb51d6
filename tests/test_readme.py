"""What the README tells people to type is typed here, on tiny data."""

import io
import json
import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from lit_rlhf.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALLER = {
    "init": ["--hidden", "32", "--layers", "1", "--heads", "2", "--vocab", "300"],
    "sft": ["--data.val_fraction", "0.2"],
    "ppo": ["--trainer.max_epochs", "2", "--data.batch_size", "8", "--model.minibatch_size", "4",
            "--model.max_new_tokens", "4", "--model.epochs", "1", "--trainer.check_val_every_n_epoch", "1"],
    "ppo-ensemble": ["--trainer.max_epochs", "1", "--data.batch_size", "8", "--model.minibatch_size", "4",
                     "--model.max_new_tokens", "4", "--model.epochs", "1"],
    "ppo-one-trunk": ["--trainer.max_epochs", "1", "--data.batch_size", "8", "--model.minibatch_size", "4",
                      "--model.max_new_tokens", "4", "--model.epochs", "1"],
    "online-dpo": ["--trainer.max_epochs", "1", "--data.batch_size", "4", "--model.minibatch_size", "4",
                   "--model.max_new_tokens", "4"],
    "raft": ["--trainer.max_epochs", "1", "--data.batch_size", "4", "--model.minibatch_size", "4",
             "--model.max_new_tokens", "4", "--model.samples_per_prompt", "2"],
    "strength": ["--members", "2", "--folds", "2"],
    "drawn.jsonl": ["--max-new-tokens", "4"],
    "best.jsonl": ["--max-new-tokens", "4"],
    "chat": ["--max-new-tokens", "4"],
}  # fmt: skip
SENTENCES = [
    f"the {noun} {i} is {adjective} ."
    for i in range(8)
    for noun, adjective in (("soup", "hot"), ("lamp", "dim"))
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The README's `lit-rlhf` commands, in order."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("lit-rlhf ")]


def write_files(folder: Path) -> None:
    """One file for each name that the README's commands use."""
    rows = {
        "text": [{"text": sentence} for sentence in SENTENCES],
        "demonstrations": [{"prompt": s[:8], "response": s[8:]} for s in SENTENCES],
        "pairs": [{"prompt": s[:8], "chosen": s[8:], "rejected": s[8:][::-1]} for s in SENTENCES],
        "prompts": [{"prompt": s[:8]} for s in SENTENCES],
        "candidates": [{"prompt": s[:8], "responses": [s[8:], s[8:][::-1]]} for s in SENTENCES],
        "rankings": [
            {"prompt": s[:8], "responses": [s[8:], s[8:][::-1], "what ?"], "ranks": [1, 2, 2]}
            for s in SENTENCES
        ],
        "votes": [
            {
                "prompt": s[:8],
                "response_a": s[8:],
                "response_b": s[8:][::-1],
                "labels": [
                    {"labeler": who, "choice": "b" if who == "bob" else "a"} for who in ("ann", "bob", "cy")
                ],
            }
            for s in SENTENCES
        ],
    }
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "configs").symlink_to(ROOT / "configs")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the files, as a newcomer's desk."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("the soup\n"))
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # a newcomer's run may warn; that it goes through is what counts here
def test_the_four_phases_one_after_the_other(desk: Path):
    for words in commands():
        phase = Path(words[words.index("--out") + 1]).name if "--out" in words else words[0]
        main([*words, *SMALLER.get(phase, [])])
    for run in (
        "pretrain",
        "sft",
        "reward",
        "ppo",
        "dpo",
        "online-dpo",
        "raft",
        "reward-rankings",
        "reward-votes",
        "reward-ensemble",
        "reward-lora",
        "ppo-one-trunk",
        "sft-streamed",
    ):
        folder = desk / "runs" / run
        for name in ("config.yaml", "metrics.json", "export/config.json", "checkpoints/last.ckpt"):
            assert (folder / name).is_file(), f"{run}: no {name}"
        assert list((folder / "tensorboard").glob("events.*"))
        assert (folder / "reward-report.html").is_file() == (run == "dpo" or run.startswith("reward"))
    for name in ("scored.jsonl", "scored-votes.jsonl", "scored-votes-report/reward-report.html",
                 "drawn.jsonl", "best.jsonl", "runs/strength/strength.jsonl"):  # fmt: skip
        assert (desk / name).is_file(), name


@pytest.mark.filterwarnings("ignore")
def test_the_diff_applied_to_a_project_runs(
    desk: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    (desk / "model").symlink_to(tiny_model_dir)
    project = types.ModuleType("my_project")
    project.my_callbacks = lambda: []
    monkeypatch.setitem(sys.modules, "my_project", project)
    [diff] = blocks("diff")
    after = "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))
    exec(compile(after, "README.md", "exec"), {})
    assert (desk / "aligned" / "model.safetensors").is_file()


def test_the_reward_function_of_the_readme_is_one():
    from lit_rlhf.rewards.function import FunctionReward
    from tests.rewards.test_rewards import completions

    scope: dict = {}
    exec(blocks("python")[0], scope)
    assert FunctionReward(scope["brevity"]).score(completions(texts=("a b", "c"))).tolist() == pytest.approx(
        [-0.1, -0.05]
    )


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target

"""A loop from first to last on a tiny model: its files, kills at every step, people, changed settings."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_rlhf.cli.loop.course import Course
from lit_rlhf.cli.loop.people import LeaveForPeople
from lit_rlhf.cli.loop.settings import Evaluation, Fit, Loop, People, PolicyFit, Program
from lit_rlhf.cli.main import main
from lit_rlhf.cli.refusal import Refusal
from lit_rlhf.cli.steps.step import Steps
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict

Run = Callable[[Sequence[str]], int]
QUIET = {
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.accelerator": "cpu",
    "trainer.log_every_n_steps": 1,
}
GOLD = "tests.test_configs.count_letters"


def run_here(argv: Sequence[str]) -> int:
    """A step's command in this process, which has everything imported."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            if argv[0] == "-m":
                import_module(argv[1]).main(argv[2:])
            else:
                main(list(argv))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
            assert code == 0, f"{argv}: {code}\n{said.getvalue()}"
    return 0


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def loop(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """Two rounds of DPO, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"the soup {i}"} for i in range(14)])
    evaluation = write(tmp_path / "evaluation.jsonl", [{"prompt": f"a cake {i}"} for i in range(3)])
    return Loop(
        str(tiny_model_dir),
        prompts,
        PolicyFit(
            "dpo", {**QUIET, "model.max_new_tokens": 4, "data.batch_size": 2, "model.optimizer.lr": 0.2}
        ),
        annotators=(Program("ann", GOLD, temperature=0.5), Program("bob", GOLD, flips=0.2)),
        reward=None,
        rounds=2,
        prompts_per_round=6,
        sampling={"max-new-tokens": 4},
        overlap=2,
        held_out=0.2,
        evaluation=Evaluation(evaluation, judged=2),
        gold=GOLD,
        seed=5,
    )


def course(loop: Loop, out: str, run: Run = run_here) -> tuple[Course, list[str]]:
    said: list[str] = []
    drawn: Callable[[Path], None] = lambda folder: (folder / "loop.html").write_text("drawn")  # noqa: E731
    return Course(loop, Path(out), Steps(Path(out), run, said.append), drawn), said


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


STEPS = [
    *("start/answer", "start/measure"),
    *("round-1/sample", "round-1/import-labels", "round-1/annotate-labels-1", "round-1/annotate-labels-2"),
    *(
        "round-1/export-labels",
        "round-1/agreement-labels",
        "round-1/policy",
        "round-1/answer",
        "round-1/measure",
    ),
    *("round-1/import-duels", "round-1/annotate-duels-1", "round-1/annotate-duels-2", "round-1/export-duels"),
]


def test_two_rounds_and_a_kill_before_and_behind_every_command(loop: Loop) -> None:
    """The one that is killed at every step has the files of the first round of the one that is left alone."""
    whole, said = course(loop, "whole")
    whole.run()
    assert whole.steps.ran == [*STEPS, *(step.replace("-1/", "-2/") for step in STEPS[2:])]
    check_files(loop)

    seen: list[tuple[str, str]] = []

    def killed(argv: Sequence[str]) -> int:
        where = " ".join(argv).removesuffix(" --ckpt_path last")
        for moment in ("before", "behind"):
            if (where, moment) not in seen:
                seen.append((where, moment))
                if moment == "behind":
                    run_here(argv)
                raise KeyboardInterrupt
        return run_here(argv)

    for _ in range(100):
        parts, _ = course(replace(loop, rounds=1), "parts", killed)
        try:
            parts.run()
        except KeyboardInterrupt:
            continue
        break
    assert len(seen) == 2 * len(STEPS)
    for name in ("candidates", "labels", "train", "held_out", "responses", "duel_labels"):
        one, other = rows(f"whole/round-1/{name}.jsonl"), rows(f"parts/round-1/{name}.jsonl")
        for row in (*one, *other):
            for name_of_run in ("at", "seconds", "source", "sampling", "models"):
                row.pop(name_of_run, None)
        assert one == other, name
    weights = [
        Path(out, "round-1/policy/export/model.safetensors").read_bytes() for out in ("whole", "parts")
    ]
    assert weights[0] == weights[1]
    results = [json.loads(Path(out, "results.json").read_text())["rounds"][0] for out in ("whole", "parts")]
    for each in results:
        each.pop("seconds")
    assert results[0] == results[1]

    again, said = course(loop, "whole")
    again.run()
    assert not again.steps.ran and said.count("round-1/policy: done already") == 1


def check_files(loop: Loop) -> None:
    first, second = (rows(f"whole/round-{number}/candidates.jsonl") for number in (1, 2))
    assert [row["prompt"] for row in first] == [f"the soup {i}" for i in range(6)]
    assert [row["prompt"] for row in second] == [f"the soup {i}" for i in range(6, 12)]
    assert first[0]["source"] == loop.model and second[0]["source"] == "whole/round-1/policy/export"
    assert first[0]["sampling"]["seed"] != second[0]["sampling"]["seed"]
    labels = rows("whole/round-2/labels.jsonl")
    assert len(labels) == 12 and {row["annotator"] for row in labels} == {"ann", "bob"}
    held_out = {row["id"] for row in rows("whole/round-2/held_out.jsonl")}
    assert len(held_out) == 1 and held_out.isdisjoint(row["id"] for row in rows("whole/round-2/train.jsonl"))
    config = yaml.safe_load(Path("whole/round-2/policy/config.yaml").read_text())
    assert config["data"]["init_args"]["path"] == ["whole/round-1/train.jsonl", "whole/round-2/train.jsonl"]
    assert config["model"]["init_args"]["model"] == loop.model and config["seed_everything"] == loop.seed == 5
    commands = Path("whole/commands.sh").read_text().splitlines()
    assert commands[1:3] == ["# start/answer", commands[2]] and commands[2].startswith("lit-rlhf sample ")
    assert sum(line.startswith("lit-rlhf ") for line in commands) == 25
    assert sum(line.startswith("python -m lit_rlhf.cli.steps.measure ") for line in commands) == 3
    check_numbers(json.loads(Path("whole/results.json").read_text()))


def check_numbers(results: dict[str, Any]) -> None:
    answers = rows("whole/round-2/responses.jsonl")
    gold = [row["responses"][0].count("t") / 10 for row in answers]
    numbers = results["rounds"][1]
    assert numbers["gold"]["mean"] == pytest.approx(sum(gold) / 3)
    assert numbers["kl"]["count"] == 3 and numbers["labels_so_far"] == 24 and numbers["judgements"] == 12
    same = 2 - len(rows("whole/round-2/duels.jsonl"))
    won = [row["ranking"] for row in rows("whole/round-2/duel_labels.jsonl")]
    wins = [0.5 if len(groups) == 1 else float(groups[0] == [1]) for groups in won] + [0.5] * same
    assert numbers["wins_by_annotators"]["mean"] == pytest.approx(sum(wins) / len(wins))
    assert 0 <= numbers["agreement"]["mean"] <= 1 and results["start"]["kl"] is None


def test_the_kl_is_the_mean_log_ratio_of_the_responses(
    loop: Loop, tiny_llama: Any, tiny_tokenizer: Any
) -> None:
    """By transformers alone, one response at a time."""
    import torch

    from lit_rlhf.cli.steps.measure import log_ratios

    moved = Path("moved")
    with torch.no_grad():
        tiny_llama.model.norm.weight.mul_(1.1)
    tiny_llama.save_pretrained(moved)
    tiny_tokenizer.save_pretrained(moved)
    answers = [
        {"prompt": "the soup", "responses": [" is tasty"], "finished": [True]},
        {"prompt": "a train", "responses": [" looks late but"], "finished": [False]},
    ]
    found = log_ratios(answers, str(moved), loop.model)

    from transformers import AutoModelForCausalLM

    for row, ratio in zip(answers, found, strict=True):
        prompt = [
            tiny_tokenizer.bos_token_id,
            *tiny_tokenizer(row["prompt"], add_special_tokens=False)["input_ids"],
        ]
        response = tiny_tokenizer(row["responses"][0], add_special_tokens=False)["input_ids"]
        response += [tiny_tokenizer.eos_token_id] * row["finished"][0]
        sums = []
        for folder in (str(moved), loop.model):
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            with torch.no_grad():
                logprobs = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
            at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
            sums.append(sum(logprobs[place, token].item() for place, token in zip(at, response, strict=True)))
        assert ratio == pytest.approx(sums[0] - sums[1], abs=1e-4)


def test_people_label_and_the_loop_goes_on(loop: Loop) -> None:
    loop = replace(
        loop, annotators="people", overlap=1, rounds=1, people=People(wait=False, serve={"port": 9000}),
        evaluation=None, gold=None,
    )  # fmt: skip
    first, said = course(loop, "people")
    with pytest.raises(LeaveForPeople):
        first.run()
    assert "lit-rlhf label serve --db people/round-1/labels.db --overlap 1 --port 9000" in said[-2]
    assert said[-1].startswith("judged: 0 of 6")
    assert "label serve" in Path("people/commands.sh").read_text()
    with LabelStore("people/round-1/labels.db") as store:
        for item in store.items():
            store.record(item.number, "ann", Verdict(((1,), (0,)), "better"), submission=f"{item.number}")
    second, said = course(loop, "people")
    second.run()
    assert second.steps.ran == ["round-1/export-labels", "round-1/agreement-labels", "round-1/policy"]
    with LabelStore("people/round-1/labels.db") as store:
        store.record(
            1, "bob", Verdict(((0,), (1,)), "better"), submission="late", at="2999-01-01T00:00:00.000+00:00"
        )
    third, said = course(loop, "people")
    third.run()
    assert not third.steps.ran
    assert (
        "note: round-1: 1 judgements came after people/round-1/labels.jsonl was written, and are not in it"
        in said
    )
    candidates = {row["id"]: row["responses"] for row in rows("people/round-1/candidates.jsonl")}
    for row in rows("people/round-1/labels.jsonl"):
        assert [row["rejected"], row["chosen"]] == candidates[row["id"]] and row["annotator"] == "ann"


def test_a_changed_config_is_noticed_and_more_rounds_are_not_a_change(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = replace(loop, rounds=1, evaluation=None, gold=None, overlap=1, annotators=(Program("ann", GOLD),))
    course(loop, "run")[0].run()
    with pytest.raises(Refusal):
        course(replace(loop, policy=replace(loop.policy, set={**loop.policy.set, "model.beta": 0.7})), "run")[
            0
        ].run()
    assert "round-1/policy was done with something else" in capsys.readouterr().err
    with pytest.raises(Refusal):
        course(replace(loop, sampling={"max-new-tokens": 5}), "run")[0].run()
    assert "then --max-new-tokens 4; now --max-new-tokens 5" in capsys.readouterr().err
    with pytest.raises(Refusal):
        course(replace(loop, overlap=2), "run")[0].run()
    assert "then with overlap 1; now with overlap 2" in capsys.readouterr().err
    longer, _ = course(replace(loop, rounds=2), "run")
    longer.run()
    assert longer.steps.ran[0] == "round-2/sample" and "round-1/policy" in longer.steps.done


def test_ppo_from_rankings_with_a_reward_model(loop: Loop) -> None:
    """Three responses are ranked; the second policy starts from the first, its reference is the loop's model."""
    changes = {
        "data.batch_size": 4,
        "model.minibatch_size": 4,
        "trainer.max_epochs": 1,
        "model.max_new_tokens": 4,
    }
    loop = replace(
        loop,
        responses=3,
        reward=Fit("reward", QUIET),
        policy=PolicyFit("ppo", {**QUIET, **changes, "trainer.check_val_every_n_epoch": 1}, start="previous"),
        evaluation=replace(loop.evaluation, judged=0),  # type: ignore[type-var]
        annotators=(Program("ann", GOLD, temperature=0.5),),
        overlap=1,
    )
    run, _ = course(loop, "ppo")
    run.run()
    assert [step for step in run.steps.ran if step.startswith("round-2/")] == [
        *("round-2/sample", "round-2/import-labels", "round-2/annotate-labels-1", "round-2/export-labels"),
        *(
            "round-2/agreement-labels",
            "round-2/score-before",
            "round-2/reward",
            "round-2/policy",
            "round-2/answer",
        ),
        *("round-2/measure", "round-2/score-answers"),
    ]
    assert "ranking" in rows("ppo/round-1/labels.jsonl")[0]
    reward = yaml.safe_load(Path("ppo/round-2/reward/config.yaml").read_text())
    assert (
        reward["data"]["class_path"].endswith("RankingDataModule")
        and reward["model"]["init_args"]["model"] == loop.model
    )
    policy = yaml.safe_load(Path("ppo/round-2/policy/config.yaml").read_text())["model"]["init_args"]
    assert (policy["model"], policy["reference"]) == ("ppo/round-1/policy/export", loop.model)
    assert policy["reward"] == "ppo/round-2/reward/export"
    first, second = json.loads(Path("ppo/results.json").read_text())["rounds"]
    assert first["accuracy_before"] is None and second["accuracy_before"]["count"] > 0
    assert second["accuracy_held_out"] is not None and second["wins_by_annotators"] is None
    scores = [row["reward_scores"][0] for row in rows("ppo/round-2/scored_responses.jsonl")]
    wins = [0.5 if a == b else float(b > a) for a, b in zip(scores[:3], scores[6:], strict=True)]
    assert second["wins_by_reward"]["mean"] == pytest.approx(sum(wins) / 3)


def test_ppo_cannot_do_without_a_reward_model(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refusal):
        course(replace(loop, policy=PolicyFit("ppo")), "x")
    assert "reward: null goes with DPO" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_stops_on_a_signal_and_goes_on(loop: Loop) -> None:
    """In processes of their own: SIGTERM within a fit, exit code 143, and the same command ends it."""
    content = {
        "model": loop.model,
        "prompts": loop.prompts,
        "rounds": 1,
        "prompts_per_round": 6,
        "annotators": [{"name": "ann", "annotator": GOLD}],
        "reward": None,
        "sampling": dict(loop.sampling),
        "policy": {"config": "dpo", "set": {**loop.policy.set, "trainer.max_epochs": 5}},
    }
    Path("loop.yaml").write_text(yaml.safe_dump(content))
    words = [sys.executable, "-m", "lit_rlhf", "loop", "--config", "loop.yaml", "--out", "loop"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "train: " in line:
                process.send_signal(signal.SIGTERM)
                break
        said = process.stdout.read()
    assert process.returncode == 143, said
    assert "go on with: lit-rlhf loop --config loop.yaml --out loop" in said
    assert not Path("loop/round-1/policy/export").exists()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round-1/sample: done already" in done.stdout and Path("loop/loop.html").exists()

"""A comparison from first to last on a tiny model: its numbers, kills at every step, failures, more seeds, changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lit_rlhf.cli.compare import main as compare_main
from lit_rlhf.cli.compare.cells import Cells
from lit_rlhf.cli.compare.course import Course
from lit_rlhf.cli.compare.methods import read_methods
from lit_rlhf.cli.compare.results import ResultsReader, unequal_work
from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.compare.table import failures_of, table_of
from lit_rlhf.cli.refusal import Refusal
from lit_rlhf.reports.compare import draw_compare
from tests.cli.comparing import GOLD, Here, comparison_of, read_rows, write_config, write_rows

PAIRS: list[dict[str, Any]] = [
    {"prompt": f"the soup {i}", "chosen": " is tasty", "rejected": " is late"} for i in range(8)
]
VAL: list[dict[str, Any]] = [
    {"prompt": "the soup 9", "chosen": " is tasty", "rejected": " is late"},
    {"prompt": "a train", "chosen": " looks late", "rejected": " tasty"},
    {"prompt": "my hotel", "chosen": " a", "rejected": " b", "tie": True},
    {"prompt": "a train", "chosen": " tasty", "rejected": " looks late but"},
    {"prompt": "the soup 9", "chosen": " is", "rejected": " but"},
]


@dataclass
class Ran:
    """A comparison that has been run."""

    comparison: Comparison
    said: list[str]
    here: Here

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.comparison.out / "results.json").read_text())
        return found

    def cell(self, name: str, seed: int) -> dict[str, Any]:
        (method,) = (one for one in self.results["methods"] if one["name"] == name)
        (cell,) = (one for one in method["seeds"] if one["seed"] == seed)
        return dict(cell)


def course(comparison: Comparison, here: Here | None = None) -> tuple[Course, list[str]]:
    said: list[str] = []
    drawn: list[Path] = []  # the page takes a second
    cells = Cells(comparison, read_methods(comparison))
    return Course(cells, here or Here(), said.append, drawn.append), said


@pytest.fixture(scope="module")
def asked(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """DPO and PPO from the tiny model with two seeds, two updates each."""
    folder = tmp_path_factory.mktemp("compared")
    rollouts = {"minibatch_size": 4, "epochs": 1}
    configs = [
        write_config(folder / "dpo.yaml", model={"seed": 77}),
        write_config(folder / "ppo.yaml", "PPOModule", "PromptDataModule", model=rollouts),
    ]
    prompts = [{"prompt": f"the soup {i}"} for i in range(6)]
    return comparison_of(
        configs, folder / "out", model=str(tiny_model_dir), data=write_rows(folder / "pairs.jsonl", PAIRS),
        val=write_rows(folder / "val.jsonl", VAL), prompts=write_rows(folder / "prompts.jsonl", prompts), reward=GOLD,
        evaluation=write_rows(folder / "evaluation.jsonl", [{"prompt": f"a cake {i}"} for i in range(4)]), gold=GOLD,
        samples=3, seeds=(0, 1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(asked: Comparison) -> Ran:
    """The same, left alone."""
    here = Here()
    first, said = course(asked, here)
    assert first.run()
    draw_compare(asked.out)
    return Ran(asked, said, here)


def test_the_order_of_work_is_seed_by_seed(ran: Ran) -> None:
    commands = (ran.comparison.out / "commands.sh").read_text().splitlines()
    assert commands[0] == "# the steps of this comparison, in order"
    titles = [line[2:] for line in commands[1:] if line.startswith("# ")]
    cells = ["dpo/seed-0", "ppo/seed-0", "dpo/seed-1", "ppo/seed-1"]
    steps = [f"{cell}/{step}" for cell in cells for step in ("fit", "answer", "measure", "comparisons")]
    assert titles == ["start/answer", "start/measure", *steps]
    assert len(commands) == 1 + 2 * len(titles) == 1 + 2 * len(ran.here.ran)


def test_a_line_a_step_says_what_is_left(ran: Ran) -> None:
    progress = [line.strip() for line in ran.said if " of 18 steps" in line]
    assert len(progress) == 18 and progress[-1] == "18 of 18 steps"
    assert all(
        line.startswith(f"{number} of 18 steps, about ") for number, line in enumerate(progress[:-1], 1)
    )


def test_every_fit_has_the_same_start_data_and_budget_and_its_seed(ran: Ran) -> None:
    said = ran.comparison
    for name, path in (("dpo", said.data), ("ppo", said.prompts)):
        for seed in (0, 1):
            config = yaml.safe_load((said.out / name / f"seed-{seed}" / "run" / "config.yaml").read_text())
            model, data = config["model"]["init_args"], config["data"]["init_args"]
            assert (model["model"], data["path"], data["val_fraction"]) == (said.model, path, 0.0)
            assert config["seed_everything"] == seed
            assert model["seed"] == (seed if name == "dpo" else None)
            assert (config["trainer"]["max_steps"], config["trainer"]["max_epochs"]) == (2, -1)
    weights = {
        (name, seed): (said.out / f"{name}/seed-{seed}/run/export/model.safetensors").read_bytes()
        for name in ("dpo", "ppo") for seed in (0, 1)
    }  # fmt: skip
    assert len(set(weights.values())) == 4


def test_the_numbers_are_those_of_the_responses(ran: Ran, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    out, prompts = ran.comparison.out, [f"a cake {i}" for i in range(3)]
    for folder, cell in (
        ("start", ran.results["start"]), ("dpo/seed-1", ran.cell("dpo", 1)), ("ppo/seed-0", ran.cell("ppo", 0)),
    ):  # fmt: skip
        answers = read_rows(out / folder / "responses.jsonl")
        assert [row["prompt"] for row in answers] == prompts
        texts = [row["responses"][0] for row in answers]
        assert cell["gold"] == cell["reward"] == pytest.approx([text.count("t") / 10 for text in texts])
        assert cell["finished"] == [row["finished"][0] for row in answers]
        counts = [len(tiny_tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        assert cell["tokens"] == [count + done for count, done in zip(counts, cell["finished"], strict=True)]
        assert len(cell["kl"]) == 3 and any(cell["kl"]) == (folder != "start")
        assert {row["sampling"]["seed"] for row in answers} == {0}
    assert ran.results["start"]["accuracy"] is None and ran.results["start"]["updates"] == 0
    cells = [ran.cell(name, seed) for name in ("dpo", "ppo") for seed in (0, 1)]
    assert all(cell["state"] == "done" and cell["updates"] == 2 for cell in cells)
    assert all(cell["seconds"] > 0 and cell["wall_seconds"] > 0 for cell in cells)
    assert [cell["episodes"] for cell in cells] == [0, 0, 8, 8]


def logprob(folder: Path | str, tokenizer: PreTrainedTokenizerFast, prompt: str, response: str) -> float:
    """log π(y|x) with the EOS, by plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    said = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        every = model(torch.tensor([given + said])).logits[0].log_softmax(-1)
    return sum(every[len(given) - 1 + place, token].item() for place, token in enumerate(said))


def test_accuracy_is_the_implicit_rewards(ran: Ran, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    policy, start = ran.comparison.out / "dpo/seed-0/run/export", str(ran.comparison.model)
    right = []
    for row in VAL:
        better, worse = (
            logprob(policy, tiny_tokenizer, row["prompt"], row[side])
            - logprob(start, tiny_tokenizer, row["prompt"], row[side])
            for side in ("chosen", "rejected")
        )
        right.append(float(better > worse))
    del right[2]  # the tie
    found = ran.cell("dpo", 0)["accuracy"]
    assert found["right"] == right and 0 in right and 1 in right
    assert found["prompts"] == [json.dumps(VAL[place]["prompt"]) for place in (0, 1, 3, 4)]
    assert (found["rows"], found["mean"], found["ties"], found["unscored"]) == (4, sum(right) / 4, 1, 0)


def test_what_results_say_of_the_comparison(ran: Ran) -> None:
    said = ran.comparison
    assert ran.results["settings"] == {
        "model": said.model, "data": said.data, "val": said.val, "prompts": said.prompts, "reward": GOLD, "gold": GOLD,
        "evaluation": said.evaluation, "budget": {"updates": 2}, "seeds": [0, 1], "samples": 3, "max_new_tokens": 4,
    }  # fmt: skip
    dpo, ppo = ran.results["methods"]
    assert (dpo["name"], dpo["class"], dpo["loss"], dpo["config"]) == (
        "dpo",
        "DPOModule",
        "sigmoid",
        said.configs[0],
    )
    assert (ppo["name"], ppo["class"], ppo["loss"]) == ("ppo", "PPOModule", None)
    assert ppo["settings"] == {"minibatch_size": 4, "epochs": 1, "max_new_tokens": 4}
    assert json.loads((said.out / "compare.json").read_text())["updates"] == 2
    assert "ppo" in (said.out / "compare.html").read_text()
    lines = table_of(ran.results)
    assert lines[0].split() == ["method", "seeds", "accuracy", "%", "gold", "reward", "KL", "tokens", "updates",
                                "CPU", "s"]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["the", "dpo", "ppo"]


def test_done_again_it_does_nothing_and_more_is_only_added(ran: Ran, asked: Comparison) -> None:
    here = Here()
    again, said = course(asked, here)
    assert again.run() and not here.ran
    assert said == ["18 of 18 steps were done before"]
    longer, _ = course(replace(asked, seeds=(0, 1, 5)), fails := Failing("fit"))
    assert not longer.run()
    assert [argv[0] for argv in fails.asked] == ["fit", "fit"]
    assert all("--seed_everything=5" in argv for argv in fails.asked)
    assert Ran(asked, [], here).cell("dpo", 5)["state"] == "failed"
    course(asked, here)[0].run()  # as the other tests know it


def test_nothing_is_run_where_something_was_done_with_other_settings(asked: Comparison, ran: Ran) -> None:
    """A new method stands before the old one, and would be trained first."""
    other = write_config(asked.out.parent / "new.yaml")
    changed = replace(asked, configs=(other, *asked.configs), updates=3)
    with pytest.raises(Refusal):
        course(changed, here := Here())[0].run()
    assert not here.ran


def test_what_lies_there_of_an_earlier_asking_is_not_taken(asked: Comparison, ran: Ran) -> None:
    less = replace(asked, evaluation=None, gold=None)
    found = ResultsReader(Cells(less, read_methods(less))).collect()
    assert (
        found["start"] is None and found["evaluation_prompts"] is None and found["settings"]["samples"] == 0
    )
    (cell, _) = found["methods"][0]["seeds"]
    assert cell["state"] == "done" and cell["accuracy"]["rows"] == 4 and cell["updates"] == 2
    assert cell["gold"] is cell["reward"] is cell["kl"] is cell["tokens"] is cell["finished"] is None
    (asked.out / "dpo/seed-0/scored.jsonl").write_text('{"reward_scores": [7.0]}\n')
    without_val = replace(asked, val=None)
    (cell, _) = ResultsReader(Cells(without_val, read_methods(without_val))).collect()["methods"][0]["seeds"]
    assert cell["accuracy"] is None and cell["reward"] == cell["gold"] and cell["gold"] is not None
    (asked.out / "dpo/seed-0/scored.jsonl").unlink()


@pytest.mark.parametrize(
    ("seconds", "said"), [([2.0, 3.0], []), ([2.0, 3.2], ["ppo took 3.2 CPU seconds a fit, dpo 2"])]
)
def test_updates_that_are_not_the_same_work_are_said(seconds: list[float], said: list[str]) -> None:
    cells = [[{"state": "done", "seconds": took - 1}, {"state": "done", "seconds": took + 1}, {"state": "failed"}]
             for took in seconds]  # fmt: skip
    methods = [{"name": name, "seeds": seeds} for name, seeds in zip(("dpo", "ppo"), cells, strict=True)]
    found = unequal_work({"settings": {"budget": {"updates": 5}}, "methods": methods})
    assert len(found) == len(said) and all(part in note for part, note in zip(said, found, strict=True))
    assert not unequal_work({"settings": {"budget": {"seconds": 5}}, "methods": methods})
    assert not unequal_work({"settings": {"budget": {"updates": 5}}, "methods": methods[:1]})


def test_a_changed_setting_is_noticed(
    asked: Comparison, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refusal):
        course(replace(asked, updates=3))[0].run()
    said = capsys.readouterr().err
    assert "dpo/seed-0/fit was done with something else" in said
    assert "then --trainer.max_steps=2; now --trainer.max_steps=3" in said


class Failing(Here):
    """Fails where a command has a word, as one that ran out of memory or said why."""

    def __init__(self, word: str, code: int = 1) -> None:
        super().__init__()
        self.word, self.code = word, code
        self.asked: list[Sequence[str]] = []

    def run(self, argv: Sequence[str]) -> int:
        self.asked.append(argv)
        if any(self.word in word for word in argv):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text("epoch 1\nerror: the loss is nan\n(… shows where it came from)\n")
            return self.code
        return super().run(argv)


@pytest.mark.parametrize(
    ("word", "code", "why"),
    [
        ("seed-0/run", 1, "fit: the loss is nan"),
        (
            "measure",
            137,
            "measure: killed by SIGKILL, as it is where memory runs out; its last line: (… shows where it",
        ),
    ],
)
def test_a_cell_that_fails_is_noted_and_the_others_go_on(
    word: str, code: int, why: str, asked: Comparison, ran: Ran, tmp_path: Path
) -> None:
    small = replace(
        asked, out=tmp_path / "out", val=None, reward=None, seeds=(0,), configs=asked.configs[:1], gold=None
    )
    other = write_config(tmp_path / "other.yaml")
    small = replace(small, configs=(*small.configs, other))
    failing = Failing(f"dpo/{word}" if code == 1 else "dpo/seed-0/measures.json", code)
    first, said = course(small, failing)
    assert not first.run()
    assert any(line.strip().startswith(why) and "the other cells go on" in line for line in said)
    found = Ran(small, said, failing)
    assert found.cell("dpo", 0)["state"] == "failed" and found.cell("dpo", 0)["why"].startswith(why)
    assert found.cell("other", 0)["state"] == "done"
    assert failures_of(found.results) == [f"dpo/seed-0 failed: {found.cell('dpo', 0)['why']}"]
    assert "0 of 1" in table_of(found.results)[2]
    assert not course(small, failing)[0].run()
    done = Here()
    second, _ = course(small, done)
    assert second.run()
    assert found.cell("dpo", 0)["state"] == "done" and not (small.out / "dpo/seed-0/failed.json").exists()
    assert all("other" not in word for argv in done.ran for word in argv)


def test_killed_before_and_behind_every_command_it_ends_alike(
    asked: Comparison, ran: Ran, tmp_path: Path
) -> None:
    one = replace(asked, out=tmp_path / "out", seeds=(1,), configs=asked.configs[1:])
    seen: list[tuple[str, str]] = []

    class Killed(Here):
        def run(self, argv: Sequence[str]) -> int:
            where = " ".join(argv).removesuffix(" --ckpt_path last")
            for moment in ("before", "behind"):
                if (where, moment) not in seen:
                    seen.append((where, moment))
                    if moment == "behind":
                        super().run(argv)
                    raise KeyboardInterrupt
            return super().run(argv)

    for _ in range(40):
        try:
            assert course(one, Killed())[0].run()
        except KeyboardInterrupt:
            continue
        break
    assert len(seen) == 12
    parts, whole = Ran(one, [], Here()).cell("ppo", 1), ran.cell("ppo", 1)
    for cell in (parts, whole):
        del cell["seconds"], cell["wall_seconds"]
    assert parts == whole
    weights = "ppo/seed-1/run/export/model.safetensors"
    assert (one.out / weights).read_bytes() == (asked.out / weights).read_bytes()


def words_of(asked: Comparison, out: Path) -> list[str]:
    return [
        "--configs", asked.configs[0], "--out", str(out), "--model", str(asked.model), "--data", str(asked.data),
        "--evaluation", str(asked.evaluation), "--samples", "2", "--max-new-tokens", "4", "--gold", GOLD,
    ]  # fmt: skip


def test_the_command(
    asked: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its steps in this process: what it prints, and exit code 1 where a method failed."""
    failing = Failing("run/export")
    monkeypatch.setattr("lit_rlhf.cli.steps.logged.LoggedChildren", lambda lock, say: failing)
    words = [*words_of(asked, tmp_path / "out"), "--updates", "1"]
    words += ["--val", write_rows(tmp_path / "val.jsonl", PAIRS)]
    with pytest.raises(SystemExit) as stop:
        compare_main(words)
    assert stop.value.code == 1
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["command"] == ["lit-rlhf", "compare", *words]
    assert "--val: 8 of 8 rows have a prompt that stands in" in results["notes"][-1]
    said = capsys.readouterr()
    assert (
        "dpo/seed-0 failed: answer: the loss is nan" in said.err
        and "go on with: lit-rlhf compare" in said.err
    )
    failing.word = "nothing"
    compare_main(words)
    said = capsys.readouterr()
    assert "failed" not in said.err and f"page: {tmp_path / 'out' / 'compare.html'}" in said.out
    table = said.out.split("\n\n")[-2].splitlines()
    assert [line.split()[0] for line in table] == ["method", "the", "dpo", "a"]


def test_without_the_start_there_is_nothing_to_compare_with(
    asked: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Failing("start/measures.json", code=7)
    monkeypatch.setattr("lit_rlhf.cli.steps.logged.LoggedChildren", lambda lock, say: failing)
    with pytest.raises(SystemExit) as stop:
        compare_main([*words_of(asked, tmp_path / "out"), "--updates", "1"])
    assert stop.value.code == 7 and not (tmp_path / "out" / "dpo").exists()
    said = capsys.readouterr().err
    assert "the loss is nan\nall it said: " in said and "go on with: lit-rlhf compare" in said
    words = [*words_of(asked, tmp_path / "out"), "--updates", "1"]
    words[words.index("--gold") + 1] = "tests.test_configs.count_letters_for_everyone"
    with pytest.raises(SystemExit) as stop:
        compare_main(words)
    assert stop.value.code == 2 and "has no count_letters_for_everyone" in capsys.readouterr().err
    failing.word = "fit"
    del words[words.index("--gold") : words.index("--gold") + 2]
    with pytest.raises(SystemExit) as stop:
        compare_main(words)
    assert stop.value.code == 1, "the step that failed is begun anew with what is asked for now"
    assert (tmp_path / "out" / "start" / "measures.json").exists()


@pytest.mark.slow
def test_the_command_stops_on_a_signal_and_goes_on(asked: Comparison, tmp_path: Path) -> None:
    """In processes of their own: SIGTERM within a fit, exit code 143, and the same command ends it."""
    code = "import sys; from lit_rlhf.cli.compare import main; main(sys.argv[1:])"
    words = [
        sys.executable,
        "-c",
        code,
        *words_of(asked, tmp_path / "out"),
        "--seconds",
        "8",
        "--val",
        str(asked.val),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    last = tmp_path / "out/dpo/seed-0/run/checkpoints/last.ckpt"
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while not last.exists() and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 143, said
    assert "stopped; what was done is kept" in said and not (tmp_path / "out/dpo/seed-0/run/export").exists()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--ckpt_path last" in done.stdout and "2 of 6 steps were done before" in done.stdout
    (method,) = json.loads((tmp_path / "out/results.json").read_text())["methods"]
    assert method["seeds"][0]["seconds"] >= 8 and method["seeds"][0]["state"] == "done"

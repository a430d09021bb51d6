"""``lit-rlhf score``: what is written, in which order, what a stopped run leaves, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lit_rlhf.cli import score_lines, scoring
from lit_rlhf.cli.main import main
from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.cli.score_reading import kind_of
from lit_rlhf.cli.score_report import judged_by_scores
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.metrics.judged import Judged, JudgedComparisons
from lit_rlhf.models.components import Components
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Comparison, Row, Tree
from tests.conftest import make_llama
from tests.modules.training import random_trees

ROWS: list[dict[str, Any]] = [
    {
        "id": "c",
        "prompt": "the soup",
        "responses": [" is tasty", " late", " is lovely and fresh"],
        "note": "ü",
    },
    {"prompt": "a train", "chosen": " looks late", "rejected": " tasty", "margin": 0.5},
    {"prompt": "a", "response_a": " b", "response_b": " cake", "labels": [{"labeler": "x", "choice": "b"}]},
    {"prompt": "my hotel", "responses": [" a", " b c", " d"], "ranks": [2, 1, None]},
    {"prompt": "this lamp", "response": " seems lovely"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
    {"prompt": "nothing yet", "source": "sample"},
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def reward_dir(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "export"
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(make_llama(tiny_tokenizer).base_model), tiny_tokenizer, folder)
    return folder


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["score", *argv])
    assert stop.value.code == code
    return capsys.readouterr().err


def alone(model: Path, tokenizer: PreTrainedTokenizerFast, prompt: Any, response: Any) -> float:
    """The score of one response in a batch of its own."""
    (tree,), _ = plant_tree(Row(prompt, [response]), TextEncoder(tokenizer))
    with torch.no_grad():
        return load_scorer(str(model)).eval()(pack_trees([tree])).item()


def test_every_row_as_it_was_with_its_scores_in_order(
    reward_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.jsonl", ROWS[:3])
    write("b.jsonl", ROWS[3:])
    main(["score", str(reward_dir), "a.jsonl", "b.jsonl", "--out", "o.jsonl", "--max-tokens", "16"])
    written = read("o.jsonl")
    assert [{k: v for k, v in row.items() if not k.startswith("reward_")} for row in written] == ROWS
    expected = [
        [("the soup", r) for r in ROWS[0]["responses"]],
        [("a train", " looks late"), ("a train", " tasty")],
        [("a", " b"), ("a", " cake")],
        [("my hotel", r) for r in ROWS[3]["responses"]],
        [("this lamp", " seems lovely")],
        [(ROWS[5]["messages"][:1], ROWS[5]["messages"][1:])],
        [],
    ]
    for row, texts in zip(written, expected, strict=True):
        scores = [alone(reward_dir, tiny_tokenizer, *pair) for pair in texts]
        assert row["reward_scores"] == pytest.approx(scores, abs=1e-5)
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        assert [row["reward_ranks"][place] for place in order] == list(range(1, len(scores) + 1))
        assert "reward_disagreement" not in row
    said = capsys.readouterr().out
    assert "o.jsonl: 7 rows, 12 responses, 0 of them unscored\n  1 rows have no response\n" in said
    assert not list(Path().glob("*.part*"))


def test_equal_scores_share_a_rank() -> None:
    assert scoring.ranks_of([1.0, 3.0, None, 1.0, 0.5]) == [2, 1, None, 2, 4]


def test_components_say_how_far_they_disagree(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = ScorerNetwork(
        make_llama(tiny_tokenizer).base_model, components=Components(members=3, combine="min")
    )
    network.rescale(torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0]))
    export_scorer(network, tiny_tokenizer, tmp_path / "m")
    main(["score", "m", write("a.jsonl", ROWS[:2]), "--out", "o.jsonl"])
    (tree,), _ = plant_tree(Row("the soup", ROWS[0]["responses"]), TextEncoder(tiny_tokenizer))
    batch = pack_trees([tree])
    with torch.no_grad():
        heads = network.raw(network.read(batch).states) * torch.tensor([1.0, 2.0, 0.5]) - torch.tensor(
            [0, 1.0, -1]
        )
    row = read("o.jsonl")[0]
    assert row["reward_scores"] == pytest.approx(heads.amin(1).tolist(), abs=1e-5)
    assert row["reward_disagreement"] == pytest.approx(heads.std(1, correction=0).tolist(), abs=1e-5)


def test_probabilities_are_the_networks_own(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """A gate's weights depend on the prompt; σ of the combined difference would be another number."""
    torch.manual_seed(0)
    components = Components(domains=["x", "y"], combine="gate")
    network = ScorerNetwork(make_llama(tiny_tokenizer).base_model, components=components).eval()
    assert network.gate is not None
    torch.nn.init.normal_(network.gate.weight)
    prompts = ("the soup", "a train")
    trees = [
        plant_tree(Row(p, [" a", " late"], [Comparison(1, 0)]), TextEncoder(tiny_tokenizer))[0][0]
        for p in prompts
    ]
    with torch.no_grad():
        _, _, probability = scoring.judge(network, pack_trees(trees))
        for tree, found in zip(trees, probability.tolist(), strict=True):
            reading = network.read(pack_trees([tree]))
            heads = network.raw(reading.states)
            weights = network.gate_logits(reading)[0].softmax(0)
            assert found == pytest.approx(((heads[1] - heads[0]).sigmoid() * weights).sum().item(), abs=1e-5)


def test_two_of_the_same_command_do_not_write_one_file(
    reward_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(reward_dir), write("a.jsonl", ROWS[:1]), "--out", "o.jsonl"]
    score_batch, said = scoring.score_batch, []

    def twice(*arguments: Any) -> Any:
        if not said:
            said.append("")
            said.append(refusal(capsys, *argv, code=1))
        return score_batch(*arguments)

    monkeypatch.setattr(scoring, "score_batch", twice)
    main(["score", *argv])
    assert ".part: another run of the same command is writing it" in said[1]
    assert len(read("o.jsonl")) == 1


def test_a_stopped_run_goes_on_where_it_was(
    reward_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"row {number}", "response": " tasty" * (number % 5)} for number in range(40)]
    argv = ["score", str(reward_dir), write("a.jsonl", rows), "--max-tokens", "12"]
    main([*argv, "--out", "whole.jsonl"])
    monkeypatch.setattr(scoring, "BATCHES_AT_ONCE", 2)
    seen: list[int] = []
    score_batch = scoring.score_batch

    def interrupted(network: Any, trees: Any, fitting: Any, batch: Any, device: Any) -> Any:
        if len(seen) >= 13:
            raise KeyboardInterrupt
        seen.extend(batch)
        return score_batch(network, trees, fitting, batch, device)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score_batch", interrupted)
        said = refusal(capsys, *argv[1:], "--out", "o.jsonl", code=130)
    assert f"go on with: lit-rlhf score {reward_dir} a.jsonl --max-tokens 12 --out o.jsonl" in said
    assert not Path("o.jsonl").exists()
    (part,) = Path().glob("o.jsonl.*.part")
    assert f"interrupted; what was scored so far is kept in {part}\n" in said
    kept = len(part.read_text().splitlines())
    assert 0 < kept <= 13
    with open(part, "a") as file:
        file.write('{"scores": [0.1')  # as a kill in the middle of a line leaves it
    again: list[int] = []

    def noted(network: Any, trees: Any, fitting: Any, batch: Any, device: Any) -> Any:
        again.extend(batch)
        return score_batch(network, trees, fitting, batch, device)

    monkeypatch.setattr(scoring, "score_batch", noted)
    main([*argv, "--out", "o.jsonl"])
    assert sorted(again) == list(range(kept, 40))
    for one, other in zip(read("o.jsonl"), read("whole.jsonl"), strict=True):
        assert one["prompt"] == other["prompt"]
        assert one["reward_scores"] == pytest.approx(other["reward_scores"], abs=1e-5)
    assert not part.exists()


def test_what_was_scored_is_known_by_model_and_rows(
    reward_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    export_scorer(ScorerNetwork(make_llama(tiny_tokenizer).base_model), tiny_tokenizer, tmp_path / "other")
    tree = Tree([0, 5], [[6, 1], [7, 1]], [[True] * 2] * 2, [Comparison(0, 1)])
    turned = Tree([0, 5], [[6, 1], [7, 1]], [[True] * 2] * 2, [Comparison(1, 0)])
    longer = Tree([0, 5, 5], [[6, 1], [7, 1]], [[True] * 2] * 2, [Comparison(0, 1)])
    keys = [scoring.scoring_key(str(model), [one]) for model, one in (
        (reward_dir, tree), (tmp_path / "other", tree), (reward_dir, turned), (reward_dir, longer),
    )]  # fmt: skip
    assert len(set(keys)) == 4
    assert scoring.scoring_key(str(reward_dir), [tree]) == keys[0]


def test_responses_past_a_table_of_positions_have_no_score(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=12)
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(GPT2LMHeadModel(config).base_model), tiny_tokenizer, tmp_path / "gpt")
    rows = [
        {"prompt": "a", "chosen": " late", "rejected": " tasty" * 9, "id": "long"},
        {"prompt": "a", "chosen": " late", "rejected": " fresh"},
        {"prompt": "the soup " * 9, "response": "a"},
    ]
    main(["score", "gpt", write("a.jsonl", rows), "--out", "o.jsonl"])
    written = read("o.jsonl")
    assert written[0]["reward_scores"] == [pytest.approx(written[1]["reward_scores"][0], abs=1e-5), None]
    assert written[0]["reward_ranks"] == [1, None]
    assert written[2]["reward_scores"] == [None]
    said = capsys.readouterr().out
    assert (
        "2 rows run past the model's 12 positions (a.jsonl:1, a.jsonl:3): those responses have no score"
        in said
    )
    assert "3 rows, 5 responses, 2 of them unscored" in said
    assert json.loads(Path("o-report/metrics.json").read_text())["evaluation"]["comparisons"] == 1
    assert "note: 1 comparisons are left out, because a response of theirs has no score." in said
    assert "note: There is no bag of words to compare with: no --train was given." in said


def test_comparisons_keep_their_sides_where_a_response_has_no_score(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=12)
    torch.manual_seed(0)
    network = ScorerNetwork(GPT2LMHeadModel(config).base_model)
    torch.nn.init.normal_(network.head.weight)
    tree = Tree(
        [0], [[5] * 20, [6, 1], [7, 8, 1]], [], [Comparison(0, 1), Comparison(2, 1), Comparison(2, 0)]
    )
    tree.response_masks = [[True] * len(ids) for ids in tree.response_ids]
    (found,) = scoring.score_rows(network, [tree], tmp_path / "p.part", 100)
    first, second, third = found.scores
    assert first is None and second is not None and third is not None
    assert found.probability == [None, pytest.approx(torch.tensor(third - second).sigmoid().item()), None]


def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path) -> None:
    """Else the next line would be written behind its beginning."""
    part, line = tmp_path / "p.part", '{"scores": [1.0], "disagreement": [0.0], "probability": []}\n'
    part.write_text(line * 2 + '{"scores": [1.')
    assert score_lines.read_part(part, 5) == [score_lines.RowScores([1.0], [0.0], [])] * 2
    assert part.read_text() == line * 2


def test_rotary_positions_go_on_and_say_so(reward_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "score",
            str(reward_dir),
            write("a.jsonl", [{"prompt": "a", "response": " q" * 300}]),
            "--out",
            "o.jsonl",
        ]
    )
    assert read("o.jsonl")[0]["reward_scores"][0] is not None
    assert (
        "1 rows run past the model's 256 positions (a.jsonl:1): its positions are rotary"
        in capsys.readouterr().out
    )


def test_a_score_that_is_no_number_stops(
    reward_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(network: Any, batch: Any) -> Any:
        count = batch.num_responses
        return torch.full((count,), torch.nan), torch.zeros(count), torch.zeros(len(batch.better))

    monkeypatch.setattr(scoring, "judge", broken)
    assert "error: c: the score is [nan, nan, nan]" in refusal(
        capsys, str(reward_dir), write("a.jsonl", ROWS), "--out", "o.jsonl", code=1
    )
    assert not Path("o.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a.jsonl", "--out", "o.csv"], "--out o.csv: expected a name that ends in .jsonl."),
        (["a.jsonl", "--out", "a.jsonl"], "--out a.jsonl: is there already."),
        (["b.jsonl", "--out", "o.jsonl"], "FILE b.jsonl: no such file.\nNear it: a.jsonl"),
        (["a.jsonl", "--out", "o.jsonl", "--train", "t.jsonl"], "--train t.jsonl: no such file."),
        (["a.jsonl", "--out", "o.jsonl", "--max-tokens", "0"], "--max-tokens: expected 1 or more, found 0."),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.jsonl", ROWS)
    assert f"error: {expected}" in refusal(capsys, "no-such-model", *argv)


def test_a_policy_is_no_reward_model(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, str(tiny_model_dir), write("a.jsonl", ROWS), "--out", "o.jsonl", code=1)
    assert "is no reward model: its config.json names no SequenceClassification architecture" in said


def test_a_row_that_cannot_be_read_is_named(reward_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.jsonl", [*ROWS, {"prompt": "a", "chosen": " b"}])
    said = refusal(capsys, str(reward_dir), "a.jsonl", "--out", "o.jsonl", code=1)
    assert "1 bad of 8 rows:\n  a.jsonl:8: expected" in said
    assert "Mend or remove them: no row is skipped here." in said
    assert "bad_rows" not in said


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"prompt": "a", "text": "b"}, "demonstrations"),
        ({"instruction": "a", "output": "b"}, "demonstrations"),
        ({"prompt": "a", "response_a": "b"}, "pairs"),
        ({"prompt": "a", "answers": [{"answer": "b", "rank": 1}, {"answer": "c", "rank": 2}]}, "candidates"),
        ({"chosen": [], "rejected": []}, "pairs"),
        ("text", "candidates"),
    ],
)
def test_the_fields_say_what_a_row_is(fields: Any, kind: str) -> None:
    assert kind_of(fields) == kind


def test_windows_keep_the_rows_of_a_run_together() -> None:
    sizes = [3, 9, 1, 5, 30, 2, 2, 7, 4, 1] * 8
    trees = [Tree([0] * (size - 1), [[1]], [[True]]) for size in sizes]
    after = 2
    for window in scoring.windows(trees, 10, 2):
        numbers = sorted(number for batch in window for number in batch)
        assert numbers == list(range(after, after + len(numbers)))
        after += len(numbers)
        for batch in window:
            assert len(batch) == 1 or sum(sizes[number] for number in batch) <= 10
            assert [sizes[number] for number in batch] == sorted((sizes[n] for n in batch), reverse=True)
    assert after == len(trees)


def test_progress_measures_its_own_pace(capsys: pytest.CaptureFixture[str]) -> None:
    with RowProgress("scoring", 100, done=60) as progress:
        progress.advance(10)
        assert progress.line(20.0) == "scoring: row 70/100, about 1 min left"
    assert capsys.readouterr().err == ""  # seconds have not passed


def test_what_was_judged_is_what_a_validation_collects(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    components = Components(members=2, combine="mean_minus_std")
    network = ScorerNetwork(make_llama(tiny_tokenizer).base_model, components=components).eval()
    trees = random_trees(6)
    for number, tree in enumerate(trees):
        tree.ranks = (
            None if number % 2 else [float(place) for place in range(1, len(tree.response_ids))] + [None]
        )
        tree.comparisons[0] = Comparison(1, 0, target=0.75, tie=0.5)
    batch = pack_trees(trees, range(6))
    with torch.no_grad():
        scores, disagreement = network.forward_with_disagreement(batch)
        raw = network.raw(network.read(batch).states)
        probability = network.preference(raw[batch.better], raw[batch.worse])
    collected = JudgedComparisons()
    collected.update(batch, scores, probability, disagreement)
    expected = collected.compute()
    found = judged_by_scores(trees, scoring.score_rows(network, trees, Path("p.part"), 20))
    for field in fields(Judged):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_judged_rows_are_evaluated(
    reward_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["soup", "cake", "train", "hotel", "lamp", "tasty", "fresh", "late", "lovely", "sentence"]
    rows = [
        {"prompt": f"{one} or {other}", "chosen": f" {one}", "rejected": f" {other} and more"}
        for one, other in zip(words, words[1:] + words[:1], strict=True)
    ]
    write("a.jsonl", [*rows, {"prompt": "x", "responses": [" a", " b"]}])
    write("t.jsonl", rows[:1] + [{**row, "prompt": "other"} for row in rows] * 3)
    main(["score", str(reward_dir), "a.jsonl", "--out", "runs/o.jsonl", "--train", "t.jsonl"])
    said = capsys.readouterr().out
    right = sum(
        alone(reward_dir, tiny_tokenizer, row["prompt"], row["chosen"])
        > alone(reward_dir, tiny_tokenizer, row["prompt"], row["rejected"])
        for row in rows
    )
    numbers = json.loads(Path("runs/o-report/metrics.json").read_text())["evaluation"]
    assert numbers["accuracy"]["mean"] == pytest.approx(right / 10) and numbers["strict"] == 10
    assert numbers["baselines"]["longer wins"]["mean"] == 0
    assert numbers["baselines"]["bag of words"]["mean"] > 0.5  # it has learned that " and more" is worse
    assert "note: 1 of the prompts are in the training data too" in said
    assert "longer wins" in said and "report: runs/o-report/reward-report.html" in said
    page = Path("runs/o-report/reward-report.html").read_text()
    assert "a.jsonl" in page and str(reward_dir) in page


def test_what_is_not_judged_has_no_report(reward_dir: Path) -> None:
    main(["score", str(reward_dir), write("a.jsonl", [ROWS[0], ROWS[4]]), "--out", "o.jsonl"])
    assert sorted(entry.name for entry in Path().iterdir()) == ["a.jsonl", "o.jsonl"]


@pytest.mark.slow
def test_a_signal_in_a_process_of_its_own(reward_dir: Path) -> None:
    write("a.jsonl", [{"prompt": f"row {n}", "responses": [" a" * 200, " b" * 190]} for n in range(2000)])
    argv = [sys.executable, "-m", "lit_rlhf", "score", str(reward_dir), "a.jsonl", "--out", "o.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*argv, "--max-tokens", "400"], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not any(file.stat().st_size for file in Path().glob("o.jsonl.*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with: lit-rlhf score" in said

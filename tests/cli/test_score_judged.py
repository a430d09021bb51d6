"""``lit-rlhf score``: rows judged in other layouts, put together as validation does, and failures after the scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf import PairDataModule, RankingDataModule, RewardModule
from lit_rlhf.cli import score_files, scoring
from lit_rlhf.cli.main import main
from lit_rlhf.cli.reward_report import evaluate_rows
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Row
from tests.conftest import make_llama
from tests.modules.training import quiet_trainer

SAID = {"prompt": "the soup", "chosen": " is tasty", "rejected": " late"}
TURNED = {"prompt": "the soup", "chosen": " late", "rejected": " is tasty"}
ANNOTATED = [
    {**SAID, "annotator": "x"},
    {"prompt": "a train", "chosen": " looks late", "rejected": " tasty", "annotator": "x"},
    {**TURNED, "annotator": "y"},
    {**SAID, "annotator": "z"},
    {"prompt": "a train", "chosen": " looks late", "rejected": " tasty", "annotator": "z", "tie": True},
]
RATED = [
    {"prompt": [{"role": "user", "content": prompt}], "response": response, "helpfulness": rating,
     "correctness": 1, "coherence": 1, "complexity": 1, "verbosity": 1}
    for prompt, response, rating in (
        ("the soup", " is tasty", 3), ("a train", " looks late", 2), ("the soup", " late", 1),
        ("the soup", " fresh", 3), ("a train", " a", 0),
    )
]  # fmt: skip


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


def alone(model: Path, tokenizer: PreTrainedTokenizerFast, prompt: Any, response: str) -> float:
    (tree,), _ = plant_tree(Row(prompt, [response]), TextEncoder(tokenizer))
    with torch.no_grad():
        return load_scorer(str(model)).eval()(pack_trees([tree])).item()


def test_scores_stand_in_the_order_of_the_files_own_fields(
    reward_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    sides = {"prompt": "the soup", "response_1": " is tasty", "response_2": " late"}
    rows = [{**sides, "preference_strength": preference} for preference in (-2, 3, 0)]
    main(["score", str(reward_dir), write("a.jsonl", rows), "--out", "o.jsonl"])
    turns = [{"role": "user", "content": "the soup"}]  # as HelpSteer's prompts are read
    expected = [alone(reward_dir, tiny_tokenizer, turns, r) for r in (" is tasty", " late")]
    order = [1, 2] if expected[0] > expected[1] else [2, 1]
    for row in read("o.jsonl"):
        assert row["reward_scores"] == pytest.approx(expected, abs=1e-5)
        assert row["reward_ranks"] == order


@pytest.mark.parametrize(("rows", "data"), [(ANNOTATED, PairDataModule), (RATED, RankingDataModule)])
def test_the_evaluation_is_that_of_a_validation(
    rows: list[dict[str, Any]],
    data: Any,
    reward_dir: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["score", str(reward_dir), write("a.jsonl", rows), "--out", "o.jsonl"])
    said = capsys.readouterr().out
    assert (
        "5 rows were votes on 2 pairs"
        if data is PairDataModule
        else "5 rows of one rated response became 2 rankings"
    ) in said
    found = json.loads(Path("o-report/metrics.json").read_text())["evaluation"]
    module = RewardModule(str(reward_dir), center=False)
    datamodule = data(val_path="a.jsonl")
    quiet_trainer().validate(module, datamodule=datamodule, verbose=False)
    judged = module.evaluation()
    assert judged is not None
    evaluation, _ = evaluate_rows(judged, datamodule.rows("val"), "none")
    assert found["comparisons"] == evaluation.comparisons == (2 if data is PairDataModule else 4)
    for name in ("log_loss", "noise_floor", "kendall_tau", "vote_ceiling"):
        ours, theirs = found[name], getattr(evaluation, name)
        ours, theirs = (
            (ours["mean"], theirs.mean) if isinstance(ours, dict) and "mean" in ours else (ours, theirs)
        )
        assert ours == pytest.approx(theirs, abs=1e-4), name
    for row in read("o.jsonl"):  # every row of the file has its own responses' scores
        responses = [row["response"]] if "response" in row else [row["chosen"], row["rejected"]]
        scores = [alone(reward_dir, tiny_tokenizer, row["prompt"], r) for r in responses]
        assert row["reward_scores"] == pytest.approx(scores, abs=1e-5)


def test_a_failed_report_is_made_by_the_same_command(
    reward_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["score", str(reward_dir), write("a.jsonl", [SAID]), "--out", "o.jsonl"]
    Path("o-report").write_text("in the way of the report's folder")
    with pytest.raises(OSError, match="o-report"):
        main(argv)
    (part,) = Path().glob("o.jsonl.*.part")
    assert not Path("o.jsonl").exists()
    assert f"what was scored is kept in {part}; the same command goes on" in capsys.readouterr().err
    Path("o-report").unlink()
    monkeypatch.setattr(scoring, "score_batch", lambda *_: pytest.fail("scored again"))
    main(argv)
    assert sorted(entry.name for entry in Path().iterdir()) == ["a.jsonl", "o-report", "o.jsonl"]


def test_training_rows_are_read_before_anything_is_scored(
    reward_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(score_files, "load_scorer", lambda *_: pytest.fail("loaded"))
    train = write("t.jsonl", [{"prompt": "a", "chosen": " b"}])
    with pytest.raises(SystemExit):
        main(["score", str(reward_dir), write("a.jsonl", [SAID]), "--out", "o.jsonl", "--train", train])
    assert "t.jsonl:1: expected" in capsys.readouterr().err
    assert sorted(entry.name for entry in Path().iterdir()) == ["a.jsonl", "t.jsonl"]


def test_half_characters_beside_the_texts_are_kept_and_in_them_refused(
    reward_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**SAID, "note": "ü\ud83d", "id": "\ud83d", "domain": "\udc00"}, SAID]
    main(["score", str(reward_dir), write("a.jsonl", rows), "--out", "o.jsonl"])
    assert [
        {name: row[name] for name in row if not name.startswith("reward")} for row in read("o.jsonl")
    ] == rows
    with pytest.raises(SystemExit):
        main(
            ["score", str(reward_dir), write("b.jsonl", [{**SAID, "chosen": " x\ud83d"}]), "--out", "p.jsonl"]
        )
    assert (
        "b.jsonl:1: expected characters, found half of one, '\\ud83d', behind ' x'" in capsys.readouterr().err
    )


def test_equal_sides_are_refused_without_an_option_of_others(
    reward_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a", "chosen": " b", "rejected": " b"}]
    with pytest.raises(SystemExit):
        main(["score", str(reward_dir), write("a.jsonl", rows), "--out", "o.jsonl"])
    said = capsys.readouterr().err
    assert "take the row out" in said and "bad_rows" not in said

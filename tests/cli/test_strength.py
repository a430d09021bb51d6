"""``lit-rlhf strength``: who judges which row, what becomes of it, and how the command goes on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli import strength_members, strength_rows, strength_run
from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main
from lit_rlhf.cli.score_lines import RowScores
from lit_rlhf.cli.strength_members import Fit, FitStopped, differences, place_differences
from lit_rlhf.cli.strength_rows import StrengthRow, comparisons_to_judge, treat
from lit_rlhf.cli.strength_run import deal_folds
from lit_rlhf.cli.strength_settings import judgements_fingerprint, settle_settings
from lit_rlhf.data.formats import parse_row
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.records import Comparison, Row, Tree, Vote

PAIRS: list[dict[str, Any]] = [
    {"id": f"{word}{number}", "prompt": word, "chosen": f" tasty {number}", "rejected": f" late {number}"}
    for word in ("soup", "cake", "train")
    for number in range(3)
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", PAIRS)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of the fits, which run in this process."""
    calls: list[list[str]] = []

    def in_process(arguments: list[str]) -> int:
        calls.append(arguments)
        main(["fit", *arguments])
        return 0

    monkeypatch.setattr(strength_members, "run_fit", in_process)
    return calls


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def command(model: Path, *more: str, data: str = "pairs.jsonl") -> list[str]:
    return [
        "strength", "--config", str(shipped()["reward"]), "--model.model", str(model), "--data.path", data,
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
        "false", "--trainer.log_every_n_steps", "1", "--data.batch_size", "4", "--trainer.logger", "false",
        "--out", "s", "--members", "2", *more,
    ]  # fmt: skip


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == code
    return capsys.readouterr().err


def difference(export: str, tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]) -> float:
    """score(chosen) - score(rejected), each scored by itself."""
    network, encoder = load_scorer(export).eval(), TextEncoder(tokenizer)
    with torch.no_grad():
        chosen, rejected = (
            network(pack_trees(plant_tree(Row(row["prompt"], [row[side]]), encoder)[0])).item()
            for side in ("chosen", "rejected")
        )
    return chosen - rejected


def test_members_judge_every_row_and_another_treatment_trains_nothing(
    tiny_model_dir: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    fitted: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(command(tiny_model_dir, "--seed_everything", "7"))
    rows = read("s/strength.jsonl")
    assert [{k: v for k, v in row.items() if not k.startswith("strength")} for row in rows] == PAIRS
    for row in rows:
        one, other = (difference(f"s/member-0{m}/export", tiny_tokenizer, row) for m in (0, 1))
        assert abs(one - other) > 1e-4  # the members are not the same model
        assert row["strength"] == pytest.approx((one + other) / 2, abs=1e-5)
        assert row["strength_std"] == pytest.approx(abs(one - other) / 2, abs=1e-5)
    configs = [yaml.safe_load(Path(f"s/member-0{m}/config.yaml").read_text()) for m in (0, 1)]
    assert [config["seed_everything"] for config in configs] == [7, 8]
    assert [config["data"]["init_args"]["seed"] for config in configs] == [7, 8]
    assert [config["data"]["init_args"]["val_fraction"] for config in configs] == [0, 0]
    assert Path("s/strength.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert (
        "model 1 of 2, seed 7: s/member-00\n" in said and "model 2 of 2, seed 8: s/member-01, about" in said
    )

    main(command(tiny_model_dir, "--seed_everything", "7", "--then", "flip+margin", "--share", "0.34"))
    assert len(fitted) == 2
    said = capsys.readouterr().out
    assert "2 of 2 models are finished already" in said
    mended = read("s/strength.jsonl")
    weakest = sorted(range(9), key=lambda place: rows[place]["strength"])[:3]
    for place, (before, after) in enumerate(zip(rows, mended, strict=True)):
        sign = -1 if place in weakest else 1
        assert after.get("flipped", False) == (place in weakest)
        assert (after["chosen"], after["rejected"]) == (before["chosen"], before["rejected"])[::sign]
        assert after["strength"] == pytest.approx(sign * before["strength"], abs=1e-6)
        assert after["margin"] == max(after["strength"], 0.0)
    main(["check", *command(tiny_model_dir, data="s/strength.jsonl")[1:-4]])  # the file can be trained on


def test_folds_judge_rows_by_models_that_have_not_seen_their_prompts(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, fitted: list[list[str]]
) -> None:
    main(command(tiny_model_dir, "--members", "1", "--folds", "2"))
    trained = [{row["prompt"] for row in read(f"s/fold-{fold}.jsonl")} for fold in (0, 1)]
    assert sorted(map(len, trained)) == [1, 2] and trained[0] | trained[1] == {"soup", "cake", "train"}
    paths = [call[len(call) - call[::-1].index("--data.path")] for call in fitted]
    assert paths == ["s/fold-0.jsonl", "s/fold-1.jsonl"]
    for row in read("s/strength.jsonl"):
        (fold,) = [number for number in (0, 1) if row["prompt"] not in trained[number]]
        judged = difference(f"s/member-00-fold-{fold}/export", tiny_tokenizer, row)
        assert row["strength"] == pytest.approx(judged, abs=1e-5) and row["strength_std"] == 0


def test_rows_of_one_prompt_are_in_one_fold() -> None:
    keys = [f"prompt {number % 11}" for number in range(40)]
    parts = deal_folds(keys, 3, seed=0)
    assert sorted(row for part in parts for row in part) == list(range(40))
    prompts = [{keys[row] for row in part} for part in parts]
    assert sorted(map(len, prompts)) == [3, 4, 4]
    assert not prompts[0] & prompts[1] and not prompts[1] & prompts[2] and not prompts[0] & prompts[2]
    assert deal_folds(keys, 3, seed=1) != parts
    with pytest.raises(ValueError, match="--folds 12: expected as many prompts at least, found 11"):
        deal_folds(keys, 12, seed=0)


def test_a_stopped_fit_is_continued(
    tiny_model_dir: Path,
    fitted: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, argv = strength_members.run_fit, command(tiny_model_dir, "--trainer.max_epochs", "2")

    def stops_in_the_second(arguments: list[str]) -> int:
        if "s/member-01" not in arguments:
            return run(arguments)
        run([*arguments, "--trainer.max_epochs", "1"])
        Path("s/member-01/export/config.json").unlink()
        return 130

    with monkeypatch.context() as patch:
        patch.setattr(strength_members, "run_fit", stops_in_the_second)
        said = refusal(capsys, *argv, code=130)
    assert "stopped; what is finished is kept in s\ngo on with: lit-rlhf strength --config" in said
    assert not Path("s/strength.jsonl").exists()
    main(argv)
    assert ["--ckpt_path" in call for call in fitted] == [False, False, True]
    last = torch.load("s/member-01/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 6  # two epochs of nine rows, four a batch
    assert len(read("s/strength.jsonl")) == 9


def test_a_fit_that_fails_ends_the_command_with_its_code(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(strength_members, "run_fit", lambda arguments: -15)
    assert "go on with:" in refusal(capsys, *command(tiny_model_dir), code=143)
    for ends, code in ((1, 1), (0, 1)):  # 0, and yet no export
        monkeypatch.setattr(strength_members, "run_fit", lambda arguments, ends=ends: ends)
        with pytest.raises(FitStopped) as stopped:
            differences([Fit(Path("none"), 0, [])], 1, [], [], 8, "cpu")
        assert stopped.value.exit_code == code


def test_a_folder_of_other_models_is_refused(
    tiny_model_dir: Path, fitted: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(tiny_model_dir, "--members", "1"))
    said = refusal(capsys, *command(tiny_model_dir, "--model.optimizer.lr", "0.01"))
    assert "s holds models that were trained otherwise: model.optimizer.lr was 0.0001 and is 0.01." in said
    Path("pairs.jsonl").rename("moved.jsonl")
    main(command(tiny_model_dir, "--members", "1", "--trainer.log_every_n_steps", "5", data="moved.jsonl"))
    assert len(fitted) == 1
    assert all(row["strength_std"] == 0 for row in read("s/strength.jsonl"))


def test_settings_are_compared_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"model.link": None, "folds": 0, "rows": "a" * 64, "data.chat_template": None}
    settle_settings(tmp_path, settings)
    settle_settings(tmp_path, dict(reversed(settings.items())))
    for change, said in (
        ({"folds": 2}, "folds was 0 and is 2."),
        ({"rows": "b" * 64}, "otherwise: rows."),
        ({"model.margin": 1.0}, "model.margin was None and is 1.0."),
    ):
        with pytest.raises(SystemExit):
            settle_settings(tmp_path, {**settings, **change})
        assert said in capsys.readouterr().err


def test_all_that_is_said_of_rows_tells_folders_apart() -> None:
    row = Row("p", ["a", "b"], [Comparison(0, 1)], [1.0, 2.0], [3.0, 1.0], [Vote("x", 1.0)])
    others = [
        replace(row, comparisons=[replace(row.comparisons[0], **change)])
        for change in (
            {"better": 1, "worse": 0},
            {"target": 0.75},
            {"margin": 1.0},
            {"weight": 2.0},
            {"tie": 0.5},
        )
    ]
    changes: list[dict[str, Any]] = [
        {"ranks": [1.0, 1.0]}, {"ratings": [4.0, 1.0]}, {"votes": [Vote("x", 0.5)]}, {"votes": [Vote("y", 1.0)]},
        {"domain": "d"}, {"annotator": "z"},
    ]  # fmt: skip
    others += [replace(row, **change) for change in changes]
    prints = [judgements_fingerprint(rows) for rows in ([row], *([other] for other in others), [row, row])]
    assert len(set(prints)) == len(prints) == 13
    assert judgements_fingerprint([replace(row, columns={"note": 1}, place="f:9", id="i")]) == prints[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": 0.6}, "otherwise: judgements."),
        ({"margin": 0.5}, "otherwise: judgements."),
    ],
)
def test_models_of_other_labels_are_not_taken(
    change: dict[str, Any],
    said: str,
    tiny_model_dir: Path,
    fitted: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(command(tiny_model_dir, "--members", "1"))
    write("pairs.jsonl", [{**PAIRS[0], **change}, *PAIRS[1:]])
    assert said in refusal(capsys, *command(tiny_model_dir, "--members", "1"))
    assert len(fitted) == 1


def test_models_of_another_start_are_not_taken(
    tiny_model_dir: Path, fitted: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_model_dir, "model")
    main(command(Path("model"), "--members", "1"))
    weights = load_file("model/model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, "model/model.safetensors", {"format": "pt"})
    assert "otherwise: start model." in refusal(capsys, *command(Path("model"), "--members", "1"))


def test_folds_that_cannot_be_leave_no_settings(
    tiny_model_dir: Path, fitted: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, *command(tiny_model_dir, "--folds", "4"), code=1)
    assert "--folds 4: expected as many prompts at least, found 3." in said and not Path("s").exists()
    main(command(tiny_model_dir, "--folds", "3", "--members", "1"))


def test_weights_are_said_to_be_missing_and_told_apart(
    tiny_model_dir: Path, fitted: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    write("more.jsonl", [{**row, "prompt": f"{row['prompt']} x"} for row in PAIRS])

    def weighed(weight: float) -> list[str]:
        data = [{"path": "pairs.jsonl"}, {"path": "more.jsonl", "weight": weight}]
        return command(tiny_model_dir, "--members", "1", data=json.dumps(data))

    main(weighed(2))
    said = capsys.readouterr().out
    assert said.count("weights of data.path (more.jsonl 2), but strength.jsonl holds every row once") == 2
    assert len(read("s/strength.jsonl")) == 18
    assert "weights was [1.0, 2.0] and is [1.0, 3.0]." in refusal(capsys, *weighed(3))
    assert "weights of data.path" not in capsys.readouterr().out


def test_half_characters_beside_the_texts_are_kept(tiny_model_dir: Path, fitted: list[list[str]]) -> None:
    rows = [{**PAIRS[0], "note": "\ud83d"}, *PAIRS[1:]]
    write("pairs.jsonl", rows)
    main(command(tiny_model_dir, "--members", "1", "--folds", "2"))
    assert read("s/strength.jsonl")[0]["note"] == "\ud83d"


def test_the_picture_shows_what_the_table_counts(
    tiny_model_dir: Path, fitted: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[float]] = []
    monkeypatch.setattr(strength_run, "draw_strengths", lambda path, *numbers: drawn.extend(numbers))
    ties = [{**row, "prompt": f"{row['prompt']} x", "tie": True} for row in PAIRS[:4]]
    write("pairs.jsonl", [*ties, *PAIRS])
    main(command(tiny_model_dir))
    written = read("s/strength.jsonl")
    assert drawn[0] == [row["strength"] for row in written[4:]]
    assert drawn[1] == [row["strength_std"] for row in written[4:]]


def row_of(fields: dict[str, Any], *strengths: float, kind: Any = "pairs") -> StrengthRow:
    row = parse_row(fields, kind, "f:1")
    row.comparisons = comparisons_to_judge(fields, row)
    tree = Tree([0], [[1]] * len(row.responses), [[True]] * len(row.responses), row.comparisons)
    return StrengthRow(fields, row, tree, list(strengths), [0.5] * len(strengths))


def pair(strength: float, **more: Any) -> StrengthRow:
    return row_of({"prompt": "p", "chosen": "a", "rejected": "b", **more}, strength)


def test_flip_swaps_the_weakest_share() -> None:
    rows = [pair(s) for s in (2.0, -0.5, 0.1, -3.0, 1.0)]
    assert treat(rows, "flip", share=0.6, alpha=0.1) == {
        "flipped": 3, "flipped though positive": 1, "left as they were": 2,
    }  # fmt: skip
    written = [row.written() for row in rows]
    assert [row["chosen"] for row in written] == ["a", "b", "b", "b", "a"]
    assert [row["rejected"] for row in written] == ["b", "a", "a", "a", "b"]
    assert [row["strength"] for row in written] == [2.0, 0.5, -0.1, 3.0, 1.0]
    assert ["flipped" in row for row in written] == [False, True, True, True, False]
    assert not any("margin" in row or "target" in row for row in written)


def test_all_that_is_said_of_the_sides_goes_with_them() -> None:
    more = {
        "score_chosen": 4, "score_rejected": 1, "gold_chosen": 0.5, "gold_rejected": -0.5, "chosen-rating": 5,
        "rejected-rating": 2, "chosen_avg_rating": 3, "rejected_avg_rating": 1, "reward_scores": [1.0, -1.0],
        "reward_ranks": [1, 2], "reward_disagreement": [0.1, 0.2], "rejected_by": "x", "Chosen_model": "m",
        "reward_notes": [1, 2, 3], "tags": [1, 2], "unchosen": 0,
    }  # fmt: skip
    row, kept = pair(-1.0, **more), pair(1.0, **more)
    treat([row, kept], "flip", share=0.5, alpha=0.1)
    written = row.written()
    assert {name: written[name] for name in more} == {
        "score_chosen": 1, "score_rejected": 4, "gold_chosen": -0.5, "gold_rejected": 0.5, "chosen-rating": 2,
        "rejected-rating": 5, "chosen_avg_rating": 1, "rejected_avg_rating": 3, "reward_scores": [-1.0, 1.0],
        "reward_ranks": [2, 1], "reward_disagreement": [0.2, 0.1], "rejected_by": "x", "Chosen_model": "m",
        "reward_notes": [1, 2, 3], "tags": [1, 2], "unchosen": 0,
    }  # fmt: skip
    assert {name: kept.written()[name] for name in more} == more
    (said,) = strength_rows.unswapped([row, kept])
    assert said.endswith("no such field: Chosen_model (1 rows), rejected_by (1 rows), unchosen (1 rows)")
    assert strength_rows.unswapped([kept]) == []


def numbered(preference: int, strength: float, **more: Any) -> StrengthRow:
    sides = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": preference}
    return row_of({**sides, **more}, strength)


def test_numbered_sides_are_flipped_by_their_preference() -> None:
    lists = {"reward_scores": [1.0, 2.0], "score_chosen": 4, "score_rejected": 1}
    rows = [numbered(2, -3.0, **lists), numbered(-1, -2.0), numbered(0, -4.0), numbered(3, 1.0)]
    changes = treat(rows, "flip+margin", share=0.67, alpha=0.1)
    assert changes["flipped"] == 2 and changes["left as they were"] == 1
    written = [row.written() for row in rows]
    assert [(row["response_1"], row["response_2"]) for row in written] == [("a", "b")] * 4
    assert [row["preference_strength"] for row in written] == [-2, 1, 0, 3]
    assert [row["strength"] for row in written] == [3.0, 2.0, -4.0, 1.0]
    assert [row.get("margin") for row in written] == [3.0, 2.0, None, 1.0]
    assert written[0]["reward_scores"] == [1.0, 2.0]  # the texts have not moved
    assert (written[0]["score_chosen"], written[0]["score_rejected"]) == (1, 4)
    read_again = [parse_row(row, "pairs", "f:1") for row in written]
    assert [row.responses[0] for row in read_again] == ["a", "b", "a", "b"]
    assert [row.comparisons[0].margin for row in read_again] == [3.0, 2.0, 0.0, 1.0]


def test_a_numbered_side_that_is_flipped_has_no_margin_of_the_old_label() -> None:
    rows = [numbered(3, -1.0), numbered(-2, 1.0)]
    treat(rows, "flip", share=0.5, alpha=0.1)
    assert parse_row(rows[0].written(), "pairs", "f:1").comparisons[0].margin == 0
    assert parse_row(rows[1].written(), "pairs", "f:1").comparisons[0].margin == 2


def test_marks_of_an_earlier_round_stay_true() -> None:
    kinds: list[dict[str, Any]] = [{}, {"flipped": True}, {"flipped": False}, {"flipped_before": True}]
    swapped, left = [pair(-1.0, **more) for more in kinds], [pair(1.0, **more) for more in kinds]
    treat([*swapped, *left], "flip", share=0.5, alpha=0.1)
    assert [[row.written().get(name) for name in ("flipped", "flipped_before")] for row in swapped] == [
        [True, None], [False, None], [True, None], [False, None],
    ]  # fmt: skip
    assert [[row.written().get(name) for name in ("flipped", "flipped_before")] for row in left] == [
        [None, None], [None, True], [None, None], [None, True],
    ]  # fmt: skip


def test_a_margin_of_the_old_label_goes_with_it() -> None:
    row = pair(-1.0, margin=2.0)
    treat([row, pair(1.0)], "flip", share=0.5, alpha=0.1)
    assert row.written()["margin"] == 0.0


def test_soft_lowers_the_target_of_negative_strengths() -> None:
    rows = [pair(-0.1), pair(0.1), pair(-2.0, target=0.8)]
    assert treat(rows, "soft", share=0.1, alpha=0.2) == {"softened": 2, "left as they were": 1}
    targets = [row.written().get("target") for row in rows]
    assert targets == [pytest.approx(0.8), None, pytest.approx(0.8 * 0.8 + 0.2 * 0.2)]
    assert not any("margin" in row.written() for row in rows)


def test_margins_are_strengths_of_the_label_as_it_is_then() -> None:
    rows = [pair(s) for s in (2.0, -0.5, -3.0, 1.0)]
    changes = treat(rows, "flip+margin", share=0.25, alpha=0.1)
    assert [row.written()["margin"] for row in rows] == [2.0, 0.0, 3.0, 1.0]
    assert changes["margin above 0"] == 3 and changes["left as they were"] == 0
    rows = [pair(s) for s in (2.0, -0.5)]
    treat(rows, "soft+margin", share=0.25, alpha=0.1)
    assert [(r.written().get("target"), r.written()["margin"]) for r in rows] == [(None, 2.0), (0.9, 0.0)]


def test_what_says_of_no_side_that_it_is_better_is_left_alone() -> None:
    tie, doubted = pair(-5.0, tie=True), pair(-4.0, target=0.2)
    changes = treat([tie, doubted, pair(1.0)], "flip+margin", share=0.4, alpha=0.1)
    assert changes["flipped"] == 0 and changes["left as they were"] == 2
    assert tie.written() == {**tie.fields, "strength": -5.0, "strength_std": 0.5}
    (against,) = doubted.tree.comparisons  # chosen against rejected, as the file has them
    assert (against.better, against.worse, against.target) == (0, 1, pytest.approx(0.2))


def test_other_names_of_the_sides_are_swapped_where_they_stand() -> None:
    row = row_of({"prompt": "p", "chosen_response": "a", "rejected_response": "b"}, -1.0)
    treat([row, pair(1.0)], "flip", share=0.5, alpha=0.1)
    assert (row.written()["chosen_response"], row.written()["rejected_response"]) == ("b", "a")


def test_the_annotators_of_one_pair_stay_apart_and_rows_of_no_comparison_are_kept(
    tiny_model_dir: Path, fitted: list[list[str]]
) -> None:
    """The data module makes one row of the two; each label of the file has a strength of its own."""
    same = {"prompt": "soup", "chosen": " a", "rejected": " b", "annotator": "x"}
    turned = {"prompt": "soup", "chosen": " b", "rejected": " a", "annotator": "y"}
    rows = [same, turned, *PAIRS]
    main(command(tiny_model_dir, "--members", "1", data=write("r.jsonl", rows)))
    written = read("s/strength.jsonl")
    assert len(written) == len(rows)
    assert written[0]["strength"] == pytest.approx(-written[1]["strength"], abs=1e-6)


def test_rankings_have_a_strength_for_each_comparison(
    tiny_model_dir: Path, fitted: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": word, "responses": [" tasty", " late", " fresh"], "ranks": ranks}
        for word, ranks in (
            ("soup", [2, 1, 2]),
            ("cake", [1, 2, 3]),
            ("lamp", [1, 1, 1]),
            ("hotel", [3, 1, 2]),
        )
    ]
    data = ["--data", "RankingDataModule", "--data.batch_size", "2"]
    said = refusal(capsys, *command(tiny_model_dir, *data, "--then", "flip", data=write("r.jsonl", rows)))
    assert (
        "--then flip changes the labels of pairs, and 4 of 4 rows are rankings or votes (first: r.jsonl:1)"
        in said
    )
    assert not Path("s").exists()
    main(command(tiny_model_dir, *data, "--members", "1", data="r.jsonl"))
    written = read("s/strength.jsonl")
    assert written[0]["strength_pairs"] == [[1, 0], [1, 2]] and len(written[0]["strength"]) == 2
    assert len(written[1]["strength"]) == len(written[1]["strength_std"]) == 3
    assert written[2] == rows[2]  # nothing but ties
    assert "rows that compare nothing, without a strength" in capsys.readouterr().out
    first, second, whole = (
        written[1]["strength_pairs"].index([0, 1]),
        written[1]["strength_pairs"].index([1, 2]),
        0,
    )
    whole = written[1]["strength_pairs"].index([0, 2])
    strengths = written[1]["strength"]
    assert strengths[whole] == pytest.approx(strengths[first] + strengths[second], abs=1e-5)


def test_votes_are_judged_the_way_the_most_of_them_say() -> None:
    labels = [{"labeler": name, "choice": choice} for name, choice in (("x", "b"), ("y", "b"), ("z", "a"))]
    row = row_of({"prompt": "p", "response_a": "a", "response_b": "b", "labels": labels}, 0.7)
    written = row.written()
    assert (written["strength"], written["strength_pairs"]) == ([0.7], [[1, 0]])


def test_differences_go_where_their_rows_are() -> None:
    trees = [
        Tree([0], [[1]] * 3, [[True]] * 3, [Comparison(0, 1), Comparison(2, 0)]),
        Tree([0], [[1]], [[True]]),
        Tree([0], [[1]] * 2, [[True]] * 2, [Comparison(1, 0)]),
    ]
    into = [0.0] * 3
    place_differences(into, trees, [2], [RowScores([1.0, 5.0], [0.0] * 2, [0.5])])
    assert into == [0.0, 0.0, 4.0]
    place_differences(into, trees, [0, 1], [RowScores([1.0, 3.0, 8.0], [], []), RowScores([1.0], [], [])])
    assert into == [-2.0, 7.0, 4.0]
    with pytest.raises(ValueError, match="too few positions for this row"):
        place_differences(into, trees, [2], [RowScores([1.0, None], [], [])])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--members", "0"], "--members: expected 1 or more, found 0."),
        (["--folds", "1"], "--folds: expected 2 or more, or 0 for none, found 1."),
        (["--share", "1"], "--share: expected a share between 0 and 1, found 1.0."),
        (["--alpha", "0.6"], "--alpha: expected more than 0 and at most 0.5, a coin's target, found 0.6."),
        (["--ckpt_path=last"], "--ckpt_path: the models start from --model.model"),
        (["--data.path", "paris.jsonl"], "--data.path paris.jsonl: no such file.\nNear it: pairs.jsonl"),
    ],
)
def test_mistakes_are_said_at_once(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {expected}" in refusal(capsys, *command(Path("none")), *flags)


def test_only_reward_models_have_strengths(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = command(tiny_model_dir)
    argv[2] = str(shipped()["dpo"])
    assert "strength trains reward models; lit_rlhf.DPOModule is none." in refusal(capsys, *argv)


def test_processes_started_from_outside_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "several processes were started from outside" in refusal(capsys, *command(Path("none")))


def test_a_member_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    fit = Fit(tmp_path / "m", seed=3, judges=range(2), data=tmp_path / "fold.jsonl")
    assert fit.arguments(["--config", "c", "--seed_everything", "1"]) == [
        "--config", "c", "--seed_everything", "1", "--data.val_fraction", "0", "--data.seed", "3",
        "--seed_everything", "3", "--data.path", str(tmp_path / "fold.jsonl"), "--out", str(tmp_path / "m"),
    ]  # fmt: skip
    (tmp_path / "m" / "checkpoints").mkdir(parents=True)
    (tmp_path / "m" / "checkpoints" / "last.ckpt").touch()
    assert fit.arguments([])[-2:] == ["--ckpt_path", "last"]
    assert not fit.is_finished


def test_long_texts_are_cut_in_the_table() -> None:
    row = row_of(
        {"prompt": "p", "chosen": "a" * 500, "rejected": [{"role": "assistant", "content": "b"}]}, 1.0
    )
    assert strength_rows.texts(row, 0) == ["a" * (strength_rows.LONGEST_CELL - 1) + "…", "b"]


@pytest.mark.slow
def test_ctrl_c_reaches_the_fit_once_and_it_is_continued(tiny_model_dir: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    flags = ["--members", "1", "--trainer.max_epochs", "2000"]
    argv = [sys.executable, "-m", "lit_rlhf", *command(tiny_model_dir, *flags)]
    process = subprocess.Popen(
        [*argv, "--trainer.max_epochs", "2000"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not Path("s/member-00/checkpoints/last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all that stand in the foreground
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert (
        "Stopping after this optimizer step, with a checkpoint" in said
        and "go on with: lit-rlhf strength" in said
    )
    stopped_at = torch.load("s/member-00/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < stopped_at < 6000

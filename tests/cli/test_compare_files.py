"""Held-out files are read before anything is trained, and what they share with training is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.cli.compare.accuracy import accuracy_of
from lit_rlhf.cli.compare.files import read_held_out
from lit_rlhf.cli.compare.methods import Method
from lit_rlhf.cli.refusal import Refusal
from lit_rlhf.data.files import BadRowsError
from tests.cli.comparing import comparison_of, write_rows


def method(file: str, learns_from: str = "comparisons") -> Method:
    read = {"model": {"class_path": "DPOModule"}, "data": {"init_args": {"path": file}}}
    return Method("dpo", Path("dpo.yaml"), learns_from, {}, read)


def pair(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "a", "rejected": "b", **more}


def test_shared_prompts_are_counted(tmp_path: Path) -> None:
    val = write_rows(tmp_path / "val.jsonl", [pair("x"), pair("y"), pair("y")])
    evaluation = write_rows(tmp_path / "e.jsonl", [{"prompt": "z"}, {"prompt": "x"}, {"prompt": "x"}])
    data = write_rows(tmp_path / "data.jsonl", [pair("y"), pair("z")])
    comparison = comparison_of([], tmp_path, val=val, evaluation=evaluation, samples=2)
    assert read_held_out(comparison, [method(data), method(data)]) == [
        f"--val: 2 of 3 rows have a prompt that stands in {data} too",
        f"--evaluation: 1 of 2 rows have a prompt that stands in {data} too",
    ]


def test_fewer_prompts_than_asked_for_are_said(tmp_path: Path) -> None:
    evaluation = write_rows(tmp_path / "e.jsonl", [{"prompt": "z"}])
    (said,) = read_held_out(
        comparison_of([], tmp_path, evaluation=evaluation, samples=5), [method("hub/name")]
    )
    assert said == f"--samples 5: {evaluation} has 1 prompts, and all are taken"


def test_files_that_cannot_be_measured_on_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ties = write_rows(tmp_path / "ties.jsonl", [pair("x", tie=True)])
    with pytest.raises(Refusal):
        read_held_out(comparison_of([], tmp_path, val=ties), [])
    assert f"--val {ties}: 1 rows, and none says that one response is better" in capsys.readouterr().err
    bad = write_rows(tmp_path / "bad.jsonl", [pair("x"), {"prompt": "x", "chosen": "a"}])
    with pytest.raises(BadRowsError, match=r"bad\.jsonl:2"):
        read_held_out(comparison_of([], tmp_path, val=bad), [])


def test_right_wrong_and_equal(tmp_path: Path) -> None:
    """Of pairs, of sides that a number tells apart, of votes and of rankings; ties and what has no score left out."""
    rows = [
        pair("p", reward_scores=[2.0, 1.0]),
        pair("q", reward_scores=[1.0, 1.0]),
        {"prompt": "r", "response_1": "a", "response_2": "b", "preference_strength": 2, "reward_scores": [0.0, 3.0]},
        {"prompt": "s", "response_a": "a", "response_b": "b", "reward_scores": [5.0, 1.0],
         "labels": [{"labeler": name, "choice": choice} for name, choice in zip("uvw", "bba")]},
        pair("t", tie=True, reward_scores=[2.0, 1.0]),
        pair("u", reward_scores=[None, 1.0]),
        {"prompt": "v", "responses": ["a", "b", "c"], "ranks": [2, 1, 3], "reward_scores": [1.0, 2.0, 1.5]},
    ]  # fmt: skip
    found = accuracy_of(Path(write_rows(tmp_path / "scored.jsonl", rows)))
    assert found is not None
    assert found["right"] == [1.0, 0.5, 1.0, 0.0, *found["right"][4:]]
    assert sorted(found["right"][4:]) == [0.0, 1.0, 1.0]
    user = json.dumps([{"content": "r", "role": "user"}])
    assert found["prompts"] == ['"p"', '"q"', user, '"s"', '"v"', '"v"', '"v"']
    assert (found["ties"], found["unscored"], found["rows"]) == (1, 1, 7)
    assert accuracy_of(Path(write_rows(tmp_path / "ties.jsonl", [rows[4]]))) is None

"""The page of the speed benchmarks."""

import copy

import pytest

from benchmarks.speed.page import page

ROW = {
    "work": "dpo 4:1", "size": "B", "against": "trl", "ours": 1045.5, "theirs": 290.0, "ratio": 3.605,
    "unit": "tokens/s", "repeats": 5, "spread": [3.5, 3.71],
    "conditions": {
        "commit": "abc1234", "date": "2026-01-02", "processor": "EPYC", "threads": 1, "load": [0.2, 0.4],
        "clock": "CPU seconds", "device": "cpu", "dtype": "fp32", "model": "random Llama, size B", "clip": 1.0,
        "gradient_checkpointing": False, "lengths": "prompts 512", "note": "real tokens",
        "versions": {"ours": {"torch": "2.13"}, "theirs": {"trl": "1.16.0"}},
    },
}  # fmt: skip


def test_numbers_and_conditions_stand_on_the_page():
    other = copy.deepcopy(ROW)
    other["against"] = "gemm peak"
    other["conditions"]["load"] = [1.5]
    text = page([ROW, other])
    assert "| dpo 4:1 | B | trl | 1045.5 | 290 | tokens/s | 3.60 | 3.50 to 3.71 | 5 |" in text
    assert "- load at the start of the repeats: 0.2 to 1.5" in text
    assert "- versions: torch 2.13, trl 1.16.0" in text
    assert "- measured: 2026-01-02, commit abc1234\n" in text
    assert text.count("| dpo 4:1 | B | prompts 512 | real tokens |") == 1


def test_lengths_that_were_sampled_are_told_as_they_came_out_and_both_versions_of_a_peer():
    other = copy.deepcopy(ROW)
    found = [{"mean": 40.0, "least": 1, "largest": 120}, {"mean": 41.0, "least": 2, "largest": 128}]
    other["conditions"]["response_lengths"] = {"ours": found, "theirs": found}
    other["conditions"]["versions"]["theirs"] = {"trl": "1.12.0"}
    text = page([ROW, other])
    assert "| dpo 4:1 | B | prompts 512 (found: mean 40.5, largest 128) | real tokens |" in text
    assert "- versions: torch 2.13, trl 1.12.0, trl 1.16.0" in text


def test_rows_of_different_settings_are_no_page():
    other = copy.deepcopy(ROW)
    other["conditions"]["threads"] = 2
    with pytest.raises(ValueError, match="differ in threads: 1, 2"):
        page([ROW, other])

"""Children that write to logs of their own and why they failed; the file of commands; what is measured of responses."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli.steps import logged, measure
from lit_rlhf.cli.steps.children import only_one_in
from lit_rlhf.cli.steps.commands import write_command
from lit_rlhf.cli.steps.logged import LoggedChildren, reason_of, tail_of
from lit_rlhf.cli.steps.step import Step
from tests.cli.comparing import GOLD, write_rows

CHILD = """
import pathlib, sys, time
print("first line", flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.02)
sys.exit("error: 2 bad rows:\\n  f.jsonl:1: no prompt\\n(LIT_RLHF_TRACEBACK=1 shows where it came from)")
"""


def test_a_child_writes_to_its_log_and_its_last_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(logged, "SECONDS_BETWEEN", 0.05)
    (tmp_path / "a_child.py").write_text(CHILD)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        (tmp_path / "go").write_text("")

    with only_one_in(tmp_path / "out", "comparison") as lock:
        children = LoggedChildren(lock, say)
        children.log = tmp_path / "out" / "logs" / "fit.log"
        children.log.parent.mkdir()
        children.log.write_text("error: of a time before\n")
        code = children.run(["-m", "a_child"])
    assert code == 1 and "  first line" in said
    assert children.reason(code) == "2 bad rows: f.jsonl:1: no prompt"
    assert children.log.read_text().startswith("error: of a time before\nfirst line\n")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_time_before_is_not_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("error: of a time before\n")
    begun = log.stat().st_size
    with log.open("a") as file:
        file.write("10 %\r20 %\n")
    assert tail_of(log, begun) == ["20 %"]
    assert reason_of(tail_of(log, begun), 3) == "exit code 3; its last line: 20 %"


@pytest.mark.parametrize(
    ("lines", "code", "why"),
    [
        (["Traceback …", "ValueError: no", "such thing"], 1, "ValueError: no such thing"),
        (["torch.OutOfMemoryError: CUDA out of memory"], 1, "torch.OutOfMemoryError: CUDA out of memory"),
        (["[rank 1] error: gone"], 1, "gone"),
        ([], 128 + signal.SIGTERM, "killed by SIGTERM"),
        ([], 2, "exit code 2"),
    ],
)
def test_why_a_command_failed(lines: list[str], code: int, why: str) -> None:
    assert reason_of(lines, code) == why


def test_a_long_reason_is_cut() -> None:
    assert len(reason_of(["error: " + 9999 * "x"], 1)) == logged.LONGEST_REASON


def test_commands_stand_in_their_order_and_are_not_doubled(tmp_path: Path) -> None:
    file = tmp_path / "commands.sh"
    first, second = (Step("a/seed-0", name, ("sample", name)) for name in ("x", "y"))
    write_command(file, "# title", first, ["# and then:", "by hand"])
    write_command(file, "# title", second)
    write_command(file, "# title", Step("a/seed-0", "x", ("sample", "z")), ["# and then:", "by hand"])
    assert file.read_text().splitlines() == [
        *("# title", "# a/seed-0/x", "lit-rlhf sample z", "# and then:", "by hand"),
        *("# a/seed-0/y", "lit-rlhf sample y"),
    ]


ANSWERS: list[dict[str, Any]] = [
    {"id": "1", "prompt": "the soup", "responses": [" is late"], "finished": [True]},
    {"id": "2", "prompt": "a train", "responses": [" looks late but"], "finished": [False]},
]


def test_tokens_and_functions_are_measured_without_a_reference(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "r.jsonl", ANSWERS), tmp_path / "m.json"
    given = ["--policy", str(tiny_model_dir), "--reward", GOLD]
    measure.main(["--responses", rows, *given, "--out", str(out)])
    found = json.loads(out.read_text())
    counts = [
        len(tiny_tokenizer(row["responses"][0], add_special_tokens=False)["input_ids"]) for row in ANSWERS
    ]
    assert found["tokens"] == [counts[0] + 1, counts[1]]
    assert found["reward"] == pytest.approx([0.1, 0.2]) and "gold" not in found and "kl" not in found


def test_a_reference_needs_its_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        measure.main(["--responses", "r", "--reference", "m", "--out", "o"])
    assert "--reference goes with --policy" in capsys.readouterr().err

"""Steps: run once, gone on with, and never mixed with other settings; their signals and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lit_rlhf.cli.refusal import Refusal
from lit_rlhf.cli.steps.children import Children, only_one_in
from lit_rlhf.cli.steps.fingerprint import fingerprint
from lit_rlhf.cli.steps.step import Step, StepFailed, Steps, changed


class Fake:
    """Writes what a step is to leave, as its command would."""

    def __init__(self, out: Path, code: int = 0, writes: bool = True) -> None:
        self.out, self.code, self.writes = out, code, writes
        self.ran: list[Sequence[str]] = []

    def __call__(self, argv: Sequence[str]) -> int:
        self.ran.append(argv)
        if self.writes:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(f"{len(self.ran)}")
        return self.code


def step_of(folder: Path, seed: int = 1, resume: str = "whole file") -> Step:
    source = folder / "in.jsonl"
    if not source.exists():
        source.write_text("a\n")
    out = folder / "loop" / "round-1" / "out.jsonl"
    argv = ("sample", "m", "--seed", str(seed), "--out", str(out))
    return Step("round-1", "sample", argv, (str(source),), (out,), resume)  # type: ignore[arg-type]


def steps_with(folder: Path, run: Fake) -> tuple[Steps, list[str]]:
    said: list[str] = []
    return Steps(folder / "loop", run, said.append), said


def test_a_step_is_run_once_and_its_command_is_printed(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    fake = Fake(step.outputs[0])
    steps, said = steps_with(tmp_path, fake)
    steps.do(step)
    assert fake.ran == [step.argv]
    assert f"$ lit-rlhf sample m --seed 1 --out {step.outputs[0]}" in said[0]
    mark = json.loads((tmp_path / "loop/round-1/steps/sample.done.json").read_text())
    assert mark["command"] == f"lit-rlhf sample m --seed 1 --out {step.outputs[0]}" and mark["seconds"] >= 0
    assert not (tmp_path / "loop/round-1/steps/sample.begun.json").exists()
    again, _ = steps_with(tmp_path, fake)
    again.do(step)
    assert len(fake.ran) == 1 and again.done == ["round-1/sample"] and not again.ran


@pytest.mark.parametrize("begun_only", [False, True])
def test_another_seed_is_noticed_and_not_mixed(
    begun_only: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = step_of(tmp_path)
    fake = Fake(step.outputs[0], code=3 if begun_only else 0)
    steps, _ = steps_with(tmp_path, fake)
    if begun_only:
        with pytest.raises(StepFailed):
            steps.do(step)
    else:
        steps.do(step)
    with pytest.raises(Refusal):
        steps.do(step_of(tmp_path, seed=2))
    said = capsys.readouterr().err
    assert f"round-1/sample was {'begun' if begun_only else 'done'} with something else" in said
    assert "then --seed 1; now --seed 2" in said
    assert f"remove {tmp_path}/loop/round-1/steps/sample.{'begun' if begun_only else 'done'}.json" in said
    assert len(fake.ran) == 1


def test_what_came_to_nothing_is_begun_anew_with_other_words(tmp_path: Path) -> None:
    """A mistake that is corrected must not end the whole work."""
    step = step_of(tmp_path)
    fake = Fake(step.outputs[0], code=3, writes=False)
    steps, _ = steps_with(tmp_path, fake)
    with pytest.raises(StepFailed):
        steps.do(step)
    other = step_of(tmp_path, seed=2)
    assert not steps.check(other)
    fake.code, fake.writes = 3, True
    with pytest.raises(StepFailed):
        steps.do(other)
    begun = json.loads((tmp_path / "loop/round-1/steps/sample.begun.json").read_text())
    assert begun["command"] == other.command, "what is begun anew is known by its new words"
    with pytest.raises(Refusal):
        steps.do(step)


@pytest.mark.parametrize("left", ["export", "checkpoints/last.ckpt", "checkpoints", None])
def test_a_fit_that_left_a_checkpoint_is_not_begun_anew(left: str | None, tmp_path: Path) -> None:
    run = tmp_path / "loop" / "round-1" / "reward"

    def fit(config: str) -> Step:
        words = ("fit", "--config", config, "--out", str(run))
        return Step("round-1", "reward", words, (), (run / "export",), "fit")

    steps, _ = steps_with(tmp_path, fake := Fake(run / "config.yaml", code=1))
    with pytest.raises(StepFailed):
        steps.do(fit("a"))
    if left == "checkpoints":
        (run / left).mkdir()
    elif left is not None:
        (run / left).parent.mkdir(exist_ok=True)
        (run / left).write_text("")
    with pytest.raises(StepFailed if left in ("checkpoints", None) else Refusal):
        steps.do(fit("b"))
    assert len(fake.ran) == (2 if left in ("checkpoints", None) else 1)


def test_a_step_without_outputs_is_never_begun_anew(tmp_path: Path) -> None:
    """As of an annotator's, whose judgements so far stand in a file of their own."""
    steps, _ = steps_with(tmp_path, Fake(tmp_path / "none", code=1, writes=False))
    with pytest.raises(StepFailed):
        steps.do(Step("round-1", "annotate", ("label", "annotate", "--flips", "0.1")))
    with pytest.raises(Refusal):
        steps.do(Step("round-1", "annotate", ("label", "annotate", "--flips", "0.2")))


def test_a_step_is_checked_without_being_run(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    steps, _ = steps_with(tmp_path, fake := Fake(step.outputs[0]))
    assert not steps.check(step)
    steps.do(step)
    assert steps.check(step) and len(fake.ran) == 1
    with pytest.raises(Refusal):
        steps.check(step_of(tmp_path, seed=2))


def test_another_content_of_an_input_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = step_of(tmp_path)
    steps, _ = steps_with(tmp_path, Fake(step.outputs[0]))
    steps.do(step)
    (tmp_path / "in.jsonl").write_text("b\n")
    with pytest.raises(Refusal):
        steps.do(step)
    assert f"{tmp_path}/in.jsonl has another content than then" in capsys.readouterr().err


def test_what_a_step_left_must_still_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = step_of(tmp_path)
    steps, _ = steps_with(tmp_path, Fake(step.outputs[0]))
    steps.do(step)
    step.outputs[0].unlink()
    with pytest.raises(Refusal):
        steps.do(step)
    assert "what it left is gone" in capsys.readouterr().err


def test_a_command_that_leaves_nothing_is_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = step_of(tmp_path)
    steps, _ = steps_with(tmp_path, Fake(step.outputs[0], writes=False))
    with pytest.raises(Refusal):
        steps.do(step)
    assert "is not there" in capsys.readouterr().err
    assert not (tmp_path / "loop/round-1/steps/sample.done.json").exists()


def test_the_exit_code_is_passed_on_and_the_step_is_run_again(tmp_path: Path) -> None:
    step = step_of(tmp_path, resume="itself")
    fake = Fake(step.outputs[0], code=7)
    steps, _ = steps_with(tmp_path, fake)
    with pytest.raises(StepFailed) as failed:
        steps.do(step)
    assert failed.value.code == 7
    fake.code = 0
    steps.do(step)
    assert len(fake.ran) == 2


def test_killed_between_the_file_and_its_mark_it_had_finished(tmp_path: Path) -> None:
    """`sample`, `score` and the like refuse to write over what they wrote, so they must not be run again."""
    step = step_of(tmp_path)
    fake = Fake(step.outputs[0], code=9)
    steps, _ = steps_with(tmp_path, fake)
    with pytest.raises(StepFailed):
        steps.do(step)
    steps.do(step)
    assert len(fake.ran) == 1 and step.outputs[0].read_text() == "1"


def test_a_fit_goes_on_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "loop" / "round-1" / "reward"
    step = Step(
        "round-1", "reward", ("fit", "--config", "c", "--out", str(run)), (), (run / "export",), "fit"
    )
    found: list[Path | None] = [None]
    monkeypatch.setattr("lit_rlhf.cli.steps.step.last_checkpoint", lambda folder: found[0])
    fake = Fake(run / "export", code=1, writes=False)
    steps, _ = steps_with(tmp_path, fake)
    with pytest.raises(StepFailed):
        steps.do(step)
    assert fake.ran[-1] == step.argv
    found[0] = run / "checkpoints" / "last.ckpt"
    fake.code, fake.writes = 0, True
    steps.do(step)
    assert fake.ran[-1] == (*step.argv, "--ckpt_path", "last")
    assert "--ckpt_path" not in (tmp_path / "loop/round-1/steps/reward.done.json").read_text()


def test_what_differs_between_two_commands_is_named() -> None:
    one = {"command": "lit-rlhf fit --model.beta 0.1 --out 'a b'", "inputs": {"x": "1"}}
    other = {"command": "lit-rlhf fit --model.beta 0.2 --out 'a b' --data.ties drop", "inputs": {"x": "2"}}
    assert changed(one, other) == [
        "then --model.beta 0.1; now --model.beta 0.2 --data.ties drop",
        "x has another content than then",
    ]
    assert changed(one, one) == []
    assert changed(one, {**one, "inputs": {"x": "1", "y": "1"}}) == ["then with -; now with y"]


def test_fingerprints_are_of_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"12345678")
    first = fingerprint(folder)
    (folder / ".hidden").write_text("x")
    assert fingerprint(folder) == first
    (folder / "a").rename(folder / "b")
    assert fingerprint(folder) != first
    (folder / "b").rename(folder / "a")
    assert fingerprint(folder) == first
    (folder / "a").write_bytes(b"12345679")
    assert fingerprint(folder) != first
    assert fingerprint("some/hub-name") != fingerprint("some/other-name")
    monkeypatch.setattr("lit_rlhf.cli.steps.fingerprint.WHOLE_BYTES", 4)
    monkeypatch.setattr("lit_rlhf.cli.steps.fingerprint._PART_BYTES", 2)
    (folder / "a").write_bytes(b"12345678")
    ends = fingerprint(folder)
    (folder / "a").write_bytes(b"12945678")
    assert fingerprint(folder) == ends, "the middle of a very large file is not read"
    (folder / "a").write_bytes(b"12345679")
    assert fingerprint(folder) != ends


# --- child processes


CHILD = """
import pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append("int"))
pathlib.Path("ready").write_text("")
while not heard:
    time.sleep(0.02)
time.sleep(0.3)
pathlib.Path("heard").write_text(" ".join(heard))
sys.exit(130)
"""
LOOP = """
import pathlib, sys
from lit_rlhf.cli.steps.children import Children, only_one_in
with only_one_in(pathlib.Path("."), "loop") as lock:
    children = Children(lock)
    try:
        sys.exit(children.run(["-m", "a_child"]))
    except KeyboardInterrupt:
        sys.exit(children.exit_code)
"""


def loop_process(folder: Path, child: str) -> subprocess.Popen[bytes]:
    (folder / "a_child.py").write_text(child)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{folder}"}
    command = [sys.executable, "-c", LOOP]
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def wait_until(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("whole_group", [False, True])
def test_one_signal_reaches_the_child_once_and_is_waited_for(whole_group: bool, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole group; twice would tell a fit to stop without a checkpoint."""
    process = loop_process(tmp_path, CHILD)
    wait_until(tmp_path / "ready")
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert (tmp_path / "heard").read_text() == "int"


@pytest.mark.parametrize(
    ("child", "code"), [("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_a_childs_end_is_ours(child: str, code: int, tmp_path: Path) -> None:
    assert loop_process(tmp_path, child).wait(60) == code


def test_a_child_that_outlives_its_loop_keeps_others_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = (
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n"
        "while not pathlib.Path('end').exists(): time.sleep(0.02)"
    )
    process = loop_process(tmp_path, child)
    wait_until(tmp_path / "pid")
    process.kill()
    process.wait()
    with pytest.raises(Refusal), only_one_in(tmp_path, "loop"):
        pass
    assert (
        f"another loop works in this folder, or a step of one that was killed (begun by process {process.pid})"
        in (capsys.readouterr().err)
    )
    (tmp_path / "end").write_text("")
    for _ in range(500):
        try:
            with only_one_in(tmp_path, "loop") as lock:
                assert Children(lock).exit_code == 130
            return
        except Refusal:
            time.sleep(0.02)
    raise AssertionError("the folder was not let go")

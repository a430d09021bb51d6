"""Turns, medians, rows and the file that survives a stop, with runs that cost nothing."""

import json
from dataclasses import replace

import pytest

from benchmarks import overhead, preference, reward, sft
from benchmarks.gpu import __main__ as gpu
from benchmarks.speed.compare import (
    Plan,
    Progress,
    choose,
    finished_rows,
    run_contest,
    run_contests,
    run_process,
    table,
)
from benchmarks.speed.contest import MEMORY, PEAK_SHARE, STEP, Contest, Line
from benchmarks.speed.job import Job, Measured
from benchmarks.speed.meter import Meter

JOB = Job("dpo", "ours", "tiny", 8, 4)
CONTEST = Contest(
    {"ours": JOB, "trl": replace(JOB, program="trl")},
    [Line("dpo", "trl", "ours", "trl"), Line("dpo memory", "trl", "ours", "trl", MEMORY)],
    lengths="8 and 4",
)
KEYS = {"work", "size", "against", "ours", "theirs", "ratio", "unit", "repeats", "spread", "conditions"}


def measured(seconds=1.0, tokens=100, loss=0.69, peak=10.0, versions=None, **facts):
    return Measured(seconds, 2, tokens, tokens, peak, loss, versions or {"torch": "2"}, facts)


class Runs:
    """Hands out one side's results after another, and keeps the order they were asked for in."""

    def __init__(self, seconds):
        self.seconds = {program: iter(times) for program, times in seconds.items()}
        self.asked = []

    def __call__(self, job):
        self.asked.append((job.program, job.seed))
        peak = 10.0 if job.program == "ours" else 25.0
        return measured(next(self.seconds[job.program]), peak=peak)


def run(contest, runs, repeats):
    return run_contest(contest, Plan(repeats, False), runs, Progress([contest], repeats))


def test_sides_take_turns_in_an_order_that_turns_round():
    runs = Runs({"ours": [1, 1, 1], "trl": [1, 1, 1]})
    run(CONTEST, runs, 3)
    assert runs.asked == [("ours", 0), ("trl", 0), ("trl", 1), ("ours", 1), ("ours", 2), ("trl", 2)]


def test_a_row_has_the_medians_and_the_extremes_of_the_repeats():
    """100 tokens in 1, 2, 4 seconds against 8, 4, 5: medians 50 and 20 a second, ratios 8, 2, 1.25."""
    row, memory = run(CONTEST, Runs({"ours": [1, 2, 4], "trl": [8, 4, 5]}), 3)
    assert set(row) == KEYS
    assert (row["work"], row["against"], row["size"]) == ("dpo", "trl", "tiny")
    assert (row["ours"], row["theirs"], row["ratio"], row["unit"]) == (50, 20, 2.5, "tokens/s")
    assert (row["repeats"], row["spread"]) == (3, [1.25, 8])
    assert row["conditions"]["each_repeat"] == {"ours": [100, 50, 25], "theirs": [12.5, 25, 20]}
    assert (memory["ours"], memory["theirs"], memory["ratio"], memory["unit"]) == (10, 25, 2.5, "MB")


def test_conditions_say_under_what_it_was_measured():
    conditions = run(CONTEST, Runs({"ours": [1], "trl": [1]}), 1)[0]["conditions"]
    for name in (
        "processor",
        "threads",
        "load",
        "versions",
        "dtype",
        "batch",
        "lengths",
        "optimizer",
        "date",
        "commit",
    ):
        assert name in conditions
    assert conditions["versions"] == {"ours": {"torch": "2"}, "theirs": {"torch": "2"}}
    assert conditions["first_loss"] == {"ours": [0.69], "theirs": [0.69]}
    assert conditions["batch"]["ours"] == "2 prompts of 2 responses"


def test_fewer_milliseconds_and_less_memory_are_better():
    assert STEP.ratio(2.0, 3.0) == MEMORY.ratio(2.0, 3.0) == 1.5
    share = measured(useful_flops_per_second=5e10, peak_flops_per_second=1e11)
    assert PEAK_SHARE.ratio(PEAK_SHARE.ours(share), PEAK_SHARE.theirs(share)) == 0.5


@pytest.mark.parametrize(
    "theirs, message",
    [(measured(tokens=99), "the same tokens"), (measured(loss=0.7), "do not compute the same thing")],
)
def test_sides_that_did_other_things_are_not_compared(theirs, message):
    with pytest.raises(RuntimeError, match=message):
        CONTEST.check({"ours": measured(), "trl": theirs})


def test_a_side_whose_first_step_has_other_rows_may_have_another_loss():
    loose = replace(CONTEST, unchecked=("trl",), same_batches=False)
    loose.check({"ours": measured(), "trl": measured(tokens=99, loss=0.8)})


def test_a_second_start_runs_what_is_missing_alone(tmp_path):
    out = tmp_path / "rows.json"
    other = replace(CONTEST, lines=[Line("reward", "trl", "ours", "trl")])

    def stopped(job):
        if len(runs.asked) == 2:
            raise KeyboardInterrupt
        return runs(job)

    runs = Runs({"ours": [1], "trl": [2]})
    with pytest.raises(KeyboardInterrupt):
        run_contests([CONTEST, other], Plan(1, False), out, stopped)
    assert [row["work"] for row in json.loads(out.read_text())] == ["dpo", "dpo memory"]
    again = Runs({"ours": [1], "trl": [4]})
    rows = run_contests([CONTEST, other], Plan(1, False), out, again)
    assert len(again.asked) == 2
    assert [(row["work"], row["ratio"]) for row in rows] == [("dpo", 2), ("dpo memory", 2.5), ("reward", 4)]
    assert json.loads(out.read_text()) == rows
    assert list(tmp_path.iterdir()) == [out]


def test_rows_of_another_plan_are_not_mixed_in(tmp_path):
    out = tmp_path / "rows.json"
    run_contests([CONTEST], Plan(1, True), out, Runs({"ours": [1], "trl": [2]}))
    assert len(finished_rows(out, Plan(1, True))) == 2
    for plan in (Plan(5, True), Plan(1, False)):
        with pytest.raises(ValueError, match=r"1 repeats \(--quick\).*Give another --out"):
            finished_rows(out, plan)


def test_what_is_left_is_counted_from_the_last_process_of_each_side(capsys):
    progress = Progress([CONTEST], repeats=3)
    progress.finished(CONTEST, "ours", 0, 10.0, measured())
    assert progress.seconds_left() == 2 * 10 + 3 * 10
    progress.finished(CONTEST, "trl", 0, 60.0, measured())
    assert progress.seconds_left() == 2 * 10 + 2 * 60
    assert "about 2 min left" in capsys.readouterr().out


def script(folder, *lines):
    """An interpreter of our own that prints what it is told."""
    file = folder / "python"
    file.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    file.chmod(0o755)
    return file


def test_a_process_gets_its_job_and_its_report_is_read(tmp_path, monkeypatch):
    line = measured(seconds=2.0, tokens=8).report_line()
    file = script(tmp_path, f'echo "$@" threads $OMP_NUM_THREADS > {tmp_path}/got', f"echo '{line}'")
    monkeypatch.setattr("benchmarks.speed.compare.sys.executable", str(file))
    assert run_process(replace(JOB, threads=3), {}).tokens_per_second == 4
    got = (tmp_path / "got").read_text()
    assert got.startswith("-m benchmarks.speed.run_ours {")
    assert got.endswith("threads 3\n")


def test_a_process_that_fails_says_what_it_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "benchmarks.speed.compare.sys.executable", str(script(tmp_path, "echo out of luck >&2", "exit 3"))
    )
    with pytest.raises(RuntimeError, match=r"(?s)ours ended with exit code 3 .*out of luck"):
        run_process(JOB, {})


def test_another_version_of_the_peer_is_refused(tmp_path):
    line = measured().report_line().replace('{"torch": "2"}', '{"trl": "1.15.0"}')
    with pytest.raises(RuntimeError, match=r"expected trl 1\.16\.0, found 1\.15\.0"):
        run_process(replace(JOB, program="trl"), {"1.16.0": script(tmp_path, f"echo '{line}'")})


def test_a_missing_peer_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make bench-envs"):
        run_process(replace(JOB, program="trl"), {"1.16.0": tmp_path / "python"})


def test_ppo_runs_in_the_environment_with_the_last_trl_that_has_it(tmp_path):
    line = measured(versions={"trl": "1.12.0"}).report_line()
    file = script(tmp_path, f'echo "$@" > {tmp_path}/got', f"echo '{line}'")
    pythons = {"1.16.0": tmp_path / "other", "1.12.0": file}
    run_process(Job("ppo", "trl", "tiny", 8), pythons)
    assert (tmp_path / "got").read_text().startswith("-m benchmarks.speed.run_trl_ppo {")
    with pytest.raises(FileNotFoundError, match=r"trl 1\.16\.0.*--trl-python"):
        run_process(Job("grpo", "trl", "tiny", 8), pythons)
    with pytest.raises(FileNotFoundError, match=r"trl 1\.12\.0.*--trl-ppo-python"):
        run_process(Job("ppo", "trl", "tiny", 8), {"1.12.0": tmp_path / "none"})


def test_the_meter_leaves_the_warm_up_out(monkeypatch):
    clock = iter([10.0, 11.0, 14.0])
    monkeypatch.setattr("benchmarks.speed.meter.time.process_time", lambda: next(clock))
    meter = Meter(replace(JOB, warm=1, steps=2))
    for tokens in (1000, 20, 30, 7):  # the last is a batch that was made ahead, for a step that never came
        meter.batch(tokens, 2 * tokens)
    meter.loss(_Number(0.5))
    meter.loss(_Number(0.1))
    for _ in range(3):
        meter.step()
    found = meter.measured(attention="sdpa")
    assert (found.seconds, found.steps, found.tokens, found.slots) == (4.0, 2, 50, 100)
    assert (found.first_loss, found.facts) == (0.5, {"attention": "sdpa"})


def test_without_a_timed_step_there_is_no_result():
    meter = Meter(replace(JOB, warm=1))
    meter.loss(_Number(0.5))
    meter.step()
    with pytest.raises(RuntimeError, match="found 1 and 0"):
        meter.measured()


def test_the_table_has_a_line_for_each_row():
    lines = table(run(CONTEST, Runs({"ours": [1], "trl": [2]}), 1)).splitlines()
    assert [line.split() for line in lines] == [
        ["work", "size", "against", "ours", "theirs", "unit", "ratio", "spread"],
        ["dpo", "tiny", "trl", "100", "50", "tokens/s", "2.00", "2.00", "to", "2.00"],
        ["dpo", "memory", "tiny", "trl", "10", "25", "MB", "2.50", "2.50", "to", "2.50"],
    ]


def test_the_benchmarks_give_the_rows_that_were_asked_for():
    found = {
        (line.work, line.against)
        for module in (preference, reward, sft, overhead)
        for contest in module.contests("B")
        for line in contest.lines
    }
    assert found == {
        *(("dpo 1:1", "trl"), ("dpo 4:1", "trl"), ("dpo 8:1", "trl")),
        *(("dpo 4:1 memory", "trl"), ("dpo 4:1 peak share", "gemm peak")),
        *(("reward pairs 1:1", "trl"), ("reward pairs 4:1", "trl")),
        *(("reward k=4 4:1", "pair rows"), ("reward k=4 4:1", "k rows"), ("reward k=8 8:1", "k rows")),
        *(("sft third full", "trl packed"), ("sft third full", "trl padded")),
        ("overhead", "raw loop"),
    }


def test_one_work_alone():
    contests = preference.contests("A")
    assert [contest.name for contest in choose(contests, ["dpo 8:1", "dpo 4:1 memory"])] == [
        "dpo 4:1",
        "dpo 8:1",
    ]
    with pytest.raises(SystemExit, match=r"expected one of dpo 1:1.*found dpo 3:1"):
        choose(contests, ["dpo 3:1"])


def test_overhead_is_told_in_milliseconds_too():
    (contest,) = overhead.contests("B")
    times = {"ours": 1.5, "raw": 1.0}

    def fake(job):
        return measured(times[job.program] + (2.0 if job.log_every == 1 else 0.0), logged=["train/loss"])

    (row,) = run(contest, fake, 2)
    assert (row["ours"], row["theirs"], row["unit"]) == (750, 500, "ms/step")
    assert row["ratio"] == 0.6667
    assert row["conditions"]["overhead_ms"] == 250
    assert row["conditions"]["overhead_ms_every_step_logged"] == 1250


def test_the_gpu_command_has_the_padded_path_everywhere_and_runs_without_trl():
    scale = gpu.Scale("A", 256, (80, 256), "cpu", 1, 2, with_trl=False)
    alone = gpu.contests(scale)
    assert all(job.program == "ours" and job.bf16 for contest in alone for job in contest.sides.values())
    with_trl = gpu.contests(replace(scale, with_trl=True))
    keys = {line.key for contest in with_trl for line in contest.lines}
    assert {("dpo 4:1", "trl"), ("dpo 4:1", "padded"), ("dpo 4:1 memory", "padded")} <= keys
    assert {("sft third full", "trl packed"), ("dpo 4:1 peak share", "gemm peak")} <= keys


def test_without_a_gpu_the_gpu_command_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="expected a CUDA device"):
        gpu.require_cuda()


class _Number(float):
    def detach(self):
        return self

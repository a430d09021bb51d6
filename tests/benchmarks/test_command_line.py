import pytest

from benchmarks.command_line import Runner, Step


def test_a_step_runs_once_and_its_cost_is_kept(tmp_path):
    runner = Runner(tmp_path / "data", tmp_path / "out")
    runner.run(Step("list", "ls"))
    first = runner.record("list")
    assert first.done
    assert first.cpu_seconds > 0
    assert "sft" in runner.log("list")
    runner.run(Step("list", "ls"))
    assert runner.record("list") == first


def test_a_failed_step_says_where_its_output_is_and_is_not_done(tmp_path):
    runner = Runner(tmp_path, tmp_path / "out")
    with pytest.raises(RuntimeError, match=r"exit code 2; see .*wrong\.log"):
        runner.run(Step("wrong", "no-such-command"))
    assert not runner.record("wrong").done


def test_another_command_under_the_same_name_is_refused(tmp_path):
    runner = Runner(tmp_path, tmp_path / "out")
    runner.run(Step("list", "ls"))
    with pytest.raises(RuntimeError, match="another command"):
        runner.run(Step("list", "env"))


def test_places_are_put_in_where_it_runs_and_left_out_where_it_is_shown(tmp_path):
    step = Step("fit", "fit --data.path\n   $DATA/a.jsonl --out $OUT/fit")
    assert step.words({"DATA": "/d", "OUT": "/o"}) == ["fit", "--data.path", "/d/a.jsonl", "--out", "/o/fit"]
    assert step.command == "lit-rlhf fit --data.path $DATA/a.jsonl --out $OUT/fit"

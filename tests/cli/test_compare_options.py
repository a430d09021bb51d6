"""The command line of a comparison: what it takes, what it refuses, and that it says so at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lit_rlhf.cli.compare import main
from lit_rlhf.cli.compare.options import OPTIONS, parse
from lit_rlhf.cli.refusal import Refusal

LEAST = ["--configs", "dpo", "ppo", "--seconds", "5", "--val", "some/hub-name"]


def test_what_is_given_and_what_is_not() -> None:
    found = parse([*LEAST, "--seeds", "4", "2", "--gold", "a.b", "--evaluation", "x/y", "--model", "m"])
    assert found.configs == ("dpo", "ppo") and found.seeds == (4, 2) and found.gold == "a.b"
    assert found.out == Path("runs/compare") and found.model == "m" and found.data is None
    assert (found.samples, found.max_new_tokens, found.clock) == (256, 64, "cpu")
    assert parse(LEAST).seeds == (0,)
    assert parse([*LEAST, "--seeds", "3"]).seeds == (0, 1, 2)


def test_the_budget_in_results() -> None:
    assert parse(LEAST).budget == {"seconds": 5.0}
    assert parse([*LEAST, "--clock", "wall"]).budget == {"seconds": 5.0, "clock": "wall"}
    assert parse(["--configs", "dpo", "--updates", "7", "--val", "x/y"]).budget == {"updates": 7}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: --configs"),
        (["--configs", "dpo", "--val", "x/y"], "expected one budget, --seconds or --updates, found neither"),
        ([*LEAST, "--updates", "3"], "expected one budget, --seconds or --updates, found both"),
        (["--configs", "dpo", "--seconds", "0", "--val", "x/y"], "--seconds: expected more than 0, found 0"),
        (
            ["--configs", "dpo", "--updates", "-2", "--val", "x/y"],
            "--updates: expected more than 0, found -2",
        ),
        ([*LEAST, "--samples", "0"], "--samples: expected more than 0, found 0"),
        ([*LEAST, "--max-new-tokens", "0"], "--max-new-tokens: expected more than 0, found 0"),
        (["--configs", "dpo", "--seconds", "5"], "nothing to compare the policies by was given"),
        ([*LEAST, "--gold", "a.b"], "--gold: judges the answers to --evaluation FILE"),
        ([*LEAST, "--evaluate", "x/y"], "Did you mean '--evaluation'?"),
        ([*LEAST, "--val", "nowhere.jsonl"], "--val nowhere.jsonl: no such file"),
        ([*LEAST, "--data", "nowhere.jsonl"], "--data nowhere.jsonl: no such file"),
        ([*LEAST, "--prompts", "nowhere.jsonl"], "--prompts nowhere.jsonl: no such file"),
        ([*LEAST, "--evaluation", "nowhere.jsonl"], "--evaluation nowhere.jsonl: no such file"),
        ([*LEAST, "--model", "run/last.ckpt"], "--model run/last.ckpt: expected a Hugging Face folder"),
        (["--configs", "dpo", "dpoo.yaml", *LEAST[3:]], "--configs dpoo.yaml: no such file"),
        (
            ["--configs", "dpo", "--updates", "3", "--clock", "wall", "--val", "x/y"],
            "--clock wall: is of --seconds",
        ),
        ([*LEAST, "--seeds", "0"], "--seeds: one number is how many, 1 or more; found 0"),
        ([*LEAST, "--seeds", "1", "2", "1"], "--seeds: expected different ones of 0 or more, found 1 2 1"),
        ([*LEAST, "--seeds", "1", "-2"], "--seeds: expected different ones of 0 or more, found 1 -2"),
        ([*LEAST, "--seconds", "soon"], "argument --seconds: invalid float value: 'soon'"),
    ],
)
def test_what_is_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refusal) as stop:
        parse(argv)
    assert stop.value.code == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ") and said in found


def test_a_config_that_is_no_yaml_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model:\n  a: [1\n")
    with pytest.raises(Refusal):
        parse(["--configs", "dpo", str(broken), *LEAST[3:]])
    assert f"{broken}:3: not YAML" in capsys.readouterr().err


def test_help_and_refusals_need_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name, *_ in OPTIONS)
    assert all(len(line) <= 110 for line in said.splitlines())
    code = (
        "import sys\nfrom lit_rlhf.cli.compare import main\nmain(['--help'])\n"
        "try: main(['--configs', 'nowhere.yaml', '--seconds', '1', '--val', 'x'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""The front door: what it answers by itself, and that it is quick about it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lit_rlhf import __version__
from lit_rlhf.cli.given_files import option_values
from lit_rlhf.cli.main import COMMANDS, main, split_command


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a refused command says on stderr; nothing on stdout."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        ([], 0),
        (["--version"], 0),
        (["fti"], 2),
        (["fit", "--help"], 0),
        (["fit", "--config", "no-such.yaml"], 2),
        (["ls"], 0),
        (["score", "--help"], 0),
        (["score", "model", "no-such.jsonl", "--out", "o.jsonl"], 2),
        (["sample", "--help"], 0),
        (["sample", "model", "--prompts", "no-such.jsonl", "--out", "o.jsonl"], 2),
        (["chat", "--help"], 0),
        (["chat", "model", "--best-of", "4"], 2),
        (["serve", "--help"], 0),
        (["serve", "model", "--port", "-1"], 2),
        (["strength", "--help"], 0),
        (["strength", "--config", "no-such.yaml", "--out", "d"], 2),
    ],
)
def test_nothing_heavy_is_imported(argv: list[str], code: int) -> None:
    program = (
        "import sys\nfrom lit_rlhf.cli.main import main\ncode = 0\n"
        f"try:\n    main({argv!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'jsonargparse', 'rich', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"assert code == {code}, code\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(argv)
    said = capsys.readouterr().out
    assert said.startswith("lit-rlhf: reinforcement learning")
    for name in (
        "demo",
        "init",
        "ls",
        "cp",
        "cat",
        "check",
        "fit",
        "validate",
        "test",
        "predict",
        "sample",
        "chat",
        "score",
        "serve",
        "strength",
        "export",
        "env",
    ):
        assert f"\n  {name:<10}" in said


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_every_command_has_its_file(name: str) -> None:
    module_name, function_name = COMMANDS[name][1].split(":")
    specification = find_spec(module_name)
    assert specification is not None and specification.origin is not None
    assert f"\ndef {function_name}(" in Path(specification.origin).read_text()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"lit-rlhf {__version__}\n"


def test_mistyped_command_error_first_then_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "valdate") == (
        "error: unknown command 'valdate'. Did you mean 'validate'?\nhelp: lit-rlhf --help\n"
    )


def test_a_phase_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lit-rlhf fit --config configs/dpo.yaml" in refusal(capsys, "dpo")


def test_options_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--config", "x.yaml")
    assert said.startswith("error: no command was given")
    assert "lit-rlhf fit --config x.yaml" in said


def test_mistyped_command_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'fitt'. Did you mean 'fit'?" in refusal(capsys, "--config", "x.yaml", "fitt")


@pytest.mark.parametrize(
    "argv",
    [
        ["fit", "--config", "a.yaml", "--model.beta", "0.2"],
        ["--config", "a.yaml", "fit", "--model.beta", "0.2"],
        ["--config", "a.yaml", "--model.beta", "0.2", "fit"],
    ],
)
def test_either_order(argv: list[str]) -> None:
    assert split_command(argv) == ("fit", ["--config", "a.yaml", "--model.beta", "0.2"])


def test_option_values_in_both_spellings() -> None:
    assert option_values(["--a", "1", "--b=2", "c", "--d"]) == [("--a", "1"), ("--b", "2")]


def test_missing_config_names_what_is_near(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_sft.yaml").write_text("model: {}")
    said = refusal(capsys, "fit", "--config", "my_stf.yaml")
    assert said.startswith("error: --config my_stf.yaml: no such file.\n")
    assert "Near it: my_sft.yaml" in said
    assert said.endswith("help: lit-rlhf fit --help\n")


def test_missing_config_with_a_shipped_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`lit-rlhf cp dpo dpo.yaml`" in refusal(capsys, "fit", "--config", "nowhere/dpo.yaml")


def test_config_from_the_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "never read over the network" in refusal(capsys, "fit", "--config=https://example.org/a.yaml")


def test_config_that_is_no_yaml_names_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("seed_everything: 1\nmodel: {class_path: A\ndata: 3\n")
    assert refusal(capsys, "fit", "--config", str(file)).startswith(f"error: --config {file}:3: not YAML")
    file.write_text("- a\n- b\n")
    assert "expected keys such as `model:`" in refusal(capsys, "fit", "--config", str(file))


@pytest.mark.parametrize(
    "option",
    ["--data.path", "--data.val_path", "--data.init_args.test_path", "--data.predict_path", "--ckpt_path"],
)
def test_missing_files_are_refused_at_once(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pairs.jsonl").touch()
    said = refusal(capsys, "fit", option, str(tmp_path / "pair.jsonl"))
    assert said.startswith(
        f"error: {option} {tmp_path}/pair.jsonl: no such file.\nNear it: {tmp_path}/pairs.jsonl"
    )


def test_missing_folder_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refusal(capsys, "fit", "--data.path", str(tmp_path / "dta" / "pairs.jsonl"))
    assert f"There is no folder {tmp_path}/dta" in said


@pytest.mark.parametrize("safe", [False, True])
def test_code_in_the_current_folder_can_be_named(safe: bool, tmp_path: Path) -> None:
    """As an installed script starts: the folder of the script is on the path, the current one is not."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "rewards_of_mine.py").touch()
    script = tmp_path / "bin" / "script.py"
    script.write_text("from lit_rlhf.cli.main import main\nmain(['ls'])\nimport rewards_of_mine\n")
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    result = subprocess.run(
        [sys.executable, *(["-P"] if safe else []), str(script)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode != 0) == safe, result.stderr
    assert ("No module named 'rewards_of_mine'" in result.stderr) == safe


def test_ctrl_c_before_training_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_rlhf.cli.configs.list_main", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["ls"])
    assert stop.value.code == 130
    assert "interrupted" in capsys.readouterr().err

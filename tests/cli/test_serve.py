"""``lit-rlhf serve``: from the command line to scores over a socket, and what is refused before anything is loaded."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli.main import main
from lit_rlhf.cli.serve import parse
from lit_rlhf.cli.serve_reward import announce, bind, load_reward
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.rewards.build import build_reward, score_completions
from lit_rlhf.rewards.function import FunctionReward
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.remote import RemoteReward
from tests.conftest import make_llama, make_tokenizer
from tests.rewards.test_failures import numbered


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def reward_dir(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward") / "export"
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(make_llama(tiny_tokenizer).base_model), tiny_tokenizer, folder)
    return str(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_folder_is_served_until_a_signal(
    number: signal.Signals, reward_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "secret")
    command = [sys.executable, "-m", "lit_rlhf", "serve", reward_dir, "--port", "0", "--device", "cpu"]
    if number is signal.SIGTERM:
        command += ["--token-env", "TOKEN_OF_THE_TEST"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        first, config = process.stdout.readline(), process.stdout.readline()
        assert re.match(rf"serving {reward_dir} at http://127\.0\.0\.1:\d+ ", first), process.stderr.read()
        spec = yaml.safe_load(config.removeprefix("in a config:"))[
            "reward"
        ]  # what it says can be used as it is
        reward = build_reward(spec, make_tokenizer())
        assert isinstance(reward, RemoteReward)
        assert reward.token_env == (None if number is signal.SIGINT else "TOKEN_OF_THE_TEST")
        found = score_completions(reward, numbered())
        here = ModelReward(reward_dir, make_tokenizer())
        here.shares_ids = False
        assert torch.allclose(found, score_completions(here, numbered()), atol=1e-5, rtol=0)
        process.send_signal(number)
        rest, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and rest.endswith("ended; 8 responses were scored\n")
    assert "Traceback" not in said and "secret" not in first + config + rest + said


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *argv])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["r", "--port", "-1"], "--port: expected 0 or more, found -1"),
        (["r", "--port", "70000"], "--port: expected at most 65535, found 70000"),
        (["r", "--batch-size", "0"], "--batch-size: expected 1 or more, found 0"),
        (["r", "--max-requests", "0"], "--max-requests: expected 1 or more"),
        (["r", "--max-mib", "0"], "--max-mib: expected 1 or more"),
        (["r", "--timeout", "0"], "--timeout: expected more than 0 seconds, found 0"),
        (["r", "--token-env", "NO_SUCH_TOKEN"], "--token-env NO_SUCH_TOKEN: expected a token"),
        (["last.ckpt"], "REWARD last.ckpt: expected a Hugging Face folder, found a checkpoint"),
        (["http://localhost:1"], "found the address of one that is served"),
        (["r", "--host", "256.0.0.1"], "--host 256.0.0.1: "),
    ],
)
def test_mistakes_are_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, *argv).startswith("error: ")
    assert said in refusal(capsys, *argv)


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(capsys, "no-such-folder/x", "--port", str(port))
    assert f"--port {port}: Address already in use" in said and "--port 0 takes a free port" in said


def test_a_reward_that_is_none(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path) -> None:
    for name, said in [
        ("./no-such", "no such folder"),
        (str(tiny_model_dir), "is no reward model"),
        ("no_such.function", "REWARD: 'no_such.function' is neither a folder here nor a dotted path"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(["serve", name, "--port", "0"])
        assert stop.value.code == 1
        assert said in capsys.readouterr().err


def test_a_function_has_a_limit_of_time() -> None:
    Path("serve_test_rewards.py").write_text("def long(prompts, **_):\n    return [1.0] * len(prompts)\n")
    sys.path.insert(0, os.getcwd())
    try:
        reward = load_reward(parse(["serve_test_rewards.long", "--timeout", "7"]))
    finally:
        sys.path.pop(0)
    assert isinstance(reward, FunctionReward) and reward.timeout == 7.0


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [
        ("127.0.0.1", False, None),
        ("0.0.0.0", False, "everybody there .*--token-env"),
        ("0.0.0.0", True, "who has the token there .*not encrypted"),
    ],
)
def test_other_networks_are_warned_of(
    host: str, token: bool, warned: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with bind(host, 0) as listening:
        port = listening.getsockname()[1]
        announce(
            parse(["r", "--host", host, *(["--token-env", "TOKEN_OF_THE_TEST"] if token else [])]), listening
        )
    said = capsys.readouterr()
    name = socket.gethostname() if warned else host
    assert f"http://{name}:{port}" in said.out
    assert re.search(warned, said.err) if warned else said.err == ""

"""Errors and warnings on the command line: whose they are, and how they are said."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from lit_rlhf.cli.guard import hub_message, is_users_mistake, run_guarded


class RepositoryNotFoundError(Exception):
    """Named as the hub's own."""


def from_pretrained(pretrained_model_name_or_path: str, cause: Exception) -> None:
    """Fails as loading does."""
    raise OSError("a message without the name") from cause


def failed(name: str, cause: Exception) -> OSError:
    with pytest.raises(OSError) as raised:
        from_pretrained(name, cause)
    return raised.value


def test_a_name_that_the_hub_does_not_have() -> None:
    said = hub_message(failed("gpt/tiny", RepositoryNotFoundError()))
    assert said.startswith("'gpt/tiny' is no file or folder here")
    assert "which has nothing of that name, or not for you" in said


def test_a_name_that_the_hub_cannot_be_asked_for() -> None:
    assert "cannot be reached" in hub_message(failed("gpt/tiny", ConnectionResetError()))


def test_other_troubles_and_folders_here_keep_their_own_message(tmp_path: Path) -> None:
    assert hub_message(failed("gpt/tiny", KeyError())) == ""
    assert hub_message(failed(str(tmp_path), RepositoryNotFoundError())) == ""
    assert hub_message(OSError("no space left")) == ""


def test_an_operating_systems_error_is_no_mistake_unless_loading_said_it() -> None:
    try:
        open("/dev/null/x")  # noqa: SIM115
    except OSError as error:
        assert not is_users_mistake(error)


def test_warnings_are_one_line_while_the_command_runs() -> None:
    before = warnings.formatwarning
    shown: list[str] = []

    def work() -> None:
        shown.append(warnings.formatwarning("in two\n  lines", UserWarning, "a.py", 3, "code()"))
        raise FileNotFoundError("a file")

    with pytest.raises(SystemExit):
        run_guarded("fit", work)
    assert shown == ["warning: in two lines\n"]
    assert warnings.formatwarning is before
    assert "a.py" in warnings.formatwarning("x", UserWarning, "a.py", 3, "code()")


def test_what_our_rooms_log_is_shown_while_a_command_runs(capsys):
    def work() -> None:
        logging.getLogger("lit_rlhf.models.reading").info("LlamaForCausalLM: attention over response trees")

    run_guarded("fit", work)
    assert "LlamaForCausalLM: attention over response trees" in capsys.readouterr().err
    assert not logging.getLogger("lit_rlhf").handlers


def test_a_rank_whose_peer_has_gone_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:14760")

    with pytest.raises(SystemExit) as left:
        run_guarded("fit", work)
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "error: another rank has gone, so this one stops too" in said
    assert "--ckpt_path last" in said
    with pytest.raises(RuntimeError, match="of another kind"):
        run_guarded("fit", lambda: (_ for _ in ()).throw(RuntimeError("of another kind")))

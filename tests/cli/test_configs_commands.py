"""``ls``, ``cat`` and ``cp``."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main


def test_ls_shows_every_config_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ls"])
    said = capsys.readouterr().out
    for name in ("sft", "reward", "dpo", "ppo", "pretrain"):
        line = next(line for line in said.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 4


def test_cat_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cat", "configs/dpo.yaml"])
    assert capsys.readouterr().out == shipped()["dpo"].read_text()


def test_cp_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine" / "dpo.yaml"
    main(["cp", "dpo", str(target)])
    assert target.read_text() == shipped()["dpo"].read_text()
    target.write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["cp", "dpo", str(target)])
    assert stop.value.code == 2
    assert target.read_text() == "mine"
    assert "is there already" in capsys.readouterr().err
    main(["cp", "dpo", str(target), "--force"])
    assert target.read_text() == shipped()["dpo"].read_text()


def test_cp_into_a_folder_keeps_the_name(tmp_path: Path) -> None:
    main(["cp", "ppo", str(tmp_path)])
    assert (tmp_path / "ppo.yaml").read_text() == shipped()["ppo"].read_text()


def test_unknown_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["cat", "rewrd"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: no config is called 'rewrd'. Did you mean 'reward'?\nhelp: lit-rlhf ls\n"
    )


def test_env_names_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    main(["env"])
    said = capsys.readouterr().out.splitlines()
    assert f"torch: {torch.__version__}" in said
    assert any(line.startswith("lit-rlhf: ") for line in said)


def test_a_copy_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "dpo.yaml"
    target.write_text("mine")

    def fail_half_way(path: Path, content: str) -> None:
        path.write_bytes(content.encode()[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        main(["cp", "dpo", str(target), "--force"])
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]

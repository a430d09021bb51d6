"""Strategies and numbers of ranks that cannot be, said before anything is built."""

from types import SimpleNamespace

import pytest

import lit_rlhf.strategies.fsdp2  # noqa: F401  # it registers its name
from lit_rlhf.cli.ranks import check_ranks


def trainer(strategy: str = "auto", devices: object = 1, num_nodes: int = 1) -> SimpleNamespace:
    return SimpleNamespace(strategy=strategy, devices=devices, num_nodes=num_nodes)


def test_a_mistyped_strategy_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        check_ranks(trainer("fdsp2"))
    assert left.value.code == 2
    assert (
        "--trainer.strategy fdsp2: there is no such strategy. Did you mean 'fsdp2'?"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2", "FSDP2Strategy", "deepspeed_stage_3"])
def test_those_that_there_are_pass(strategy: str):
    check_ranks(trainer(strategy))


def test_processes_and_devices_have_to_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "4")
    for devices, nodes in ((2, 2), ("4", 1), ("auto", 1), ([0, 1], 2)):
        check_ranks(trainer("ddp", devices, nodes))
    with pytest.raises(SystemExit):
        check_ranks(trainer("ddp", 1))
    assert "torchrun started 4 processes, and trainer.devices (1) times" in capsys.readouterr().err

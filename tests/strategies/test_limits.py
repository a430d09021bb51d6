"""Strategies under which nothing can be drawn are known by name."""

import pytest
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy

from lit_rlhf import FSDP2Strategy
from lit_rlhf.strategies.limits import scales_late, why_not_sampling
from tests.modules.ppo_runs import make_module
from tests.modules.training import quiet_trainer


def deepspeed(stage: int) -> DeepSpeedStrategy:
    strategy = object.__new__(DeepSpeedStrategy)  # its constructor wants the package
    strategy.config = {"zero_optimization": {"stage": stage}}
    return strategy


def test_who_cannot_sample():
    assert why_not_sampling(object.__new__(FSDPStrategy)) == "fsdp (FSDP1)"
    assert why_not_sampling(deepspeed(3)) == "deepspeed_stage_3"
    assert why_not_sampling(deepspeed(2)) is None
    assert why_not_sampling(FSDP2Strategy()) is None
    assert why_not_sampling(DDPStrategy()) is None


def test_who_keeps_gradients():
    assert not scales_late(deepspeed(2))
    assert scales_late(FSDP2Strategy())


def test_ppo_refuses_them_by_name(monkeypatch: pytest.MonkeyPatch):
    module = make_module()
    module.trainer = quiet_trainer()
    module.setup("fit")
    strategy = object.__new__(FSDPStrategy)  # its constructor wants a GPU
    strategy._precision_plugin = None
    monkeypatch.setattr(type(module.trainer), "strategy", strategy)
    with pytest.raises(
        ValueError, match=r"trainer\.strategy: under fsdp \(FSDP1\) .* Watched has to sample\. Use fsdp2"
    ):
        module.setup("fit")

"""Alarms over a real PPO run: what is rolled back is all that PPO learns by, and the next rollout is another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_rlhf.callbacks import TrainingAlarms
from tests.modules.ppo_runs import Watched, fit, make_module
from tests.modules.training import weights_of


class Recorded(Watched):
    """Keeps what each iteration begins with."""

    def on_train_epoch_start(self) -> None:
        network = weights_of(self.network).clone()
        moving: Any = self._reference
        reference = torch.cat([weight.flatten() for weight in moving.state_dict()["weights"].values()])
        self.begins = [*getattr(self, "begins", []), (network, reference)]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_reference_and_kl_coefficient_go_back_and_the_noise_does_not(tmp_path: Path) -> None:
    module = make_module(
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-2),
        reference={"decay": 0.5},
        kl_target=0.01,
        kl_horizon=100,
    )
    module.__class__ = Recorded
    # objective/kl is 0 in the first iteration and far over the limit in the second.
    alarms = TrainingAlarms("roll_back", kl_limit=0.02, entropy_share=None, save_every=1, max_roll_backs=1)
    trainer = fit(module, max_epochs=3, callbacks=[alarms], default_root_dir=tmp_path)
    first, second, third = module.begins
    assert not torch.equal(second[0], first[0])
    for then, now in zip(first, third, strict=True):
        assert torch.equal(then, now)
    coefficients = [numbers["objective/kl_coef"] for numbers in module.numbers]
    assert coefficients[2] == coefficients[0] != coefficients[1]
    rollouts = module.rollouts
    assert rollouts[2].prompt_ids != rollouts[0].prompt_ids
    assert rollouts[2].response_ids != rollouts[0].response_ids
    assert trainer.current_epoch == 3
    # The candidate of iteration 0's end is thrown away; that of iteration 2's end is kept for the next to judge.
    kept = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert kept == ["last-good-0.ckpt", "last-good-3.ckpt"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_healthy_run_has_no_alarms(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    module = make_module()
    fit(module, max_epochs=3, callbacks=[TrainingAlarms()], default_root_dir=tmp_path)
    assert not [one for one in recwarn if "Iteration" in str(one.message)]

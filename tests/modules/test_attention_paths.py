"""Trees and padded rows train to the same weights, in every phase."""

import pytest
import torch

from lit_rlhf import DPOModule, RewardModule, SFTModule
from lit_rlhf.models import reading
from lit_rlhf.modules.ppo import PPOModule
from tests.conftest import make_llama, make_tokenizer
from tests.modules.ppo_runs import Prompts, share_of_small_ids
from tests.modules.test_one_mean import TREES, Batches
from tests.modules.training import quiet_trainer, sgd, weights_of

TOKENIZER = make_tokenizer()


def fit_phase(phase: str, attention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights before and after a short fit."""
    torch.manual_seed(0)
    shared = {"tokenizer": TOKENIZER, "optimizer": sgd, "attention": attention}
    model, trainer = make_llama(TOKENIZER), quiet_trainer()
    if phase == "ppo":
        module = PPOModule(model, share_of_small_ids, minibatch_size=4, max_new_tokens=6, epochs=2, **shared)
        start = weights_of(module.network)
        trainer.fit(module, datamodule=Prompts())
        return start, weights_of(module.network)
    module = {"sft": SFTModule, "reward": RewardModule, "dpo": DPOModule}[phase](model, **shared)
    start = weights_of(module.network)
    trainer.fit(module, Batches([[0, 1, 2], [3, 4, 5, 6, 7]]))
    return start, weights_of(module.network)


@pytest.mark.filterwarnings("ignore:RewardModule. no reference responses:UserWarning")
@pytest.mark.parametrize("phase", ["sft", "reward", "dpo", "ppo"])
def test_both_paths_train_alike(phase: str, monkeypatch: pytest.MonkeyPatch):
    flat = []
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    reads_flat = reading.reads_flat
    monkeypatch.setattr(reading, "reads_flat", lambda *a: flat.append(reads_flat(*a)) or flat[-1])
    start, padded = fit_phase(phase, "padded")
    assert flat and not any(flat)
    flat.clear()
    _, trees = fit_phase(phase, "trees")
    assert flat and all(flat)
    assert (trees - padded).norm() < 1e-4 * (padded - start).norm()
    assert len(TREES) == 8

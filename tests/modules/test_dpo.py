"""DPO: where it starts, what the reference is, and that precomputing it changes nothing."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import DPOModule, PairDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import WatchedDPO, quiet_trainer, random_trees, weights_of

TOKENIZER = make_tokenizer()
PAIRS = [
    {"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late and big ."} for i in range(24)
]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def make_module(**settings) -> DPOModule:
    torch.manual_seed(0)
    return DPOModule(make_llama(TOKENIZER), optimizer=adam, tokenizer=TOKENIZER, **settings)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch) -> None:
    """Precomputed log-probabilities of rows from Python are written into the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("storage", ["frozen", "precomputed"])
def test_the_loss_starts_at_ln_2(storage, precision):
    torch.manual_seed(0)
    module = WatchedDPO(make_llama(TOKENIZER), optimizer=adam, tokenizer=TOKENIZER, reference_storage=storage)
    data = PairDataModule(PAIRS, batch_size=4)
    quiet_trainer(precision=precision).fit(module, datamodule=data)
    assert module.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert module.losses[-1] < 0.6


def test_precomputed_is_frozen():
    trained = []
    for storage in ("frozen", "precomputed"):
        module = make_module(reference_storage=storage)
        trainer = quiet_trainer()
        trainer.fit(module, datamodule=PairDataModule(PAIRS, val_fraction=0.25, batch_size=4))
        trained.append((weights_of(module.network), trainer.callback_metrics["val/loss"].item()))
    assert torch.allclose(trained[0][0], trained[1][0], atol=1e-5)
    assert trained[0][1] == pytest.approx(trained[1][1], abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("storage", ["frozen", "precomputed"])
def test_resume_is_exact_and_keeps_the_reference(storage, tmp_path: Path):
    def data() -> PairDataModule:
        return PairDataModule(PAIRS, batch_size=4)

    straight = make_module(reference_storage=storage)
    quiet_trainer(max_epochs=2).fit(straight, datamodule=data())
    folder = tmp_path / "checkpoints"
    keep = ModelCheckpoint(folder, every_n_train_steps=4, filename="{step}", save_top_k=-1)
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    trainer.fit(make_module(reference_storage=storage), datamodule=data())
    resumed = make_module(reference_storage=storage)
    quiet_trainer(max_epochs=2).fit(resumed, datamodule=data(), ckpt_path=str(folder / "step=4.ckpt"))
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_the_reference_can_be_another_folder(tmp_path: Path):
    other = make_llama(TOKENIZER, seed=9)
    other.save_pretrained(tmp_path)
    module = make_module(reference=str(tmp_path), beta=0.5)
    batch = pack_trees(random_trees(3))
    module.trainer = quiet_trainer()
    policy = sequence_logprobs(module.network(batch))
    reference = sequence_logprobs(PolicyNetwork(other)(batch))
    assert torch.allclose(module.judge(batch).scores, 0.5 * (policy - reference), atol=1e-4)


def test_the_checkpoint_holds_one_model(tmp_path: Path):
    keep = ModelCheckpoint(tmp_path, filename="end")
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    trainer.fit(make_module(), datamodule=PairDataModule(PAIRS, batch_size=8))
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    assert len(stored) == len(make_llama(TOKENIZER).state_dict())


def test_the_reference_must_read_the_policys_ids(tmp_path: Path):
    make_llama(TOKENIZER, vocab_size=len(TOKENIZER) + 8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.reference: .* of 320 tokens, found 328"):
        make_module(reference=str(tmp_path))


@pytest.mark.parametrize("wrong", [{"beta": -0.1}, {"label_smoothing": 0.5}])
def test_numbers_that_make_no_sense_are_refused_by_their_key(wrong: dict):
    with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))}: expected"):
        make_module(**wrong)


def test_after_precomputing_validation_goes_on_and_new_rows_are_refused():
    module = make_module(reference_storage="precomputed")
    trainer = quiet_trainer()
    data = PairDataModule(PAIRS, val_path=PAIRS[:6], test_path=PAIRS[:3], batch_size=4)
    trainer.fit(module, datamodule=data)
    logged = trainer.callback_metrics["val/loss"].item()
    trainer.validate(module, datamodule=data, verbose=False)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(logged, abs=1e-6)
    with pytest.raises(
        ValueError, match="model that the policy started from, and it was given as a model already built"
    ):
        trainer.test(module, datamodule=data, verbose=False)

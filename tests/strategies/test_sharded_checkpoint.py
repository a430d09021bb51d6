"""What ranks write together is read as one dictionary, which any optimizer takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import DPOModule, FSDP2Strategy
from lit_rlhf.strategies.sharded_checkpoint import read_sharded_checkpoint
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules.test_one_mean import Batches
from tests.modules.training import quiet_trainer
from tests.strategies.spread_fits import GROUPS, TOKENIZER, TREES, gathered


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def fit(strategy, ranks: int, folder: Path | None, epochs: int, start: dict | None = None) -> np.ndarray:
    torch.manual_seed(0)
    module = DPOModule(make_llama(TOKENIZER), optimizer=momentum, tokenizer=TOKENIZER)
    saves = folder is not None and start is None
    saving = [ModelCheckpoint(folder, filename="half", save_top_k=-1)] if saves else []
    trainer = quiet_trainer(
        strategy=strategy,
        devices=ranks,
        max_epochs=epochs,
        callbacks=saving,
        enable_checkpointing=bool(saving),
    )
    loader = Batches(GROUPS, trainer.global_rank, ranks, TREES)
    ckpt_path = None
    if start is not None:
        ckpt_path = folder / "whole.ckpt"
        torch.save({**start, "callbacks": {}}, ckpt_path)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return gathered(module)


def first_half(folder: Path) -> np.ndarray:
    return fit(FSDP2Strategy(save_distributed_checkpoint=True), 2, folder, 1)


def test_one_process_goes_on_from_what_two_wrote(tmp_path: Path):
    run_distributed(first_half, 2, tmp_path)
    checkpoint = read_sharded_checkpoint(tmp_path / "half.ckpt")
    assert "optimizer_states" not in read_sharded_checkpoint(tmp_path / "half.ckpt", with_optimizers=False)
    (state,) = checkpoint["optimizer_states"]
    assert state["param_groups"][0]["params"] == list(range(len(state["state"])))
    found = fit("auto", 1, tmp_path, 2, checkpoint)
    expected = fit("auto", 1, None, 2)
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(fit("auto", 1, None, 1) - expected).max() > 1e-3


def test_a_folder_that_was_not_finished_is_refused(tmp_path: Path):
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found no meta\.pt: it is written last"):
        read_sharded_checkpoint(tmp_path / "last.ckpt")

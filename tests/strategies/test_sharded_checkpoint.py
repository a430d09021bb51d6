"""What ranks write together is read as one dictionary, which any optimizer takes."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import DPOModule, FSDP2Strategy
from lit_rlhf.strategies.sharded_checkpoint import load_whole_optimizer, read_sharded_checkpoint
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules.ppo_runs import fit as ppo_fit
from tests.modules.ppo_runs import make_module
from tests.modules.test_one_mean import Batches
from tests.modules.training import quiet_trainer
from tests.strategies.spread_fits import GROUPS, TOKENIZER, TREES, gathered


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def fit(
    strategy, ranks: int, folder: Path | None, epochs: int, start: dict | None = None, **settings
) -> np.ndarray:
    torch.manual_seed(0)
    module = DPOModule(make_llama(TOKENIZER), optimizer=momentum, tokenizer=TOKENIZER, **settings)
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


def second_half(folder: Path, **settings) -> np.ndarray:
    start = torch.load(folder / "half.ckpt", weights_only=True)
    return fit("fsdp2", 2, folder, 2, start, **settings)


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["full", "adapters"])
def test_two_ranks_go_on_from_what_one_process_wrote(tmp_path: Path, lora: dict | None):
    """A single process counts an optimizer's parameters otherwise than all those of the model, frozen ones too."""
    fit("auto", 1, tmp_path, 1, lora=lora)
    expected = fit("auto", 1, None, 2, lora=lora)
    for found in run_distributed(partial(second_half, lora=lora), 2, tmp_path):
        assert np.abs(found - expected).max() < 1e-6


def warmed_up(strategy, ranks: int, folder: Path, epochs: int, start: Path | None = None) -> np.ndarray:
    """The policy has no optimizer state before the second iteration."""
    module = make_module(critic_warmup=1)
    saving = ModelCheckpoint(folder, filename="half", save_top_k=-1)
    watching = {"enable_checkpointing": True, "callbacks": [saving]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the folder is there already
        ppo_fit(module, start, strategy=strategy, devices=ranks, max_epochs=epochs, **watching)
    return gathered(module)


def warmed_up_by_two(folder: Path, in_parts: bool) -> np.ndarray:
    strategy = FSDP2Strategy(save_distributed_checkpoint=in_parts)
    warmed_up(strategy, 2, folder, 1)
    return warmed_up("fsdp2", 2, folder / "on", 2, folder / "half.ckpt")


@pytest.mark.parametrize("in_parts", [False, True], ids=["file", "folder"])
def test_what_was_never_updated_has_no_state_and_gets_none(tmp_path: Path, in_parts: bool):
    expected = warmed_up("auto", 1, tmp_path / "single", 2)
    for found in run_distributed(warmed_up_by_two, 2, tmp_path, in_parts):
        assert np.abs(found - expected).max() < 2e-4  # under Adam, at a rate of 3e-3


def test_an_optimizer_of_other_parameters_is_refused():
    one, two = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1)) for _ in range(n)], lr=1) for n in (1, 2))
    with pytest.raises(ValueError, match="optimizer has 2 parameters, this run's has 1"):
        load_whole_optimizer(one, two.state_dict())


def test_a_folder_that_was_not_finished_is_refused(tmp_path: Path):
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found no meta\.pt: it is written last"):
        read_sharded_checkpoint(tmp_path / "last.ckpt")


def read_into_a_smaller_one(file: Path) -> str:
    module = DPOModule(make_llama(TOKENIZER, num_hidden_layers=1), optimizer=momentum, tokenizer=TOKENIZER)
    trainer = quiet_trainer(strategy="fsdp2", devices=2)
    with pytest.raises(ValueError) as refused:
        trainer.validate(
            module, Batches(GROUPS, trainer.global_rank, 2, TREES), ckpt_path=file, verbose=False
        )
    return str(refused.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    fit("auto", 1, tmp_path, 1)
    content = torch.load(tmp_path / "half.ckpt", weights_only=True)
    torch.save({**content, "callbacks": {}}, tmp_path / "half.ckpt")
    for message in run_distributed(read_into_a_smaller_one, 2, tmp_path / "half.ckpt"):
        assert "its weights do not fit this model: network.causal_lm.model.layers.1." in message
        assert "there and None here" in message


def test_a_roll_back_undoes_a_state_too():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = momentum([weight])
    before = optimizer.state_dict()
    weight.grad = torch.ones(1)
    optimizer.step()
    load_whole_optimizer(optimizer, before)
    assert not optimizer.state

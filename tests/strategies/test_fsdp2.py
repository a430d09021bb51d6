"""Under fsdp2 every phase does what one process does, also where ranks compute layers together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_rlhf import FSDP2Strategy, SFTModule
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules.test_one_mean import Batches
from tests.modules.training import quiet_trainer, sgd
from tests.strategies.spread_fits import GROUPS, PHASES, TOKENIZER, TREES, fitted


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fsdp2") / "model"
    make_llama(TOKENIZER).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def same(found: list[dict[str, Any]], single: dict[str, Any]) -> None:
    for rank in found:
        assert rank["loss"] == pytest.approx(single["loss"], abs=1e-5)
        assert np.abs(rank["weights"] - single["weights"]).max() < 1e-6
    assert "export" not in found[1]
    for name, weight in single["export"].items():
        assert np.abs(found[0]["export"][name] - weight).max() < 1e-6


@pytest.mark.parametrize("phase", PHASES)
def test_two_ranks_learn_what_one_does(phase: str, model: str, tmp_path: Path):
    single = fitted(phase, "auto", model, tmp_path / "single")
    start = fitted(phase, "auto", model, clip=1e-9)
    assert (
        np.abs(single["weights"] - start["weights"]).max() > 1e-4
    )  # it moved, and less than it would unclipped
    same(run_distributed(fitted, 2, phase, "fsdp2", model, tmp_path / "spread"), single)


def test_the_gradient_is_clipped_by_the_norm_of_all_parts():
    single, loose = fitted("sft", "auto", clip=0.01), fitted("sft", "auto", clip=100.0)
    assert np.abs(single["weights"] - loose["weights"]).max() > 1e-3
    for rank in run_distributed(fitted, 2, "sft", "fsdp2", None, None, 0.01):
        assert np.abs(rank["weights"] - single["weights"]).max() < 1e-6


def with_ties(ranks_a_share: int) -> dict[str, Any]:
    return fitted("reward", FSDP2Strategy(tensor_parallel_size=ranks_a_share), ties="rao_kupper")


@pytest.mark.parametrize("ranks_a_share", [1, 2])
def test_what_a_loss_learns_beside_the_network_is_averaged_too(ranks_a_share: int):
    single = fitted("reward", "auto", ties="rao_kupper")
    for rank in run_distributed(with_ties, 2, ranks_a_share):
        assert np.abs(rank["weights"] - single["weights"]).max() < 1e-6


def split(phase: str, model: str, out: Path) -> dict[str, Any]:
    return fitted(phase, FSDP2Strategy(tensor_parallel_size=2), model, out)


@pytest.mark.parametrize("phase", PHASES)
def test_two_ranks_that_compute_layers_together_learn_what_one_does(phase: str, model: str, tmp_path: Path):
    single = fitted(phase, "auto", model, tmp_path / "single")
    same(run_distributed(split, 2, phase, model, tmp_path / "spread"), single)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_two_pairs_of_ranks_learn_what_one_does(phase: str, model: str, tmp_path: Path):
    single = fitted(phase, "auto", model, tmp_path / "single")
    same(run_distributed(split, 4, phase, model, tmp_path / "spread"), single)


def refused(size: int, total: int | None) -> str:
    with pytest.raises(ValueError) as error:
        fitted("sft", FSDP2Strategy(total, tensor_parallel_size=size))
    return str(error.value)


def test_sizes_that_make_other_ranks_are_refused():
    for message in run_distributed(refused, 2, 1, 3):
        assert "data_parallel_size 3 times tensor_parallel_size 1 is 3, but there are 2 ranks" in message


def with_adapters() -> str:
    with pytest.raises(ValueError) as error:
        fitted("sft", FSDP2Strategy(tensor_parallel_size=2), lora={"r": 2})
    return str(error.value)


def test_adapters_are_not_split():
    for message in run_distributed(with_adapters, 2):
        assert "adapters (model.lora) are not cut over ranks" in message


def resumed(folder: Path) -> list[float]:
    """Without an update behind it, and with a rate that the checkpoint has and the optimizer has not."""
    module = SFTModule(make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER)
    trainer = quiet_trainer(strategy="fsdp2", devices=2)
    batches = Batches(GROUPS, trainer.global_rank, 2, TREES)
    trainer.fit(module, batches)
    module.optimizers().param_groups[0]["lr"] = 0.025
    trainer.save_checkpoint(folder / "half.ckpt")
    again = quiet_trainer(strategy="fsdp2", devices=2, max_epochs=1)
    again.fit(module, batches, ckpt_path=folder / "half.ckpt")
    return [group["lr"] for group in again.optimizers[0].param_groups]


def test_an_optimizer_without_state_is_continued(tmp_path: Path):
    assert run_distributed(resumed, 2, tmp_path) == [[0.025], [0.025]]


def test_embeddings_that_are_the_head_stay_so_over_ranks_that_compute_together(tmp_path: Path):
    make_llama(TOKENIZER, tie_word_embeddings=True).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    single = fitted("sft", "auto", model, tmp_path / "single")
    assert "lm_head.weight" not in single["export"]
    same(run_distributed(split, 2, "sft", model, tmp_path / "spread"), single)

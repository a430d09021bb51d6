"""LoRA in SFT, reward and DPO: what is trained, what is saved, and the reference that is the policy without it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from lit_rlhf import DemonstrationDataModule, DPOModule, PairDataModule, RewardModule, SFTModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.reference import Frozen
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, random_trees, weights_of

TOKENIZER = make_tokenizer()
PAIRS = [
    {"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late and big ."} for i in range(24)
]
DEMONSTRATIONS = [{"prompt": f"the soup {i}", "response": " is tasty" * (1 + i % 4)} for i in range(24)]
PHASES = {"sft": SFTModule, "reward": RewardModule, "dpo": DPOModule}


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


def make(phase: str, lora: Any, model: Any = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    if not isinstance(model, str):
        model, settings["tokenizer"] = make_llama(TOKENIZER), TOKENIZER
    return PHASES[phase](model, lora=lora, optimizer=adam, **settings)


def data(phase: str, **settings: Any) -> Any:
    if phase == "sft":
        return DemonstrationDataModule(DEMONSTRATIONS, batch_size=4, **settings)
    return PairDataModule(PAIRS, batch_size=4, **settings)


def fit(phase: str, lora: Any, **settings: Any) -> Any:
    module = make(phase, lora, **settings)
    quiet_trainer().fit(module, datamodule=data(phase))
    return module


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precomputed references of rows without a file are written to the trainer's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("phase", list(PHASES))
def test_adapters_and_head_move_and_nothing_else(phase: str) -> None:
    before = dict(make(phase, {"r": 4}).network.named_parameters())
    after = dict(fit(phase, {"r": 4}).network.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("lora_" in name or name.startswith("head.") for name in moved)
    assert {name for name in before if "lora_" in name} <= moved
    assert ("head.weight" in moved) == (phase == "reward")


@pytest.mark.parametrize("storage", ["frozen", "precomputed", "adapter_off"])
def test_dpo_starts_at_ln_2(storage: str) -> None:
    module = make("dpo", {"target_modules": "all-linear"}, reference_storage=storage)
    losses = []
    step = module.compute_loss

    def kept(batch: Any) -> Any:
        output = step(batch)
        losses.append((output.total / output.count).item())
        return output

    module.compute_loss = kept
    quiet_trainer().fit(module, datamodule=data("dpo"))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.6


def test_the_three_ways_to_keep_the_reference_are_one() -> None:
    trained, validated = [], []
    for storage in ("frozen", "precomputed", "adapter_off"):
        module = make("dpo", {"r": 4}, reference_storage=storage)
        trainer = quiet_trainer()
        trainer.fit(module, datamodule=data("dpo", val_fraction=0.25))
        trained.append(weights_of(module.network))
        validated.append(trainer.callback_metrics["val/loss"].item())
    assert torch.allclose(trained[0], trained[1], atol=1e-4)
    assert torch.allclose(trained[0], trained[2], atol=1e-4)
    assert validated == pytest.approx([validated[0]] * 3, abs=1e-4)


@pytest.mark.parametrize("storage", ["precomputed", "adapter_off"])
def test_no_second_model_is_held(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: Any) -> None:
        raise AssertionError("a copy")

    monkeypatch.setattr(Frozen, "copy_of", refuse)
    with pytest.raises(AssertionError, match="a copy"):
        make("dpo", {"r": 4}, reference_storage="frozen")
    fit("dpo", {"r": 4}, reference_storage=storage)


def test_the_reference_stays_what_it_was_after_training() -> None:
    module = fit("dpo", {"r": 4}, reference_storage="adapter_off")
    batch = pack_trees(random_trees(3))
    expected = sequence_logprobs(PolicyNetwork(make_llama(TOKENIZER))(batch))
    assert torch.allclose(module.reference_logprobs(batch), expected, atol=1e-4)
    assert not torch.allclose(sequence_logprobs(module.network(batch)), expected, atol=1e-1)


def test_precomputed_looks_at_new_rows_after_training_too() -> None:
    """The policy without its adapters has not moved, so rows that come later are no trouble."""
    module = fit("dpo", {"r": 4}, reference_storage="precomputed")
    trainer = quiet_trainer()
    trainer.test(module, datamodule=data("dpo", test_path=PAIRS[:5]), verbose=False)
    found = trainer.callback_metrics["val/loss"].item()
    module = fit("dpo", {"r": 4}, reference_storage="adapter_off")
    trainer.test(module, datamodule=data("dpo", test_path=PAIRS[:5]), verbose=False)
    assert found == pytest.approx(trainer.callback_metrics["val/loss"].item(), abs=1e-4)


def test_adapter_off_without_adapters_or_with_another_reference_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.reference_storage: adapter_off needs model\.lora"):
        make("dpo", None, reference_storage="adapter_off")
    with pytest.raises(
        ValueError, match=r"model\.reference: expected null with reference_storage: adapter_off"
    ):
        make("dpo", {"r": 4}, reference_storage="adapter_off", reference=str(tiny_model_dir))


@pytest.mark.parametrize("phase", ["reward", "dpo"])
def test_dropout_is_refused_where_it_is_off(phase: str) -> None:
    with pytest.raises(ValueError, match=r"model\.lora\.lora_dropout: expected 0"):
        make(phase, {"lora_dropout": 0.05})


RESUMED = [
    ("sft", {"lora_dropout": 0.3}, {}),
    ("reward", {"use_dora": True}, {}),
    ("dpo", {"use_rslora": True}, {"reference_storage": "adapter_off"}),
    ("dpo", {}, {"reference_storage": "precomputed"}),
    ("dpo", {}, {"reference_storage": "frozen"}),
]


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize(("phase", "lora", "settings"), RESUMED, ids=str)
def test_resume_is_exact(phase: str, lora: Any, settings: Any, tmp_path: Path) -> None:
    straight = fit(phase, lora, **settings)
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    trainer.fit(make(phase, lora, **settings), datamodule=data(phase))
    resumed = make(phase, lora, **settings)
    torch.manual_seed(77)  # whatever the global stream holds by then
    quiet_trainer().fit(resumed, datamodule=data(phase), ckpt_path=str(tmp_path / "kept" / "step=3.ckpt"))
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_dropout_of_the_adapters_is_at_work_and_counted() -> None:
    trained = []
    for seed in (0, 0, 1):
        trained.append(weights_of(fit("sft", {"lora_dropout": 0.3}, seed=seed).network))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize(
    "lora", [{"r": 4}, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")]
)
@pytest.mark.parametrize("phase", list(PHASES))
def test_a_checkpoint_holds_the_adapters_and_plain_values(
    phase: str, lora: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    module = make(phase, lora, str(tiny_model_dir))
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[ModelCheckpoint(tmp_path, filename="end")])
    trainer.fit(module, datamodule=data(phase))
    content = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert content["hyper_parameters"]["lora"]["r"] == 4
    largest = max(value.numel() for value in content["state_dict"].values())
    assert largest == 4 * 32  # a factor: the rank times the width of the model
    back = type(module).load_from_checkpoint(tmp_path / "end.ckpt", optimizer=adam)
    assert torch.equal(weights_of(back.network), weights_of(module.network))


@pytest.mark.parametrize("phase", list(PHASES))
def test_an_export_in_between_changes_nothing(phase: str, tmp_path: Path) -> None:
    """To the bit: not the weights, not what is drawn after it, not the gradients that are kept."""
    lora = {"lora_dropout": 0.2} if phase == "sft" else {"r": 4}

    trained = []
    for exports in (False, True):
        module = make(phase, lora)
        step = module.training_step

        def exporting(batch: Any, number: int, module=module, step=step, exports=exports) -> Any:
            if exports:
                module.export(tmp_path / "export")
            return step(batch, number)

        module.training_step = exporting
        quiet_trainer(max_steps=4).fit(module, datamodule=data(phase))
        trained.append(weights_of(module.network))
    assert torch.equal(trained[0], trained[1])
    assert (tmp_path / "export-adapter" / "adapter_model.safetensors").is_file()


def test_the_export_is_the_next_phases_model(tmp_path: Path) -> None:
    module = fit("sft", {"target_modules": "all-linear"})
    module.export(tmp_path / "export")
    batch = pack_trees(random_trees(3))
    following = DPOModule(str(tmp_path / "export"), lora={"r": 2}, reference_storage="adapter_off")
    expected = module.network(batch).logprobs
    assert torch.allclose(following.network(batch).logprobs, expected, atol=1e-5)
    assert torch.allclose(following.reference_logprobs(batch), expected.sum(1), atol=1e-4)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "export")).__name__ == "LlamaForCausalLM"


def test_null_is_full_weights() -> None:
    module = make("sft", None)
    assert module.adapter is None
    assert all(weight.requires_grad for weight in module.network.parameters())
    assert "lora_base_checksum" not in module.network.state_dict()


def _fit_on_a_rank() -> Any:
    warnings.simplefilter("ignore")
    module = make("dpo", {"r": 4}, reference_storage="adapter_off")
    quiet_trainer(strategy="ddp", devices=2).fit(module, datamodule=data("dpo"))
    return weights_of(module.network).numpy()


def test_two_processes_give_what_one_gives() -> None:
    one = weights_of(fit("dpo", {"r": 4}, reference_storage="adapter_off").network)
    for rank in run_distributed(_fit_on_a_rank, 2):
        assert torch.allclose(torch.from_numpy(rank), one, atol=1e-4)


def test_the_adapter_is_held_once() -> None:
    module = make("sft", {"r": 4})
    assert isinstance(module.adapter, LoraAdapter)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert all(name.startswith("network.") for name in names)

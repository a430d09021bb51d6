"""How layers are run, in all phases: the config reaches the networks, and training stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AttentionInterface

from lit_rlhf import RewardModule
from lit_rlhf.models import execution, reading
from lit_rlhf.models.execution import Execution, LayerRunner
from lit_rlhf.models.tree_attention import NAME, tree_attention
from tests.modules import ppo_runs, test_lora_phases
from tests.modules.training import quiet_trainer, sgd, weights_of

PHASES = ["sft", "reward", "dpo", "ppo"]


@pytest.fixture(autouse=True)
def _on_the_flat_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    monkeypatch.setattr(execution, "BACKEND", "eager")
    yield
    torch._dynamo.reset()
    AttentionInterface.register(NAME, tree_attention)


def trained(phase: str, settings: Any, **arguments: Any) -> Any:
    if phase == "ppo":
        module = ppo_runs.make_module(sgd, execution=settings, **arguments)
        ppo_runs.fit(module, max_epochs=1)
        return module
    module = test_lora_phases.make(phase, None, execution=settings, **arguments)
    module._make_optimizer = sgd
    quiet_trainer(max_steps=3).fit(module, datamodule=test_lora_phases.data(phase))
    return module


@pytest.mark.parametrize("phase", PHASES)
def test_checkpointing_changes_no_weight(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = LayerRunner.__call__
    monkeypatch.setattr(LayerRunner, "__call__", lambda *given: calls.append(given) or run(*given))
    plain = trained(phase, None)
    assert not calls
    network = trained(phase, {"activation_checkpointing": True}).network
    # every layer that is trained: of the critic too
    assert {given[1].args[0] for given in calls} == {m for m in network.modules() if hasattr(m, "self_attn")}
    assert torch.allclose(weights_of(network), weights_of(plain.network), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("phase", PHASES)
def test_compiled_layers_train_alike(phase: str) -> None:
    plain, compiled = trained(phase, None), trained(phase, Execution(compile=True))
    assert torch.allclose(weights_of(compiled.network), weights_of(plain.network), atol=1e-5)
    if phase == "ppo":  # what is sampled is sampled as ever
        (ours,), (theirs,) = compiled.rollouts, plain.rollouts
        assert ours.response_ids == theirs.response_ids


@pytest.mark.parametrize(
    "settings", [Execution(activation_checkpointing=True), {"activation_checkpointing": True}]
)
def test_a_checkpoint_holds_plain_values(settings: Any, tmp_path: Path, tiny_model_dir: Path) -> None:
    module = RewardModule(str(tiny_model_dir), execution=settings, optimizer=sgd)
    keep = ModelCheckpoint(tmp_path, filename="end")
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep], max_steps=1)
    trainer.fit(module, datamodule=test_lora_phases.data("reward"))
    content = torch.load(tmp_path / "end.ckpt", weights_only=True)
    expected = {"activation_checkpointing": True, "offload_activations": False, "compile": False}
    assert content["hyper_parameters"]["execution"] == expected
    plain = RewardModule(str(tiny_model_dir))
    assert [n for n in content["state_dict"] if n.startswith("network.")] == [
        f"network.{name}" for name in plain.network.state_dict()
    ]
    back = RewardModule.load_from_checkpoint(tmp_path / "end.ckpt", optimizer=sgd)
    assert back.execution == Execution(activation_checkpointing=True)


@pytest.mark.parametrize("phase", PHASES)
def test_a_wrong_key_is_named(phase: str) -> None:
    with pytest.raises(ValueError, match=r"model\.execution\.checkpointing: no such key\. Did you mean"):
        trained(phase, {"checkpointing": True})

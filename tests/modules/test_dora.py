"""DoRA in all phases and precisions: its magnitudes are trained too, and the merged export is the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import load_scorer
from tests.distributed import run_distributed
from tests.modules import ppo_runs, test_lora_phases
from tests.modules.training import quiet_trainer, random_trees, weights_of

DORA = {"use_dora": True, "r": 4}
TREES = pack_trees(random_trees(3))


def trained(phase: str, trainer: dict[str, Any], **settings: Any) -> Any:
    if phase == "ppo":
        module = ppo_runs.make_module(**{"lora": DORA, "reference_storage": "adapter_off", **settings})
        ppo_runs.fit(module, max_epochs=2, **trainer)
        return module
    module = test_lora_phases.make(phase, DORA, **settings)
    quiet_trainer(max_steps=3, **trainer).fit(module, datamodule=test_lora_phases.data(phase))
    return module


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("phase", ["sft", "reward", "dpo", "ppo"])
def test_directions_and_magnitudes_are_trained_and_exported(
    phase: str, precision: str, tmp_path: Path
) -> None:
    settings = {"reference_storage": "adapter_off"} if phase in ("dpo", "ppo") else {}
    module = trained(phase, {"precision": precision}, **settings)
    with_adapters = dict(module.network.named_parameters())
    start = dict(
        (ppo_runs.make_module(lora=DORA) if phase == "ppo" else test_lora_phases.make(phase, DORA)).network
        .named_parameters()
    )  # fmt: skip
    for kind in ("lora_A", "lora_B", "lora_magnitude_vector"):
        named = [name for name in with_adapters if kind in name]
        assert named and all(not torch.equal(with_adapters[n].float(), start[n]) for n in named), kind
    module.export(tmp_path / "export")
    if phase == "reward":
        found, expected = load_scorer(str(tmp_path / "export"))(TREES), module.network(TREES)
    else:
        network = module.network.policy if phase == "ppo" else module.network
        exported = PolicyNetwork(load_causal_lm(str(tmp_path / "export"))).eval()
        found, expected = exported(TREES).logprobs, network(TREES).logprobs
    # bf16 has three digits, and the merge of weights rounds them once more
    assert torch.allclose(found, expected.float(), atol=0.3 if precision == "bf16-true" else 1e-4)


def _one_trunk_on_a_rank(devices: int) -> Any:
    strategy = {"strategy": "ddp", "devices": 2} if devices == 2 else {}
    module = trained("ppo", strategy, critic="adapter", execution={"activation_checkpointing": True})
    return weights_of(module.network).numpy()


def test_two_processes_train_policy_and_critic_on_one_trunk_as_one_does() -> None:
    one = _one_trunk_on_a_rank(1)
    for rank in run_distributed(_one_trunk_on_a_rank, 2, 2):
        assert torch.allclose(torch.from_numpy(rank), torch.from_numpy(one), atol=1e-4)

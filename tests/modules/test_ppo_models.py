"""PPO's critics, references and adapters in a fit: whom they move, what is saved, and that it resumes to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_rlhf import PPOModule
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reference import MovingReference
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.records import Experience, Row
from lit_rlhf.rollout.experience import sampled_trees
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, sgd, weights_of

TOKENIZER = make_tokenizer()
ROWS = [Row(f"the {word}", id=word) for word in ("soup", "cake", "train", "lamp", "hotel")]
LORA = {"r": 4, "target_modules": "all-linear"}


def share_of_small_ids(
    prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
) -> list[float]:
    """A reward that tokens alone decide: the share of ids under 150."""
    return [sum(token < 150 for token in ids) / len(ids) for ids in completion_ids]


class Prompts(L.LightningDataModule):
    batch_size = 4
    max_prompt_tokens = None

    def train_dataloader(self) -> Any:
        return self.trainer.lightning_module.rollout_loader(ROWS)


class Watched(PPOModule):
    """Keeps each rollout and the policy's weights that drew it."""

    def on_rollout_end(self, experience: Experience) -> None:
        super().on_rollout_end(experience)
        self.rollouts = [*getattr(self, "rollouts", []), experience]
        self.drawn_by = [*getattr(self, "drawn_by", []), weights_of(self.network.policy)]


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=3e-3)


def make(**changes: Any) -> Watched:
    """Eight responses an iteration in two minibatches, gone through twice: four updates."""
    settings = {"epochs": 2, "minibatch_size": 4, "max_new_tokens": 6, "samples_per_prompt": 2}
    torch.manual_seed(0)
    return Watched(
        make_llama(TOKENIZER), share_of_small_ids, tokenizer=TOKENIZER, **{"optimizer": adam, **settings, **changes}
    )  # fmt: skip


def fit(module: Watched, ckpt_path: Path | None = None, **settings: Any) -> L.Trainer:
    trainer = quiet_trainer(**settings)
    path = None if ckpt_path is None else str(ckpt_path)
    trainer.fit(module, datamodule=Prompts(), ckpt_path=path)
    return trainer


def trained(iterations: int, **changes: Any) -> Watched:
    module = make(**changes)
    fit(module, max_epochs=iterations)
    return module


def logprobs_under(weights: Tensor, experience: Experience) -> Tensor:
    """Of the experience's responses, under a policy with these weights."""
    policy = PolicyNetwork(make_llama(TOKENIZER)).eval()
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(weights, policy.parameters())
        return policy(sampled_trees(experience.prompt_ids, experience.response_ids)).logprobs


def kl_of(experience: Experience) -> Tensor:
    return (experience.old_logprobs - experience.reference_logprobs).abs().max()


RESUMED: list[dict[str, Any]] = [
    {"critic": "shared", "critic_warmup": 2, "entropy_coef": 0.01},
    {"reference": {"every": 2}, "advantage": "rloo"},
    {"reference": {"decay": 0.7}, "critic": "shared", "lora": LORA},
    {"reference_storage": "adapter_off", "lora": {"use_dora": True}},
]


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("settings", RESUMED, ids=str)
def test_resume_is_exact_inside_and_at_the_end_of_an_iteration(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Of three iterations of four updates, from the third update, the fourth and the sixth."""
    straight = trained(3, **settings)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    fit(make(**settings), max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    for step in (3, 4, 6):
        resumed = make(**settings)
        fit(resumed, tmp_path / f"step={step}.ckpt", max_epochs=3)
        assert torch.equal(weights_of(resumed.network), weights_of(straight.network)), step
        assert len(resumed.rollouts) == {3: 2, 4: 2, 6: 1}[step]
        assert torch.equal(
            resumed.rollouts[-1].reference_logprobs, straight.rollouts[-1].reference_logprobs
        ), step


@pytest.mark.parametrize("critic", [None, "shared"])
def test_in_the_warm_up_the_critic_learns_alone(critic: str | None) -> None:
    before = {name: p.detach().clone() for name, p in make(critic=critic).network.named_parameters()}

    def moved(module: Watched) -> set[str]:
        found = {n for n, p in module.network.named_parameters() if not torch.equal(p, before[n])}
        return {name.split(".")[0] for name in found}

    assert moved(trained(2, critic=critic, critic_warmup=2)) == {"critic"}
    assert moved(trained(3, critic=critic, critic_warmup=2)) == {"critic", "policy"}


def test_the_value_loss_of_a_shared_critic_moves_the_policys_trunk() -> None:
    """Of one update from weights where all values are 0, the head has moved; from the second on the trunk has."""
    trunks = {}
    for critic in (None, "shared"):
        for value_coef in (0.0, 1.0):
            module = trained(1, critic=critic, value_coef=value_coef)
            trunks[critic, value_coef] = weights_of(module.network.policy.causal_lm.base_model)
    assert torch.equal(trunks[None, 0.0], trunks[None, 1.0])
    assert not torch.allclose(trunks["shared", 0.0], trunks["shared", 1.0], atol=1e-4)


def test_a_shared_critic_learns_what_responses_are_worth() -> None:
    module = trained(12, critic="shared", value_coef=1.0, value_clip_range=None, kl_coef=0.0)
    assert isinstance(module.network.critic, ValueHead)
    last = module.rollouts[-1]
    worth = last.scores.mean().item()
    assert worth > 0.2
    assert last.values[last.response_mask].mean().item() == pytest.approx(worth, abs=0.25 * worth)


@pytest.mark.parametrize("advantage", ["rloo", "reinforce"])
def test_without_a_critic_there_are_no_values_and_one_group_is_trained(advantage: str) -> None:
    module = trained(1, advantage=advantage)
    assert module.network.critic is None
    assert (module.rollouts[0].values == 0).all()
    groups = module.configure_optimizers().param_groups
    assert [group["name"] for group in groups] == ["policy"]
    assert len(groups[0]["params"]) == len(list(module.network.parameters()))


def test_a_critic_where_none_is_wanted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.critic: expected null, found shared"):
        make(critic="shared", advantage="rloo")


def test_the_reference_of_every_second_iteration_is_the_policy_that_began_it() -> None:
    module = trained(4, reference={"every": 2})
    for number, iterate in enumerate((0, 0, 2, 2)):
        rollout = module.rollouts[number]
        expected = logprobs_under(module.drawn_by[iterate], rollout)
        assert torch.allclose(rollout.reference_logprobs, expected, atol=1e-4)
    assert [kl_of(rollout).item() > 1e-2 for rollout in module.rollouts] == [False, True, False, True]


def test_the_averaged_reference_is_that_of_the_policies_that_drew() -> None:
    """τ = ¾: start, ¾ start + ¼ second, and ¾ of that + ¼ third."""
    module = trained(3, reference={"decay": 0.75})
    first, second, third = module.drawn_by
    averages = (first, 0.75 * first + 0.25 * second, 0.5625 * first + 0.1875 * second + 0.25 * third)
    for rollout, average in zip(module.rollouts, averages, strict=True):
        assert torch.allclose(rollout.reference_logprobs, logprobs_under(average, rollout), atol=1e-4)
    assert kl_of(module.rollouts[2]) > 1e-2


@pytest.mark.parametrize("storage", ["frozen", "adapter_off"])
def test_with_lora_the_reference_is_the_start_and_the_policy_is_not(storage: Any) -> None:
    module = trained(3, lora=LORA, reference_storage=storage)
    last = module.rollouts[-1]
    start = logprobs_under(weights_of(make_llama(TOKENIZER)), last)
    assert torch.allclose(last.reference_logprobs, start, atol=1e-5)
    assert kl_of(last) > 1e-2


def test_both_ways_to_hold_the_start_train_alike() -> None:
    frozen, off = (trained(2, lora=LORA, reference_storage=s) for s in ("frozen", "adapter_off"))
    assert torch.allclose(weights_of(frozen.network), weights_of(off.network), atol=1e-4)


def test_adapters_and_critic_move_and_nothing_else() -> None:
    before = dict(make(lora=LORA).network.named_parameters())
    after = dict(trained(2, lora=LORA).network.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if name.startswith("policy.")} == {n for n in before if "lora_" in n}
    assert {name for name in before if name.startswith("critic.")} <= moved


def test_the_checkpoint_holds_plain_values_the_adapters_and_the_moving_reference(tmp_path: Path) -> None:
    module = make(lora=LORA, critic="shared", reference={"decay": 0.5})
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=7, filename="inside")
    fit(module, max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    stored = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    assert not any("base_layer" in name or "embed" in name for name in stored["state_dict"])
    assert {"network.critic.weight", "network.critic.bias"} <= set(stored["state_dict"])
    assert stored["rollout"]["reference"]["iteration"] == 1
    held = stored["rollout"]["reference"]["weights"]
    assert set(held) == {name for name, _ in PolicyNetwork(make_llama(TOKENIZER)).named_parameters()}
    assert stored["hyper_parameters"]["reference"] == {"decay": 0.5}
    end = ModelCheckpoint(tmp_path / "plain", filename="end")
    fit(make(lora=LORA, reference_storage="adapter_off"), enable_checkpointing=True, callbacks=[end])
    assert torch.load(tmp_path / "plain" / "end.ckpt", weights_only=True)["rollout"]["reference"] is None


def test_the_export_has_the_adapters_merged_and_beside_it(tmp_path: Path) -> None:
    module = trained(2, lora=LORA, critic="shared")
    module.export(tmp_path / "export")
    merged = PolicyNetwork(AutoModelForCausalLM.from_pretrained(tmp_path / "export"))
    last = module.rollouts[-1]
    trees = sampled_trees(last.prompt_ids, last.response_ids)
    assert torch.allclose(merged(trees).logprobs, module.network(trees).logprobs, atol=1e-4)
    assert (tmp_path / "export-adapter" / "adapter_model.safetensors").is_file()


def test_an_entropy_bonus_keeps_the_entropy_up() -> None:
    spread = []
    for coef in (0.0, 0.3):
        module = trained(6, entropy_coef=coef, kl_coef=0.0)
        last = module.rollouts[-1]
        spread.append(last.entropy[last.response_mask].mean().item())
    assert spread[1] > spread[0] + 0.1


EVERYTHING: dict[str, Any] = {"critic": "shared", "reference": {"decay": 0.5}, "lora": LORA, "optimizer": sgd}


def _on_one_rank() -> np.ndarray:
    module = make(**EVERYTHING)
    fit(module, devices=2, strategy="ddp", max_epochs=2)
    return np.concatenate([module.rollouts[1].reference_logprobs.flatten(), weights_of(module.network)])


def test_two_ranks_follow_and_learn_as_one_does() -> None:
    module = trained(2, **EVERYTHING)
    one = torch.cat([module.rollouts[1].reference_logprobs.flatten(), weights_of(module.network)])
    ranks = run_distributed(_on_one_rank, 2)
    assert np.array_equal(ranks[0], ranks[1])
    assert torch.allclose(torch.from_numpy(ranks[0]), one, atol=1e-4)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_a_moving_reference_follows_the_module_to_its_precision(precision: Any, dtype: torch.dtype) -> None:
    module, trainer = make(reference={"decay": 0.9}, critic="shared"), quiet_trainer(precision=precision)
    trainer.strategy.connect(module)
    module.trainer = trainer
    module.on_fit_start()
    assert isinstance(module._reference, MovingReference)
    assert {p.dtype for p in module._reference.network.parameters()} == {dtype}


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_a_moving_reference_has_the_policys_precision_and_resumes_in_it(
    precision: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"reference": {"decay": 0.9}, "critic": "shared"}
    straight = make(**settings)
    fit(straight, max_epochs=3, precision=precision)
    assert isinstance(straight._reference, MovingReference)
    assert {p.dtype for p in straight._reference.network.parameters()} == {dtype}
    assert kl_of(straight.rollouts[0]) == 0 and kl_of(straight.rollouts[2]) > 1e-2
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=7, filename="inside")
    fit(make(**settings), max_epochs=2, precision=precision, enable_checkpointing=True, callbacks=[keep])
    resumed = make(**settings)
    fit(resumed, tmp_path / "inside.ckpt", max_epochs=3, precision=precision)
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))
    assert torch.equal(resumed.rollouts[-1].reference_logprobs, straight.rollouts[-1].reference_logprobs)

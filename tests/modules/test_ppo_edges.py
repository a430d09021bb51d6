"""What PPO does with precisions, second fits, failed rewards and changed ranks."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import PromptDataModule
from lit_rlhf.metrics import explained_variance
from lit_rlhf.models.actor_critic import ActorCriticOutput
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.modules.policy_objective import PolicyObjective
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import RewardError
from lit_rlhf.rollout.experience import training_batch
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules.ppo_runs import ROWS, TOKENIZER, adam, fit, make_module, share_of_small_ids
from tests.modules.training import quiet_trainer, sgd

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
]


def fine_scores(prompts, completions, completion_ids, **columns):
    return [100.3 + 0.01 * len(ids) for ids in completion_ids]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_scores_keep_their_digits_in_every_precision(precision: str):
    module = make_module(reward=fine_scores, max_new_tokens=6)
    fit(module, precision=precision)
    rollout = module.rollouts[0]
    assert rollout.scores.dtype == torch.float32
    assert rollout.scores.tolist() == pytest.approx([100.3 + 0.01 * len(r) for r in rollout.response_ids])


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_reward_model_scores_in_every_precision(precision: str):
    torch.manual_seed(1)
    reward = ModelReward(ScorerNetwork(make_llama(TOKENIZER).base_model), TOKENIZER)
    module = make_module(reward=reward)
    fit(module, precision=precision)
    assert module.rollouts[0].scores.dtype == torch.float32


def test_a_module_can_be_fitted_twice():
    module = make_module()
    fit(module)
    fit(module)
    assert len(module.rollouts) == 2


def test_a_loaded_module_can_be_trained_on(tmp_path: Path):
    keep = ModelCheckpoint(tmp_path, filename="end")
    fit(make_module(), enable_checkpointing=True, callbacks=[keep])
    module = type(make_module()).load_from_checkpoint(
        tmp_path / "end.ckpt", model=make_llama(TOKENIZER), reward=share_of_small_ids, tokenizer=TOKENIZER,
        optimizer=adam,
    )  # fmt: skip
    fit(module)


def test_a_moving_reference_follows_in_a_second_fit_too():
    module = make_module(reference={"every": 1})
    fit(module, max_epochs=2)
    fit(module, max_epochs=2)
    assert [n["objective/kl"] for n in module.numbers] == pytest.approx([0, 0, 0, 0], abs=1e-4)


def test_a_rollout_without_a_score_stops_the_run():
    module = make_module(reward=lambda prompts, **_: [None] * len(prompts), failed_rewards="skip")
    with pytest.raises(RewardError, match="all 16 responses"):
        fit(module)


def _resumed_steps(path: str) -> int:
    return fit(make_module(optimizer=sgd), path, max_epochs=2, devices=2, strategy="ddp").global_step


def test_ranks_cannot_take_the_place_of_accumulation_inside_an_iteration(tmp_path: Path):
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    settings = {"accumulate_grad_batches": 2, "enable_checkpointing": True, "callbacks": [keep]}
    fit(make_module(optimizer=sgd), **settings)
    with pytest.raises(RuntimeError, match="saved inside an iteration"):
        run_distributed(_resumed_steps, 2, str(tmp_path / "step=2.ckpt"))


@pytest.mark.parametrize("key", ["reward", "gold_reward"])
def test_a_run_with_a_list_of_functions_is_resumed(key: str, tmp_path: Path):
    options = {key: [{"reward": share_of_small_ids, "weight": 1.0}]}
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="inside")
    fit(make_module(**options), enable_checkpointing=True, callbacks=[keep])
    fit(make_module(**options), str(tmp_path / "inside.ckpt"), max_epochs=2)


def test_explained_variance_is_of_the_values_that_are_learned():
    module = make_module(level="sequence")
    fit(module, max_epochs=3)
    last = module.rollouts[-1]
    first = explained_variance(last.values[:, 0], last.returns[:, 0], ~last.failed)
    assert module.numbers[-1]["value/explained_variance"] == pytest.approx(first.item(), abs=1e-5)


def test_a_token_that_the_dual_clip_holds_back_is_counted():
    module = make_module()
    fit(module)
    batch = training_batch(module.rollouts[0], [0])
    batch.advantages = -torch.ones_like(batch.advantages)
    now = ActorCriticOutput(batch.old_logprobs + 2.0, None, None)
    numbers = PolicyObjective(dual_clip=3.0).loss(now, batch, 0.0)[2]
    assert numbers["policy/clip_fraction"].item() == 1.0


def test_a_coarse_average_validated_first_goes_on_in_a_fit(tmp_path: Path):
    options, half = {"reference": {"decay": 0.5}}, {"precision": "bf16-true"}

    def data() -> PromptDataModule:
        return PromptDataModule(
            [{"prompt": row.prompt} for row in ROWS], val_path=[{"prompt": "a"}], batch_size=8
        )

    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="inside")
    quiet_trainer(enable_checkpointing=True, callbacks=[keep], **half).fit(
        make_module(**options), datamodule=data()
    )
    module = make_module(**options)
    quiet_trainer(**half).validate(
        module, datamodule=data(), ckpt_path=tmp_path / "inside.ckpt", verbose=False
    )
    quiet_trainer(max_epochs=3, **half).fit(module, datamodule=data())


def test_a_loss_that_is_no_number_names_its_prompts():
    class Broken(type(make_module())):
        def compute_loss(self, batch):
            output = super().compute_loss(batch)
            output.total = output.total * float("nan")
            return output

    module = Broken(make_llama(TOKENIZER), tokenizer=TOKENIZER, reward=share_of_small_ids, optimizer=adam)
    with pytest.raises(FloatingPointError, match=r"on rows (soup|cake|train|lamp|hotel)"):
        quiet_trainer().fit(module, module.rollout_loader(ROWS, batch_size=8))


def test_an_adaptive_price_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"model\.kl_coef"):
        make_module(kl_coef=0.0, kl_target=1.0)


def test_a_critics_rate_needs_a_critic():
    with pytest.raises(ValueError, match=r"model\.critic_learning_rate"):
        make_module(advantage="rloo", critic_learning_rate=1e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"shaping": {"scale": "mean_std", "clip": 0.5}}, {"level": "sequence"}]
)
def test_whitened_rewards_pass_the_checks_of_the_first_rollout(changes: dict) -> None:
    module = make_module(whiten_rewards=True, kl_coef=0.3, **changes)
    fit(module)
    assert module.numbers[0]["objective/scores"] == pytest.approx(module.rollouts[0].scores.mean().item())

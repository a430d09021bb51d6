"""Each option of PPO changes the run as its description says."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tests.modules.ppo_runs import Watched, adam, fit, make_module
from tests.modules.training import sgd, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")


class Weights(Callback):
    """The network's weights after every update, policy and critic apart."""

    def __init__(self) -> None:
        self.policy: list[torch.Tensor] = []
        self.critic: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.policy.append(weights_of(pl_module.network.policy))
        self.critic.append(weights_of(pl_module.network.critic))


def logged(module: Watched, name: str, **settings) -> list[float]:
    """A logged number of each iteration."""
    fit(module, **settings)
    return [numbers[name] for numbers in module.numbers]


def test_the_adaptive_price_follows_zieglers_rule() -> None:
    module = make_module(kl_coef=0.1, kl_target=0.5, kl_horizon=64)
    coefficients = logged(module, "objective/kl_coef", max_epochs=4)
    divergences = [numbers["objective/kl"] for numbers in module.numbers]
    assert coefficients[0] == pytest.approx(0.1)
    for before, kl, after in zip(coefficients, divergences, coefficients[1:]):
        error = max(-0.2, min(0.2, kl / 0.5 - 1))
        assert after == pytest.approx(before * (1 + error * 16 / 64), rel=1e-5)
    assert coefficients[1] == pytest.approx(0.1 * (1 - 0.2 / 4), rel=1e-5)  # the first KL is 0


@pytest.mark.parametrize("step", [3, 4])
def test_the_adaptive_price_is_resumed(step: int, tmp_path: Path) -> None:
    options = {"kl_coef": 0.1, "kl_target": 0.5, "kl_horizon": 64}
    straight = make_module(**options)
    fit(straight, max_epochs=3)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(make_module(**options), max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    resumed = make_module(**options)
    fit(resumed, str(tmp_path / f"step={step}.ckpt"), max_epochs=3)
    assert resumed.kl_coef == straight.kl_coef != 0.1
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_a_fixed_price_is_the_configs_on_resume(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="end")
    fit(make_module(kl_coef=0.1), callbacks=[keep], enable_checkpointing=True)
    resumed = make_module(kl_coef=0.7)
    fit(resumed, str(tmp_path / "end.ckpt"), max_epochs=2)
    assert resumed.kl_coef == 0.7


def test_a_minibatch_past_the_target_kl_and_the_rest_update_nothing() -> None:
    """At the first minibatch the policy is still that of the rollout; at the second it has moved."""
    weights = Weights()
    module = make_module(target_kl=1e-9)
    trainer = fit(module, callbacks=[weights])
    assert len(weights.policy) == 4
    assert not torch.equal(weights.policy[0], weights_of(make_module().network.policy))
    assert all(torch.equal(later, weights.policy[0]) for later in weights.policy[1:])
    assert all(torch.equal(later, weights.critic[0]) for later in weights.critic[1:])
    assert trainer.logged_metrics["policy/skipped_minibatches"] == 3
    free = make_module(target_kl=1e9)
    assert logged(free, "policy/skipped_minibatches") == [0.0]
    plain = make_module()
    fit(plain)
    assert torch.equal(weights_of(free.network), weights_of(plain.network))


def test_the_next_iteration_updates_again_after_a_stopped_one() -> None:
    weights = Weights()
    fit(make_module(target_kl=1e-9), callbacks=[weights], max_epochs=2)
    assert not torch.equal(weights.policy[4], weights.policy[3])
    assert torch.equal(weights.policy[5], weights.policy[4])


def test_the_target_kl_is_that_of_the_whole_minibatch() -> None:
    """Split into micro-batches the same minibatches are skipped."""
    whole, split = (make_module(target_kl=2e-4, epochs=4, optimizer=sgd) for _ in range(2))
    skipped = logged(whole, "policy/skipped_minibatches")
    assert 0 < skipped[0] < 8
    assert logged(split, "policy/skipped_minibatches", accumulate_grad_batches=4) == skipped


@pytest.mark.parametrize("step", [2, 3])
def test_a_stopped_iteration_is_resumed_as_stopped(step: int, tmp_path: Path) -> None:
    straight = make_module(target_kl=1e-9)
    fit(straight, max_epochs=2)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(make_module(target_kl=1e-9), callbacks=[keep], enable_checkpointing=True)
    resumed = make_module(target_kl=1e-9)
    fit(resumed, str(tmp_path / f"step={step}.ckpt"), max_epochs=2)
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


@pytest.mark.parametrize("critic", [None, "shared"])
def test_in_the_warm_up_the_critic_learns_alone(critic: str | None) -> None:
    start, weights = make_module(critic=critic), Weights()
    fit(make_module(critic=critic, critic_warmup=1), callbacks=[weights], max_epochs=2)
    assert torch.equal(weights.policy[3], weights_of(start.network.policy))
    assert not torch.equal(weights.critic[3], weights_of(start.network.critic))
    assert not torch.equal(weights.policy[4], weights.policy[3])


def test_an_entropy_bonus_keeps_the_policy_spread() -> None:
    narrow, wide = (make_module(entropy_coef=coef, kl_coef=0.0, epochs=4) for coef in (0.0, 0.5))
    entropies = [logged(module, "objective/entropy", max_epochs=6) for module in (narrow, wide)]
    assert entropies[1][0] == entropies[0][0]
    assert entropies[1][-1] > entropies[0][-1] + 0.02


@pytest.mark.parametrize("advantage", ["reinforce", "rloo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("level", ["token", "sequence", "gspo"])
def test_without_a_critic_the_reward_rises_too(advantage: str, level: str) -> None:
    module = make_module(
        advantage=advantage, level=level, kl_coef=0.0, epochs=2, samples_per_prompt=4, minibatch_size=16
    )
    scores = logged(module, "objective/scores", max_epochs=12)
    assert module.network.critic is None
    assert sum(scores[-3:]) > sum(scores[:3]) + 0.25


def test_groups_need_more_than_one_sample() -> None:
    with pytest.raises(ValueError, match=r"model\.samples_per_prompt: rloo compares"):
        make_module(advantage="rloo", samples_per_prompt=1)


def test_a_warm_up_needs_a_critic() -> None:
    with pytest.raises(ValueError, match=r"model\.critic_warmup: rloo has no critic"):
        make_module(advantage="rloo", critic_warmup=1)


@pytest.mark.parametrize(
    "wrong", [{"kl_target": 0.0}, {"target_kl": -1.0}, {"kl_horizon": 0}, {"critic_warmup": -1},
     {"reward_timeout": 0.0}]
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_their_key(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))}: expected"):
        make_module(**wrong)


def test_the_rollouts_hook_runs_once_a_rollout_also_on_resume(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="inside", save_top_k=-1)
    first = make_module()
    fit(first, callbacks=[keep], enable_checkpointing=True)
    resumed = make_module()
    values = logged(resumed, "objective/scores", ckpt_path=str(tmp_path / "inside.ckpt"), max_epochs=1)
    assert not hasattr(resumed, "rollouts")
    assert values == [first._rollout_metrics["objective/scores"]]


def test_progress_is_told_while_the_rollout_is_drawn() -> None:
    told = []

    class Listener(Callback):
        def on_rollout_progress(self, trainer, pl_module, done: int, total: int) -> None:
            told.append((done, total))

    fit(make_module(optimizer=adam), callbacks=[Listener()])
    assert told[-1] == (16, 16)
    assert all(total == 16 for _, total in told) and [done for done, _ in told] == sorted(d for d, _ in told)


def test_one_seed_twice_is_one_run() -> None:
    first, again, other = (make_module(seed=seed) for seed in (3, 3, 4))
    for module in (first, again, other):
        fit(module, max_epochs=2)
    assert torch.equal(weights_of(first.network), weights_of(again.network))
    assert not torch.equal(weights_of(first.network), weights_of(other.network))


def test_the_schedule_goes_on_once_an_update() -> None:
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    module = make_module(scheduler=halving)
    trainer = fit(module, max_epochs=2, accumulate_grad_batches=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(3e-3 * 0.5**8)


def test_gradients_are_clipped_as_those_of_the_whole_minibatch() -> None:
    start = weights_of(make_module().network)

    def moved(**settings) -> float:
        module = make_module(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), epochs=1, minibatch_size=16)
        fit(module, gradient_clip_val=1e-3, **settings)
        return (weights_of(module.network) - start).norm().item()

    assert moved() == pytest.approx(1e-3, rel=1e-3)
    assert moved(accumulate_grad_batches=4) == pytest.approx(1e-3, rel=1e-3)

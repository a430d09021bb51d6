"""PPO and its rewards: failing, shaped, gold, and text beside them, in real fits."""

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import PromptDataModule
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Experience
from lit_rlhf.rewards.protocol import RewardError
from lit_rlhf.rollout.credit import assign_credit
from lit_rlhf.rollout.experience import select, training_batch
from tests.distributed import run_distributed
from tests.modules.one_update import one_update
from tests.modules.ppo_runs import ROWS, fit, make_module, share_of_small_ids
from tests.modules.training import quiet_trainer, weights_of


def is_odd(ids: list[int]) -> bool:
    return sum(ids) % 2 == 1


def failing_on_odd(prompts, completions, completion_ids, **columns):
    scores = share_of_small_ids(prompts, completions, completion_ids)
    return [math.nan if is_odd(ids) else score for ids, score in zip(completion_ids, scores, strict=True)]


def raising_on_odd(prompts, completions, completion_ids, **columns):
    if any(map(is_odd, completion_ids)):
        raise KeyError("odd")
    return share_of_small_ids(prompts, completions, completion_ids)


# --- rewards that fail


@pytest.mark.parametrize("reward", [failing_on_odd, raising_on_odd])
def test_a_failing_reward_stops_with_the_prompts_id(reward):
    with pytest.raises(RewardError, match=r"for prompt (soup|cake|train|lamp|hotel) .*failed_rewards: skip"):
        fit(make_module(reward=reward))


def _failing_on_the_second_rank() -> str:
    def reward(prompts, completions, completion_ids, **columns):
        if torch.distributed.get_rank() == 1:
            raise OSError("no answer")
        return [0.0] * len(prompts)

    try:
        fit(make_module(reward=reward), devices=2, strategy="ddp")
    except RewardError as error:
        return str(error)
    return "it went on"


def test_both_ranks_end_where_the_reward_of_one_fails():
    said = run_distributed(_failing_on_the_second_rank, 2)
    assert said[0] == said[1]
    assert "OSError: no answer for prompt" in said[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward": raising_on_odd},
        {"advantage": "reinforce", "whiten_rewards": True},
        {"advantage": "reinforce", "level": "sequence"},
        {"advantage": "rloo", "samples_per_prompt": 4, "minibatch_size": 32},
        {"advantage": "grpo", "samples_per_prompt": 4, "minibatch_size": 32, "loss_mean": "responses"},
        {"kl_in": "loss", "kl_estimator": "k2", "kl_coef": 0.5, "entropy_coef": 0.1},
    ],
)
def test_a_skipped_response_is_as_if_it_had_not_been_drawn(options):
    """The update is that of a rollout without them: counted in no mean, and in no other response's advantage."""
    settings = {"reward": failing_on_odd, "failed_rewards": "skip", **options}
    module, gradient = one_update(**settings)
    drawn = module.rollouts[0]
    odd = [is_odd(ids) for ids in drawn.response_ids]
    assert drawn.failed.tolist() == odd and 0 < sum(odd) < len(odd)
    assert module.numbers[0]["rollout/failed_rewards"] == sum(odd)
    kept = select(drawn, [n for n in range(len(odd)) if not odd[n]])
    assert module.numbers[0]["objective/scores"] == pytest.approx(
        np.mean(share_of_small_ids([], [], kept.response_ids)), abs=1e-6
    )

    absent = make_module(**settings)
    kept = assign_credit(kept, absent.credit, absent.kl_coef)
    output = absent.compute_loss(training_batch(kept, range(len(kept))))
    (output.total / output.count).backward()
    expected = torch.cat([p.grad.flatten() for p in absent.network.parameters()])
    assert expected.abs().max() > 1e-3
    assert torch.allclose(gradient, expected, atol=1e-4 * expected.abs().max().item() + 1e-6)


def test_scores_of_skipped_responses_are_in_no_moments():
    settings = {"reward": failing_on_odd, "failed_rewards": "skip", "shaping": {"scale": "std"}}
    module = make_module(**settings)
    fit(module)
    kept = [ids for ids in module.rollouts[0].response_ids if not is_odd(ids)]
    scores = share_of_small_ids([], [], kept)
    assert module._score_moments.count == len(kept)
    assert module._score_moments.mean == pytest.approx(np.mean(scores), abs=1e-6)
    assert module._score_moments.std == pytest.approx(np.std(scores, ddof=1), abs=1e-6)


async def async_share(prompts, completions, completion_ids, **columns):
    await asyncio.sleep(0)
    return share_of_small_ids(prompts, completions, completion_ids)


def test_an_async_reward_trains_as_a_plain_one():
    plain, waiting = make_module(), make_module(reward=async_share, reward_timeout=60.0)
    fit(plain)
    fit(waiting)
    assert torch.equal(weights_of(plain.network), weights_of(waiting.network))


@pytest.mark.parametrize("key", ["reward", "gold_reward"])
def test_a_hanging_reward_ends_the_run(key):
    released = threading.Event()

    def hanging(prompts, **columns):
        released.wait(60)
        return [0.0] * len(prompts)

    try:
        with pytest.raises(RewardError, match=r"took more than 0\.05 seconds \(model\.reward_timeout\)"):
            fit(make_module(**{key: hanging}, reward_timeout=0.05))
    finally:
        released.set()


# --- shaping


def clip(score: float) -> float:
    return min(0.4, max(-0.4, score))


def rollout_of(module) -> Experience:
    fit(module)
    return module.rollouts[-1]


def length_cost(rollout: Experience, buffer: int) -> list[float]:
    """DAPO's, of at most 1, for six tokens at the most."""
    return [max(0, len(ids) - (6 - buffer)) / buffer for ids in rollout.response_ids]


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        ({"missing_eos_score": -7.0}, lambda score, cut, cost: -7.0 if cut else score),
        ({"missing_eos_penalty": 2.0}, lambda score, cut, cost: score - 2.0 * cut),
        ({"overlong_buffer": 5}, lambda score, cut, cost: score - cost),
        ({"overlong_buffer": 5, "overlong_penalty": 3.0, "clip": 0.4}, lambda score, _, cost: clip(score - 3 * cost)),
    ],
)  # fmt: skip
def test_shaping_changes_what_is_trained_on_and_not_what_is_logged(shaping, expected):
    plain = rollout_of(make_module(kl_coef=0.3))
    shaped = rollout_of(make_module(kl_coef=0.3, shaping=shaping))
    assert shaped.response_ids == plain.response_ids and torch.equal(shaped.scores, plain.scores)
    assert 0 < plain.truncated.sum() < len(plain)
    costs = length_cost(plain, 5)
    wanted = [
        expected(score, cut, cost)
        for score, cut, cost in zip(plain.scores.tolist(), plain.truncated.tolist(), costs, strict=True)
    ]
    assert shaped.shaped_scores.tolist() == pytest.approx(wanted, abs=1e-6)
    assert wanted != pytest.approx(plain.scores.tolist())
    last = plain.response_mask.sum(1) - 1
    moved = (shaped.rewards - plain.rewards).gather(1, last[:, None]).squeeze(1)
    assert torch.allclose(moved, shaped.shaped_scores - plain.scores, atol=1e-5)


def test_scores_are_scaled_by_all_rollouts_until_now():
    module = make_module(shaping={"scale": "mean_std", "clip": 1.0})
    fit(module, max_epochs=3)
    seen: list[float] = []
    for number, rollout in enumerate(module.rollouts):
        seen += rollout.scores.tolist()
        by_hand = np.clip((rollout.scores.numpy() - np.mean(seen)) / np.std(seen, ddof=1), -1, 1)
        assert rollout.shaped_scores.numpy() == pytest.approx(by_hand, abs=1e-4)
        assert module.numbers[number]["objective/scores"] == pytest.approx(
            rollout.scores.mean().item(), abs=1e-6
        )
        assert module.numbers[number]["objective/shaped_scores"] == pytest.approx(by_hand.mean(), abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("step", [3, 4])
def test_the_moments_are_resumed_inside_and_at_the_end_of_an_iteration(step: int, tmp_path: Path):
    shaping = {"shaping": {"scale": "mean_std"}}
    straight = make_module(**shaping)
    fit(straight, max_epochs=3)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(make_module(**shaping), max_epochs=1, enable_checkpointing=True, callbacks=[keep])
    path = str(tmp_path / f"step={step}.ckpt")
    stored = torch.load(path, weights_only=True)["ppo"]["score_moments"]
    assert stored[0] == 16.0 and stored[1] == pytest.approx(straight.rollouts[0].scores.mean().item())
    resumed = make_module(**shaping)
    fit(resumed, path, max_epochs=3)
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))
    assert resumed._score_moments == straight._score_moments


# --- the gold reward


def lengths_of(prompts, completions, completion_ids, **columns):
    return [float(len(ids)) for ids in completion_ids]


def test_the_gold_reward_is_logged_and_trains_nothing():
    plain, judged = make_module(), make_module(gold_reward=lengths_of)
    fit(plain, max_epochs=2)
    fit(judged, max_epochs=2)
    assert torch.equal(weights_of(plain.network), weights_of(judged.network))
    assert [numbers["objective/gold"] for numbers in judged.numbers] == pytest.approx(
        [np.mean([len(ids) for ids in rollout.response_ids]) for rollout in judged.rollouts]
    )
    assert "objective/gold" not in plain.numbers[0]


def test_a_gold_reward_that_fails_is_left_out_of_its_mean_alone():
    module = make_module(gold_reward=failing_on_odd, failed_rewards="skip")
    fit(module)
    (rollout,) = module.rollouts
    even = [ids for ids in rollout.response_ids if not is_odd(ids)]
    assert module.numbers[0]["objective/gold"] == pytest.approx(
        np.mean(share_of_small_ids([], [], even)), abs=1e-6
    )
    assert not rollout.failed.any() and module.numbers[0]["rollout/failed_rewards"] == 0
    plain = make_module()
    fit(plain)
    assert torch.equal(weights_of(module.network), weights_of(plain.network))


def test_validation_scores_and_gold_leave_failures_out():
    rows = [{"prompt": row.prompt, "id": row.id} for row in ROWS]
    module = make_module(reward=failing_on_odd, gold_reward=lengths_of, failed_rewards="skip")
    trainer = quiet_trainer()
    keys = counter_key(module.seed, -1, torch.arange(5))
    seen = []

    def watch(completions):
        seen.extend(completions.response_ids)
        return type(module).score(module, completions)

    module.score = watch
    trainer.validate(module, datamodule=PromptDataModule(val_path=rows, batch_size=2), verbose=False)
    assert len(seen) == len(keys) == 5
    kept = [ids for ids in seen if not is_odd(ids)]
    assert 0 < len(kept) < 5
    logged: dict[str, Any] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["val/objective/scores"] == pytest.approx(
        np.mean(share_of_small_ids([], [], kept)), abs=1e-6
    )
    assert logged["val/objective/gold"] == pytest.approx(np.mean([len(ids) for ids in seen]))

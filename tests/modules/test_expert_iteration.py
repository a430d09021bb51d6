"""Learning from the reward alone: who draws, what is chosen, what it counts; ranks, resume, logging."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_rlhf import ExpertIterationModule, PromptDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.metrics import LOGGED_NAMES
from lit_rlhf.records import Experience, ExperienceBatch, LossOutput
from lit_rlhf.rollout.experience import sampled_trees
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules.ppo_runs import ROWS, TOKENIZER, Prompts, adam, share_of_small_ids
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

METHODS: dict[str, dict[str, Any]] = {
    "best_of_n": {"method": "best_of_n"},
    "raft": {"method": "raft", "keep": 2},
    "reward_weighted": {"method": "reward_weighted", "beta": 0.2},
}
LORA = {"r": 4, "target_modules": "all-linear"}


class Watched(ExpertIterationModule):
    """Keeps what passes, for the tests."""

    def prepare(self, experience: Experience) -> Experience:
        learnt = super().prepare(experience)
        self.drawn = [*getattr(self, "drawn", []), experience]
        self.learnt = [*getattr(self, "learnt", []), learnt]
        self.policies = [*getattr(self, "policies", []), weights_of(self.network)]
        return learnt

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.numbers = [*getattr(self, "numbers", []), dict(self._rollout_metrics)]

    def compute_loss(self, batch: ExperienceBatch) -> LossOutput:
        output = super().compute_loss(batch)
        self.losses = [*getattr(self, "losses", []), (output.total.item(), output.count.item())]
        return output


def make(**changes: Any) -> Watched:
    """Eight prompts an iteration with four responses each."""
    settings = {
        "epochs": 2,
        "minibatch_size": 4,
        "max_new_tokens": 6,
        "samples_per_prompt": 4,
        "optimizer": adam,
    }
    torch.manual_seed(0)
    return Watched(
        make_llama(TOKENIZER), **{"reward": share_of_small_ids, "tokenizer": TOKENIZER, **settings, **changes}
    )  # fmt: skip


def fit(module: Watched, ckpt_path: str | None = None, **settings: Any) -> L.Trainer:
    trainer = quiet_trainer(**settings)
    trainer.fit(module, datamodule=Prompts(), ckpt_path=ckpt_path)
    return trainer


def logprobs_of(module: Watched, experience: Experience) -> Tensor:
    """Of its tokens under the policy as it stands, grid."""
    trees = sampled_trees(experience.prompt_ids, experience.response_ids)
    return module.network(trees).logprobs.detach()


# --- who draws


def test_raft_raises_the_score_of_what_the_policy_draws() -> None:
    module = make(method="raft", samples_per_prompt=8, keep=2)
    fit(module, max_epochs=9)
    scores = [drawn.scores.mean().item() for drawn in module.drawn]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2


@pytest.mark.parametrize("method", ["best_of_n", "reward_weighted"])
def test_the_reference_draws_and_the_policy_learns(method: str) -> None:
    module = make(**METHODS[method])
    fit(module, max_epochs=4)
    start, last = make(), module.drawn[-1]
    assert not torch.equal(module.policies[-1], module.policies[0])
    drawn_by_start = logprobs_of(start, last)
    assert torch.allclose(last.sampled_logprobs, drawn_by_start, atol=1e-4)
    assert torch.allclose(last.reference_logprobs, drawn_by_start, atol=1e-4)
    assert (logprobs_of(module, last) - drawn_by_start).abs().max() > 0.1
    best = module.learnt[-1]
    assert logprobs_of(module, best).sum() > logprobs_of(start, best).sum()


def test_raft_draws_from_the_policy() -> None:
    module = make(**METHODS["raft"])
    fit(module, max_epochs=3)
    last = module.drawn[-1]
    torch.nn.utils.vector_to_parameters(module.policies[-1], module.network.parameters())
    assert torch.allclose(last.sampled_logprobs, logprobs_of(module, last), atol=1e-4)
    assert torch.allclose(last.reference_logprobs, logprobs_of(make(), last), atol=1e-4)
    assert (last.sampled_logprobs - last.reference_logprobs).abs().max() > 0.1


def test_responses_are_new_in_each_iteration() -> None:
    module = make(**METHODS["best_of_n"])
    fit(module, max_epochs=2)
    first, second = ({tuple(ids) for ids in drawn.response_ids} for drawn in module.drawn)
    assert len(first & second) < len(first) / 2


def test_a_reference_from_another_folder_draws(tmp_path: Path) -> None:
    other = make_llama(TOKENIZER, seed=3)
    other.save_pretrained(tmp_path / "other")
    module = make(**METHODS["best_of_n"], reference=str(tmp_path / "other"))
    fit(module)
    torch.nn.utils.vector_to_parameters(weights_of(other), module.network.parameters())
    assert torch.allclose(module.drawn[0].sampled_logprobs, logprobs_of(module, module.drawn[0]), atol=1e-4)


def test_with_the_adapters_off_the_start_draws() -> None:
    """As from a frozen copy, to the token; the adapters are on again where rewards are asked and steps are taken."""
    switched: list[bool] = []

    def reward(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        assert modules[-1].adapter is not None
        switched.extend(layer._disable_adapters for layer in modules[-1].adapter.layers)
        return share_of_small_ids(prompts, completions, completion_ids)

    modules: list[Watched] = []
    for storage in ("frozen", "adapter_off"):
        modules.append(
            make(**METHODS["best_of_n"], lora=LORA, reference_storage=storage, reward=reward, optimizer=sgd)
        )
        fit(modules[-1], max_epochs=3)
    frozen, off = modules
    assert [drawn.response_ids for drawn in off.drawn] == [drawn.response_ids for drawn in frozen.drawn]
    assert torch.allclose(weights_of(off.network), weights_of(frozen.network), atol=1e-5)
    assert not torch.equal(weights_of(off.network), off.policies[0])
    assert switched and not any(switched)


def test_a_reference_that_moves_draws_as_the_policy_did() -> None:
    module = make(**METHODS["best_of_n"], reference={"every": 2})
    fit(module, max_epochs=4)
    for iteration, origin in ((1, 0), (2, 2), (3, 2)):
        torch.nn.utils.vector_to_parameters(module.policies[origin], module.network.parameters())
        drawn = module.drawn[iteration]
        assert torch.allclose(drawn.sampled_logprobs, logprobs_of(module, drawn), atol=1e-4)
    torch.nn.utils.vector_to_parameters(module.policies[0], module.network.parameters())
    assert not torch.allclose(drawn.sampled_logprobs, logprobs_of(module, drawn), atol=1e-2)


def test_a_moving_reference_draws_with_the_weights_of_its_checkpoint() -> None:
    """A run that was stopped in a rollout draws before the reference moves again."""
    moving = {"method": "best_of_n", "reference": {"every": 2}}
    module, resumed = make(**moving), make(**moving)
    with torch.no_grad():
        for weight in module.network.parameters():
            weight.mul_(1.5)
    module._reference.advance(module.network.policy, 0)
    resumed._reference.load_state_dict(module._reference.state_dict())
    with resumed._reference.drawing(resumed.network) as network:
        assert torch.equal(weights_of(network), weights_of(module.network))


# --- what is chosen, and what it counts


@pytest.mark.parametrize(("method", "keep"), [("best_of_n", 1), ("raft", 2)])
def test_the_best_of_each_prompt_are_learnt_and_no_others(method: str, keep: int) -> None:
    module = make(method=method, keep=keep)
    trainer = fit(module)
    drawn, learnt = module.drawn[0], module.learnt[0]
    assert len(drawn) == 32 and len(learnt) == 8 * keep
    assert trainer.global_step == 2 * 8 * keep // 4
    for prompt in range(8):
        scores = drawn.scores[4 * prompt : 4 * prompt + 4].tolist()
        best = sorted(range(4), key=lambda place: (-scores[place], place))[:keep]
        ours = slice(prompt * keep, prompt * keep + keep)
        expected = [drawn.response_ids[4 * prompt + place] for place in sorted(best)]
        assert learnt.response_ids[ours] == expected
        assert learnt.prompt_index[ours].tolist() == [prompt] * keep
    assert (learnt.weights == 1).all()


def test_weights_are_those_of_the_scores() -> None:
    module = make(**METHODS["reward_weighted"])
    fit(module)
    learnt = module.learnt[0]
    assert learnt.response_ids == module.drawn[0].response_ids
    for prompt in range(8):
        ours = slice(4 * prompt, 4 * prompt + 4)
        strengths = [math.exp(score / 0.2) for score in learnt.scores[ours].tolist()]
        expected = [4 * strength / sum(strengths) for strength in strengths]
        assert learnt.weights[ours].tolist() == pytest.approx(expected, rel=1e-4)
    assert learnt.weights.max() > 1.5


def test_the_loss_is_a_mean_over_responses_of_their_weighted_sums() -> None:
    module = make(**METHODS["reward_weighted"], minibatch_size=32, epochs=1, temperature=0.7)
    fit(module)
    learnt, start = module.learnt[0], make()
    total = 0.0
    for number in range(32):
        trees = sampled_trees([learnt.prompt_ids[number]], [learnt.response_ids[number]])
        total -= learnt.weights[number].item() * start.network(trees, 0.7).logprobs.sum().item()
    assert module.losses == [(pytest.approx(total, rel=1e-4), 32)]


def failing_on_odd(
    prompts: Any, completions: Any, completion_ids: list[list[int]], **columns: Any
) -> list[float]:
    scores = share_of_small_ids(prompts, completions, completion_ids)
    return [math.nan if sum(ids) % 2 else score for ids, score in zip(completion_ids, scores, strict=True)]


@pytest.mark.parametrize("method", METHODS)
def test_what_failed_is_not_learnt(method: str) -> None:
    """Of four responses some two fail, and of a few prompts so many that fewer are left than are kept."""
    settings = {"keep": 3} if method != "reward_weighted" else {}
    whole = {"minibatch_size": 96, "epochs": 1, "optimizer": sgd}
    module = make(**{**METHODS[method], **settings}, **whole, reward=failing_on_odd, failed_rewards="skip")
    fit(module)
    drawn, learnt = module.drawn[0], module.learnt[0]
    assert 4 < drawn.failed.sum() < 28
    counted = min_kept = 0
    for prompt in range(8):
        scored = int((~drawn.failed[drawn.prompt_index == prompt]).sum())
        counted += scored if method == "reward_weighted" else min(scored, 3)
        min_kept += scored < 3
        assert int((learnt.prompt_index == prompt).sum()) == module.learned_per_prompt
    assert min_kept > 0
    ((total, count),) = module.losses
    assert count == counted == (~learnt.failed).sum()
    kept = ~learnt.failed
    expected = -(logprobs_of(make(), learnt).sum(1) * learnt.weights)[kept].sum().item()
    assert total == pytest.approx(expected, rel=1e-4)
    if method == "reward_weighted":
        assert (learnt.weights[~kept] == 0).all()
        assert learnt.weights[kept].mean().item() == pytest.approx(1)
    assert module.numbers[0]["rollout/failed_rewards"] == drawn.failed.sum()
    mean = (learnt.weights[kept] @ learnt.scores[kept] / learnt.weights[kept].sum()).item()
    assert module.numbers[0]["selection/scores"] == pytest.approx(mean)


# --- what is logged


@pytest.mark.parametrize("method", METHODS)
def test_what_was_drawn_is_logged_and_what_was_chosen_of_it(method: str) -> None:
    def flat_for_the_soup(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        scores = share_of_small_ids(prompts, completions, completion_ids)
        return [0.5 if "soup" in prompt else score for prompt, score in zip(prompts, scores, strict=True)]

    module = make(**METHODS[method], reward=flat_for_the_soup, gold_reward=share_of_small_ids)
    fit(module, max_epochs=2)
    drawn, learnt, numbers = module.drawn[1], module.learnt[1], module.numbers[1]
    whose = "objective" if method == "raft" else "reference"
    assert numbers[f"{whose}/scores"] == pytest.approx(drawn.scores.mean().item())
    assert numbers[f"{whose}/gold"] == pytest.approx(drawn.gold_scores.mean().item())
    assert all(
        name.startswith("objective/") == (method == "raft") for name in numbers if name.endswith("/entropy")
    )
    chosen = ((learnt.weights * learnt.scores).sum() / learnt.weights.sum()).item()
    assert numbers["selection/scores"] == pytest.approx(chosen)
    assert numbers["selection/scores"] > numbers[f"{whose}/scores"] + 0.01
    flat = sum(drawn.scores[4 * prompt : 4 * prompt + 4].unique().numel() == 1 for prompt in range(8))
    assert 1 <= flat < 8
    assert numbers["selection/prompts_with_spread"] == pytest.approx(1 - flat / 8)
    assert numbers["episodes"] == 64
    assert ("objective/kl" in numbers) == (method == "raft") == any("objective/" in name for name in numbers)
    if method == "raft":
        kl = (drawn.old_logprobs - drawn.reference_logprobs).sum(1).mean().item()
        assert numbers["objective/kl"] == pytest.approx(kl)
    assert ("selection/effective_responses" in numbers) == (method == "reward_weighted")
    if method == "reward_weighted":
        groups = learnt.weights.view(8, 4)
        worth = (groups.sum(1).square() / groups.square().sum(1)).mean().item()
        assert numbers["selection/effective_responses"] == pytest.approx(worth)
    assert set(numbers) <= set(LOGGED_NAMES)
    (table,) = {tuple(row) for row in module.sample_table() or []}
    assert set(table) == {"prompt", "response", "score", "finished", "weight"} | (
        {"kl"} if method == "raft" else set()
    )


def test_validation_draws_from_the_policy_and_says_its_kl() -> None:
    rows = [{"prompt": row.prompt} for row in ROWS]
    module = make(**METHODS["best_of_n"], epochs=6)
    trainer = quiet_trainer(max_epochs=4)
    trainer.fit(module, datamodule=PromptDataModule(rows, val_path=rows, batch_size=5))
    assert trainer.callback_metrics["val/objective/kl"].item() > 0.05
    assert "objective/kl" not in trainer.callback_metrics


# --- sizes, ranks, resume, export


@pytest.mark.parametrize("method", METHODS)
def test_minibatches_may_be_accumulated(method: str) -> None:
    whole, split = (make(**METHODS[method], minibatch_size=8, optimizer=sgd) for _ in range(2))
    fit(whole, max_epochs=2)
    trainer = fit(split, max_epochs=2, accumulate_grad_batches=4)
    assert trainer.global_step == 2 * 2 * whole.learned_per_prompt
    scale = (weights_of(whole.network) - whole.policies[0]).abs().max()
    assert (weights_of(split.network) - weights_of(whole.network)).abs().max() < 1e-3 * scale


def _on_one_rank(method: str) -> tuple[list[list[int]], np.ndarray, dict[str, float]]:
    module = make(**METHODS[method], optimizer=sgd)
    fit(module, devices=2, strategy="ddp", max_epochs=2)
    return module.learnt[1].response_ids, weights_of(module.network).numpy(), module.numbers[1]


@pytest.mark.parametrize("method", ["best_of_n", pytest.param("reward_weighted", marks=pytest.mark.slow)])
def test_two_ranks_draw_and_learn_what_one_does(method: str) -> None:
    single = make(**METHODS[method], optimizer=sgd)
    fit(single, max_epochs=2)
    scale = (weights_of(single.network) - single.policies[0]).abs().max()
    for responses, weights, numbers in run_distributed(_on_one_rank, 2, method):
        assert responses == single.learnt[1].response_ids
        assert (torch.from_numpy(weights) - weights_of(single.network)).abs().max() < 1e-3 * scale
        for name, value in numbers.items():
            assert name.startswith("time/") or value == pytest.approx(single.numbers[1][name], abs=1e-4), name


RESUMED = {**METHODS, "moving": {"method": "best_of_n", "reference": {"decay": 0.5}}}


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_resume_is_exact_inside_and_at_the_end_of_an_iteration(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Four updates an iteration: step 7 lies inside the second, step 8 ends it."""
    settings = {**settings, "minibatch_size": 32 if settings["method"] == "reward_weighted" else 8}
    settings["minibatch_size"] //= 2 if settings.get("keep", 1) == 1 else 1
    straight = make(**settings)
    assert fit(straight, max_epochs=3).global_step == 12
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    fit(make(**settings), max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    for step in (7, 8):
        resumed = make(**settings)
        fit(resumed, str(tmp_path / f"step={step}.ckpt"), max_epochs=3)
        assert torch.equal(weights_of(resumed.network), weights_of(straight.network))
        assert resumed.sample_table() == straight.sample_table()
        for name, value in resumed.numbers[-1].items():
            assert name.startswith("time/") or value == straight.numbers[-1][name], name


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_an_iteration_is_not_continued_with_another_number_of_kept_responses(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="inside")
    fit(make(**METHODS["best_of_n"]), enable_checkpointing=True, callbacks=[keep])
    with pytest.raises(ValueError, match=r"saved inside an iteration, and .*\(1 then, 2 now\)"):
        fit(make(method="best_of_n", keep=2), str(tmp_path / "inside.ckpt"), max_epochs=2)


def test_the_module_comes_back_from_its_checkpoint(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = {**METHODS["reward_weighted"], "reward": "tests.modules.ppo_runs.share_of_small_ids"}
    module = Watched(
        str(tiny_model_dir), **settings, minibatch_size=8, max_new_tokens=4, samples_per_prompt=2
    )
    keep = ModelCheckpoint(tmp_path, filename="end")
    fit(module, enable_checkpointing=True, callbacks=[keep])
    loaded = ExpertIterationModule.load_from_checkpoint(tmp_path / "end.ckpt")
    assert (loaded.method, loaded.beta, loaded.samples_per_prompt) == ("reward_weighted", 0.2, 2)
    assert torch.equal(weights_of(loaded.network), weights_of(module.network))
    module.export(tmp_path / "export")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert torch.equal(weights_of(exported), weights_of(module.network.policy.causal_lm))


def test_it_predicts_a_response_to_each_prompt() -> None:
    module = make(**METHODS["best_of_n"])
    data = PromptDataModule(predict_path=[{"prompt": row.prompt} for row in ROWS], batch_size=5)
    (rows,) = quiet_trainer().predict(module, datamodule=data)
    assert [row["prompt"] for row in rows] == [row.prompt for row in ROWS]


def test_other_data_than_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found a batch of ResponseTrees.*PromptDataModule"):
        make().compute_loss(pack_trees(random_trees(2)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"method": "best"},
            r"model\.method: expected one of best_of_n, raft, reward_weighted, found 'best'",
        ),
        ({"samples_per_prompt": 1}, r"model\.samples_per_prompt: expected 2 or more"),
        ({"keep": 0}, r"model\.keep: expected a whole number, 1 or more"),
        ({"keep": 4}, r"model\.keep: expected fewer than model\.samples_per_prompt \(4\).*found 4"),
        ({"beta": 0.1}, r"model\.beta: best_of_n learns the best"),
        ({"method": "raft", "beta": 0.1}, r"model\.beta: raft learns the best"),
        ({"method": "reward_weighted"}, r"model\.beta: reward_weighted needs it"),
        ({"method": "reward_weighted", "beta": 0.0}, r"model\.beta: expected more than 0"),
        ({"method": "reward_weighted", "beta": 0.1, "keep": 2}, r"model\.keep: reward_weighted learns all"),
        ({"temperature": 0.0}, r"model\.temperature"),
        ({"epochs": 0}, r"model\.epochs"),
        ({"reference_storage": "adapter_off"}, r"adapter_off needs model\.lora"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_their_key(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**wrong)

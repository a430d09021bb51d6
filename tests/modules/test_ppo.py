"""PPO: it learns, starts at ratio 1, is the same on more ranks, and resumes to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoTokenizer

from lit_rlhf import PromptDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.reference import Frozen
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.records import Row
from lit_rlhf.rewards.protocol import RewardError
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules import ppo_runs
from tests.modules.ppo_runs import ROWS, TOKENIZER, Prompts, adam, fit, make_module
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of


def test_the_reward_rises():
    module = make_module(kl_coef=0.0, epochs=4, samples_per_prompt=4)
    fit(module, max_epochs=12)
    scores = [rollout.scores.mean().item() for rollout in module.rollouts]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2


def test_the_first_ratio_is_one_and_the_first_kl_is_zero():
    module = make_module()
    fit(module, max_epochs=1)
    assert module.ratios[0] == pytest.approx(1.0, abs=1e-5)
    first = module.rollouts[0]
    assert torch.allclose(first.old_logprobs, first.reference_logprobs, atol=1e-6)
    assert module.ratios[-1] != pytest.approx(1.0, abs=1e-5)


def test_the_kl_price_stands_in_the_rewards_and_the_score_on_the_last_token():
    module = make_module(kl_coef=0.3, optimizer=adam)
    fit(module, max_epochs=3)
    rollout = module.rollouts[-1]
    for n in range(len(rollout)):
        length = len(rollout.response_ids[n])
        price = 0.3 * (rollout.old_logprobs[n, :length] - rollout.reference_logprobs[n, :length])
        rest = rollout.rewards[n, :length] + price
        assert rest[:-1].abs().max().item() < 1e-6 if length > 1 else True
        assert rest[-1].item() == pytest.approx(rollout.shaped_scores[n].item(), abs=1e-5)
        assert (rollout.rewards[n, length:] == 0).all()


def test_each_response_is_seen_once_an_epoch():
    module = make_module()
    trainer = quiet_trainer(max_epochs=1)
    data = Prompts()
    data.trainer = trainer
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.datamodule = data
    loader = module.rollout_loader(ROWS)
    plans = [[share for share, _ in loader._plan(None, iteration)] for iteration in (0, 1)]
    seen = [index for part in plans[0] for index in part]
    assert sorted(seen) == sorted(list(range(16)) * 2)
    assert len(loader) == 4
    assert plans[0] != plans[1]


def test_prompts_are_gone_through_before_any_comes_twice():
    module = make_module()
    trainer = quiet_trainer(max_epochs=1)
    module.trainer = trainer
    trainer.datamodule = Prompts()
    loader = module.rollout_loader(ROWS)
    names = [row.id for iteration in range(5) for row in loader.prompts(iteration)]
    for start in range(0, 40, 5):
        assert sorted(names[start : start + 5]) == sorted(row.id for row in ROWS)


def test_a_missing_eos_can_have_its_own_score():
    module = make_module(shaping={"missing_eos_score": -7.0})
    fit(module)
    rollout = module.rollouts[0]
    assert rollout.truncated.any()
    assert (rollout.shaped_scores[rollout.truncated] == -7.0).all()
    assert (rollout.shaped_scores[~rollout.truncated] >= 0).all()
    assert (rollout.scores >= 0).all()


def test_whitening_runs_over_the_whole_rollout():
    module = make_module()
    fit(module)
    rollout = module.rollouts[0]
    kept = rollout.advantages[rollout.response_mask]
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert kept.var(unbiased=False).item() == pytest.approx(1.0, abs=1e-4)
    plain = make_module(whiten_advantages=False)
    fit(plain)
    values = plain.rollouts[0]
    assert torch.allclose(values.advantages + values.values, values.returns, atol=1e-5)


@pytest.mark.parametrize("lengths", [{"minibatch_size": 4}, {"epochs": 1}])
def test_sizes_are_independent_numbers(lengths):
    module = make_module(**lengths)
    trainer = fit(module)
    expected = module.epochs * -(-16 // module.minibatch_size)
    assert trainer.global_step == expected


def test_accumulation_keeps_the_minibatches_gradient():
    whole, split = make_module(optimizer=sgd), make_module(optimizer=sgd)
    fit(whole)
    trainer = fit(split, accumulate_grad_batches=4)
    assert trainer.global_step == 4
    start = weights_of(make_module().network)
    scale = (weights_of(whole.network) - start).abs().max()
    assert (weights_of(split.network) - weights_of(whole.network)).abs().max() < 1e-3 * scale


def _on_one_rank() -> tuple[list[list[int]], np.ndarray]:
    module = make_module(optimizer=sgd)
    fit(module, devices=2, strategy="ddp", max_epochs=2)
    return module.rollouts[1].response_ids, weights_of(module.network).numpy()


def test_two_ranks_draw_and_learn_what_one_does():
    single = make_module(optimizer=sgd)
    fit(single, max_epochs=2)
    start = weights_of(make_module().network)
    scale = (weights_of(single.network) - start).abs().max()
    for responses, weights in run_distributed(_on_one_rank, 2):
        assert responses == single.rollouts[1].response_ids
        assert (torch.from_numpy(weights) - weights_of(single.network)).abs().max() < 1e-3 * scale


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("step", [3, 4, 6])
def test_resume_is_exact_inside_and_at_the_end_of_an_iteration(step: int, tmp_path: Path):
    """Four updates an iteration: step 3 and 6 lie inside one, step 4 ends one."""
    straight = make_module()
    fit(straight, max_epochs=3)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(make_module(), max_epochs=2, enable_checkpointing=True, callbacks=[keep])
    resumed = make_module()
    fit(resumed, str(tmp_path / f"step={step}.ckpt"), max_epochs=3)
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_the_checkpoint_holds_no_frozen_model_and_loads_as_plain_values(tmp_path: Path):
    module = make_module()
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="inside")
    fit(module, enable_checkpointing=True, callbacks=[keep])
    stored = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in stored["state_dict"]} == {"network"}
    assert "reward" not in stored["hyper_parameters"] and stored["hyper_parameters"]["epochs"] == 2


def test_too_few_responses_for_the_shares_is_said_with_its_keys():
    with pytest.raises(ValueError, match=r"model\.minibatch_size.*trainer\.accumulate_grad_batches"):
        fit(make_module(minibatch_size=3), accumulate_grad_batches=2)


def test_a_failing_reward_names_the_prompt():
    def broken(prompts, completions, **columns):
        return [float("nan")] * len(prompts)

    with pytest.raises(RewardError, match=r"for prompt (soup|cake|train|lamp|hotel)"):
        fit(make_module(reward=broken))


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match=r"model\.temperature"):
        make_module(temperature=0.0)


def test_critic_learning_rate_is_its_own():
    module = make_module(critic_learning_rate=0.5)
    groups = module.configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [3e-3, 0.5]
    assert sum(len(group["params"]) for group in groups) == len(list(module.network.parameters()))


def test_frozen_models_follow_the_module_to_its_device(monkeypatch):
    """They are not registered, so nobody else moves them."""
    moved = []
    monkeypatch.setattr(Frozen, "to", lambda self, device: moved.append((self, device)) or self)
    module = make_module()
    fit(module)
    assert (module._reference, module.device) in moved


@pytest.mark.parametrize("part", ["critic", "reference"])
def test_critic_and_reference_must_read_the_policys_ids(part: str, tmp_path: Path):
    make_llama(TOKENIZER, vocab_size=len(TOKENIZER) + 8).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=rf"model\.{part}: expected the policy's vocabulary of 320 tokens, found 328"
    ):
        make_module(**{part: str(tmp_path)})


def test_a_critic_from_a_reward_model_starts_with_its_head(tmp_path: Path):
    scorer = ScorerNetwork(make_llama(TOKENIZER).base_model)
    scorer.shift(torch.tensor(-2.0))
    export_scorer(scorer, TOKENIZER, tmp_path / "reward")
    module = make_module(critic=str(tmp_path / "reward"))
    assert torch.equal(module.network.critic.head.weight, scorer.head.weight)
    critic = module.network.critic
    assert critic.normalized(critic.head.bias).item() == pytest.approx(2.0)
    assert make_module().network.critic.head.weight.abs().max().item() == 0.0


def test_other_data_than_prompts_is_refused():
    with pytest.raises(ValueError, match=r"found a batch of ResponseTrees.*PromptDataModule"):
        make_module().compute_loss(pack_trees(random_trees(2)))


def interrupted(tmp_path: Path) -> str:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="inside")
    fit(make_module(), enable_checkpointing=True, callbacks=[keep])
    return str(tmp_path / "inside.ckpt")


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize(
    "changed", [{"epochs": 3}, {"minibatch_size": 4}, {"samples_per_prompt": 1}, {"seed": 5}]
)
def test_an_iteration_is_not_continued_under_other_settings(changed: dict, tmp_path: Path):
    with pytest.raises(ValueError, match=rf"saved inside an iteration, and model\.{next(iter(changed))}"):
        fit(make_module(**changed), interrupted(tmp_path), max_epochs=2)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_an_iteration_is_not_continued_with_other_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = interrupted(tmp_path)
    monkeypatch.setattr(ppo_runs, "ROWS", [*ROWS, Row("another prompt")])
    with pytest.raises(ValueError, match=r"data\.path"):
        fit(make_module(), path, max_epochs=2)


def test_any_rows_can_be_wrapped_without_a_data_module():
    module = make_module()
    quiet_trainer().fit(module, module.rollout_loader(ROWS, batch_size=4))
    assert len(module.rollouts[0]) == 8
    with pytest.raises(ValueError, match="give batch_size"):
        quiet_trainer().fit(make_module(), make_module().rollout_loader(ROWS))


def test_the_data_modules_template_reaches_the_rollouts_and_the_export(tmp_path: Path):
    rows = [{"prompt": [{"role": "user", "content": f"hi {i}"}]} for i in range(8)]
    data = PromptDataModule(rows, batch_size=8, chat_template="chatml")
    module = make_module()
    quiet_trainer().fit(module, datamodule=data)
    assert module.rollouts[0].prompt_ids[0] in [tree.prompt_ids for tree in data.trees("train")]
    assert "<|im_start|>user" in TOKENIZER.decode(module.rollouts[0].prompt_ids[0])
    module.export(tmp_path / "export")
    assert "im_start" in AutoTokenizer.from_pretrained(tmp_path / "export").chat_template
    assert "im_start" not in TOKENIZER.chat_template


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"minibatch_size": 0}, {"samples_per_prompt": 0}, {"kl_coef": -1.0}, {"clip_range": 0.0},
     {"value_clip_range": -0.2}, {"gamma": 1.5}, {"lam": -0.1}],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_their_key(wrong: dict):
    with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))}: expected"):
        make_module(**wrong)


def test_the_seed_is_that_of_seed_everything_where_none_is_given(monkeypatch: pytest.MonkeyPatch):
    drawn = []
    for given, everything in ((None, "3"), (3, "9"), (None, "9")):
        monkeypatch.setenv("PL_GLOBAL_SEED", everything)
        module = make_module(seed=given)
        fit(module)
        drawn.append(module.rollouts[0].response_ids)
    assert drawn[0] == drawn[1] != drawn[2]

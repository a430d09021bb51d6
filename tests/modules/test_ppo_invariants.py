"""What no layout, order or split of a PPO batch may change, and what has to hold before the first update."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.records import Experience, ExperienceBatch
from lit_rlhf.rollout.credit import assign_credit
from lit_rlhf.rollout.experience import select, training_batch
from tests.conftest import make_llama
from tests.modules.ppo_runs import TOKENIZER, Watched, fit, share_of_small_ids
from tests.modules.training import sgd, weights_of

FORMS: dict[str, dict[str, Any]] = {
    "gae": {},
    "k3 in the loss": {"kl_in": "loss", "kl_estimator": "k3", "advantage": "grpo", "loss_mean": "responses"},
    "dr_grpo": {"advantage": "dr_grpo", "loss_mean": "max_length"},
    "rloo over responses": {"advantage": "rloo", "level": "sequence"},
    "gspo": {"advantage": "grpo", "level": "gspo"},
    "reinforce, entropy": {"advantage": "reinforce", "entropy_coef": 0.1, "dual_clip": 3.0},
}
every_form = pytest.mark.parametrize("form", FORMS)


def ending_llama() -> LlamaForCausalLM:
    """The tests' small policy with an EOS as likely as a word, so that responses are of all lengths."""
    llama = make_llama(TOKENIZER)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        states = llama.model(torch.randint(10, 300, (40, 8), generator=generator)).last_hidden_state[:, 3:]
        common = states.flatten(0, 1).mean(0)
        llama.lm_head.weight[TOKENIZER.eos_token_id] = 4 * common / common.square().sum()
    return llama


def make_module(reward: Any = share_of_small_ids, learning_rate: float = 1e-3, **changes: Any) -> Watched:
    settings = {"epochs": 2, "minibatch_size": 8, "max_new_tokens": 6, "samples_per_prompt": 2, **changes}
    torch.manual_seed(0)
    return Watched(
        ending_llama(),
        tokenizer=TOKENIZER,
        reward=reward,
        optimizer=settings.pop(
            "optimizer", lambda parameters: torch.optim.Adam(parameters, lr=learning_rate)
        ),
        **settings,
    )


def after_a_fit(form: str) -> tuple[Watched, Experience]:
    """A policy that has moved, and its last rollout: ratios are not 1, the KL is not 0, lengths differ."""
    module = make_module(kl_coef=0.2, **FORMS[form])
    fit(module, max_epochs=2)
    rollout = module.rollouts[-1]
    assert len(rollout.response_mask.sum(1).unique()) > 2
    assert (rollout.old_logprobs - rollout.reference_logprobs).abs().max() > 1e-3
    return module, rollout


def step_of(trainer_settings: dict[str, Any] | None = None, **settings: Any) -> Tensor:
    """How far one update of plain descent on all sixteen responses moves the weights."""
    module = make_module(optimizer=sgd, **{"epochs": 1, "minibatch_size": 16, **settings})
    start = weights_of(module.network)
    fit(module, **(trainer_settings or {}))
    assert len(module.rollouts[0].response_mask.sum(1).unique()) > 2
    return weights_of(module.network) - start


def loss_of(module: Watched, batch: ExperienceBatch) -> Tensor:
    output = module.compute_loss(batch)
    return output.total / output.count


def gradient_of(module: Watched, batch: ExperienceBatch) -> Tensor:
    trained = [p for p in module.network.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss_of(module, batch), trained, allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


def widened(experience: Experience, columns: int) -> Experience:
    """Every grid with more columns of padding, filled with what must not be read."""
    changed = {}
    for entry in fields(experience):
        value = getattr(experience, entry.name)
        if isinstance(value, Tensor) and value.dim() == 2:
            filler = False if value.dtype == torch.bool else 1e6
            rubbish = torch.where(experience.response_mask, value, filler)
            changed[entry.name] = torch.nn.functional.pad(rubbish, (0, columns), value=filler)
    return replace(experience, **changed)


@every_form
def test_padding_and_what_stands_behind_the_eos_change_nothing(form: str) -> None:
    module, rollout = after_a_fit(form)
    wide = assign_credit(widened(rollout, 7), module.credit, module.kl_coef)
    width = rollout.response_mask.shape[1]
    torch.testing.assert_close(wide.advantages[:, :width], rollout.advantages)
    assert (wide.advantages[:, width:] == 0).all()
    torch.testing.assert_close(wide.returns[:, :width], rollout.returns)
    everything = list(range(len(rollout)))
    torch.testing.assert_close(
        gradient_of(module, training_batch(widened(wide, 3), everything)),
        gradient_of(module, training_batch(rollout, everything)),
    )


@every_form
def test_the_order_of_responses_changes_nothing(form: str) -> None:
    module, rollout = after_a_fit(form)
    order = torch.randperm(len(rollout), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = assign_credit(select(rollout, order), module.credit, module.kl_coef)
    torch.testing.assert_close(shuffled.advantages, rollout.advantages[order])
    everything = list(range(len(rollout)))
    torch.testing.assert_close(
        gradient_of(module, training_batch(shuffled, everything)),
        gradient_of(module, training_batch(rollout, everything)),
        rtol=1e-4,
        atol=1e-6,
    )


@every_form
@pytest.mark.parametrize("parts", [2, 5])
def test_micro_batches_give_the_gradient_of_the_whole(form: str, parts: int) -> None:
    """Of unequal sizes, and of unequal numbers of tokens."""
    whole = step_of(kl_coef=0.2, **FORMS[form])
    split = step_of({"accumulate_grad_batches": parts}, kl_coef=0.2, **FORMS[form])
    assert (split - whole).abs().max() < 1e-3 * whole.abs().max()


@every_form
def test_before_the_first_update_nothing_has_moved(form: str) -> None:
    module = make_module(**FORMS[form])
    fit(module)
    assert module.ratios[0] == pytest.approx(1.0, abs=1e-5)
    first = module.rollouts[0]
    torch.testing.assert_close(first.old_logprobs, first.reference_logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["trees", "padded"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_samplers_logprobs_are_those_of_the_update(attention: str, temperature: float) -> None:
    module = make_module(attention=attention, temperature=temperature)
    fit(module, max_epochs=2)
    for rollout in module.rollouts:
        again = ~rollout.recomputed_logprobs.isnan()
        assert (again & rollout.response_mask).any()
        torch.testing.assert_close(
            rollout.sampled_logprobs[again], rollout.recomputed_logprobs[again], rtol=0, atol=1e-5
        )


def test_what_is_frozen_has_no_gradient(tmp_path: Any) -> None:
    export_scorer(ScorerNetwork(make_llama(TOKENIZER).base_model), TOKENIZER, tmp_path / "reward")
    module = make_module(reward=str(tmp_path / "reward"), kl_in="loss", kl_estimator="k2", kl_coef=0.5)
    fit(module, max_epochs=2)
    held = [*module._reference.network.parameters(), *module.reward.network.network.parameters()]
    trained = {id(parameter) for parameter in module.network.parameters()}
    assert len(held) > 40
    for parameter in held:
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert id(parameter) not in trained


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_without_a_price_the_reference_is_never_needed(kl_in: str) -> None:
    """Not even one whose log-probabilities are infinite."""
    weights = []
    for broken in (False, True):
        module = make_module(kl_coef=0.0, kl_in=kl_in, kl_estimator="k2")
        if broken:
            module.check_first_rollout = lambda experience: None  # which would refuse such a reference
            head = module._reference.network.causal_lm.lm_head
            head.weight.data[10] = 1e38
        fit(module, max_epochs=2)
        assert module.rollouts[0].reference_logprobs.isfinite().all() != broken
        weights.append(weights_of(module.network))
    assert torch.equal(*weights)


def test_one_seed_draws_one_rollout_and_another_seed_another() -> None:
    drawn = []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        module = make_module(seed=seed)
        torch.manual_seed(noise)  # the global stream is not asked
        fit(module, max_epochs=2)
        drawn.append([rollout.response_ids for rollout in module.rollouts])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def generous(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
    return [5.0 + each for each in share_of_small_ids(prompts, completions, completion_ids)]


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "rloo"},
        {"advantage": "grpo", "level": "gspo"},
        {"advantage": "dr_grpo"},
        {"advantage": "reinforce", "level": "sequence"},
        {"advantage": "reinforce", "baseline": "none", "level": "sequence"},
    ],
    ids=["rloo", "grpo", "dr_grpo", "reinforce", "reinforce, whitened"],
)
def test_a_constant_added_to_every_score_changes_no_update(settings: dict[str, Any]) -> None:
    """A reward model fitted to comparisons knows its scores up to a constant only."""
    plain, shifted = step_of(**settings), step_of(reward=generous, **settings)
    assert (shifted - plain).abs().max() < 1e-3 * plain.abs().max()

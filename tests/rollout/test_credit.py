"""From scores to advantages: each estimator and level, against numbers worked out by hand."""

from dataclasses import replace

import pytest
import torch

from lit_rlhf.records import Experience
from lit_rlhf.rollout.credit import Credit, assign_credit
from lit_rlhf.rollout.experience import select

MASK = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
SCORES = torch.tensor([3.0, 1.0, -1.0, 5.0])


def experience(**changes) -> Experience:
    """Two prompts with two responses each, of lengths 2, 1, 2, 1; ρ = 0.5 at every first token, −1 at each second."""
    old = torch.tensor([[-1.0, -2.0]]).expand(4, 2).masked_fill(~MASK, 0)
    reference = torch.tensor([[-1.5, -1.0]]).expand(4, 2).masked_fill(~MASK, 0)
    zeros = torch.zeros(4, 2)
    made = Experience(
        prompt_ids=[[5]] * 4,
        response_ids=[[7] * n for n in MASK.sum(1).tolist()],
        prompt_names=["a", "a", "b", "b"],
        prompt_index=torch.tensor([0, 0, 1, 1]),
        response_mask=MASK,
        sampled_logprobs=old,
        recomputed_logprobs=old,
        old_logprobs=old,
        reference_logprobs=reference,
        values=torch.tensor([[0.5, 1.0], [2.0, 0.0], [0.0, -1.0], [1.0, 0.0]]),
        scores=SCORES,
        shaped_scores=SCORES,
        gold_scores=torch.full((4,), torch.nan),
        failed=torch.zeros(4, dtype=torch.bool),
        ranks=torch.full((4,), torch.nan),
        weights=torch.ones(4),
        entropy=zeros,
        rewards=zeros,
        advantages=zeros,
        returns=zeros,
        truncated=torch.zeros(4, dtype=torch.bool),
    )
    return replace(made, **changes)


def credited(kl_coef: float = 0.0, given: Experience | None = None, **settings) -> Experience:
    settings = {"whiten_advantages": False, **settings}
    return assign_credit(experience() if given is None else given, Credit(**settings), kl_coef)


def test_gae_is_lambda_weighted_differences_with_the_score_on_the_last_token() -> None:
    done = credited(lam=0.5)
    # first row: δ = (1.0 − 0.5, 3 − 1.0), A_0 = 0.5 + 0.5·2; second row: 1 − 2
    assert done.advantages.tolist() == [[1.5, 2.0], [-1.0, 0.0], [-1.0, 0.0], [4.0, 0.0]]
    assert done.returns.tolist() == [[2.0, 3.0], [1.0, 0.0], [-1.0, -1.0], [5.0, 0.0]]


def test_each_kl_estimator_is_priced_in_the_reward() -> None:
    second = torch.tensor([True, False, True, False])
    for estimator, first_token, second_token in (
        ("k1", 0.5, -1.0),
        ("k2", 0.125, 0.5),
        ("k3", 0.5 + 0.6065307 - 1, -1.0 + 2.7182818 - 1),
    ):
        done = credited(0.2, kl_estimator=estimator)
        kept = done.rewards - torch.where(
            MASK, torch.tensor([[-0.2 * first_token, -0.2 * second_token]]), 0.0
        )
        assert kept[second].tolist() == [
            pytest.approx([0.0, 3.0], abs=1e-6),
            pytest.approx([0.0, -1.0], abs=1e-6),
        ]
        assert kept[~second, 0].tolist() == pytest.approx([1.0, 5.0])


def test_in_the_loss_the_reward_has_no_price() -> None:
    assert torch.equal(credited(0.2, kl_in="loss").rewards, credited(0.0).rewards)


def test_reinforce_with_each_baseline() -> None:
    none = credited(advantage="reinforce", baseline="none", gamma=0.5)
    assert none.advantages.tolist() == [[1.5, 3.0], [1.0, 0.0], [-0.5, -1.0], [5.0, 0.0]]
    assert torch.equal(none.returns, none.advantages)
    mean = credited(advantage="reinforce", baseline="mean")  # of 3, 3, 1, −1, −1, 5 over tokens
    assert torch.allclose(mean.advantages, torch.where(MASK, SCORES[:, None] - 10 / 6, 0.0))
    value = credited(advantage="reinforce", baseline="value")
    assert value.advantages.tolist() == [[2.5, 2.0], [-1.0, 0.0], [-1.0, 0.0], [4.0, 0.0]]


def test_groups_are_compared_by_what_their_responses_sum_to() -> None:
    # ρ of the responses: −0.5, 0.5, −0.5, 0.5; at β = 2 the totals are 4, 0 and 0, 4
    assert credited(2.0, advantage="rloo").advantages[:, 0].tolist() == [4.0, -4.0, -4.0, 4.0]
    assert credited(2.0, advantage="dr_grpo").advantages[:, 0].tolist() == [2.0, -2.0, -2.0, 2.0]
    spread = 8**0.5 + 1e-4  # deviation of 4 and 0 with Bessel's correction
    expected = torch.tensor([2.0, -2.0, -2.0, 2.0]) / spread
    done = credited(2.0, advantage="grpo")
    assert torch.allclose(done.advantages, torch.where(MASK, expected[:, None], 0.0))
    assert torch.equal(done.returns[:, 0], torch.tensor([4.0, 0.0, 0.0, 4.0]))


@pytest.mark.parametrize("level", ["sequence", "gspo"])
def test_a_whole_response_has_one_advantage(level: str) -> None:
    done = credited(2.0, level=level)  # totals 4, 0, 0, 4 minus the first values 0.5, 2, 0, 1
    assert done.advantages.tolist() == [[3.5, 3.5], [-2.0, 0.0], [0.0, 0.0], [3.0, 0.0]]
    assert done.returns.tolist() == [[4.0, 4.0], [0.0, 0.0], [0.0, 0.0], [4.0, 0.0]]
    mean = credited(2.0, level=level, advantage="reinforce")
    assert mean.advantages[:, 0].tolist() == [2.0, -2.0, -2.0, 2.0]


def test_whitening_runs_over_tokens_or_over_responses() -> None:
    tokens = credited(whiten_advantages=True).advantages[MASK]
    assert tokens.mean().item() == pytest.approx(0, abs=1e-6)
    assert tokens.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    responses = credited(whiten_advantages=True, level="sequence").advantages[:, 0]
    assert responses.mean().item() == pytest.approx(0, abs=1e-6)
    assert responses.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def test_whitened_rewards_keep_their_mean() -> None:
    rewards = credited(whiten_rewards=True).rewards[MASK]
    assert rewards.mean().item() == pytest.approx(8 / 6, abs=1e-5)
    assert rewards.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("advantage", ["gae", "reinforce", "rloo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_failed_response_counts_nowhere(advantage: str, level: str) -> None:
    """What is left is credited as if the failed response had never been drawn."""
    failed = torch.tensor([False, True, False, False])
    whole = experience(failed=failed, shaped_scores=torch.where(failed, 0.0, SCORES))
    grouped = advantage in ("rloo", "grpo", "dr_grpo")
    settings = {"advantage": advantage, "level": level, "whiten_advantages": not grouped}
    done = credited(0.3, whole, **settings)
    assert (done.advantages[1] == 0).all() and (done.rewards[1] == 0).all() and (done.returns[1] == 0).all()
    left = [0, 2, 3]
    if grouped:
        assert (done.advantages[0] == 0).all()  # alone with its prompt: nothing to compare it with
        return

    expected = credited(0.3, select(experience(), left), **settings)
    assert torch.allclose(done.advantages[left], expected.advantages, atol=1e-6)
    assert torch.allclose(done.returns[left], expected.returns, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"gamma": 1.5}, {"lam": -0.1}, {"advantage": "gea"}, {"level": "word"}, {"kl_estimator": "k4"}]
)
def test_settings_that_make_no_sense_are_refused_by_their_key(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))}: expected"):
        Credit(**wrong)

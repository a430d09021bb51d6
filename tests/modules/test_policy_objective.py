"""The terms of PPO's loss at each level, against sums worked out by hand."""

import math

import pytest
import torch

from lit_rlhf.models.actor_critic import ActorCriticOutput
from lit_rlhf.modules.policy_objective import PolicyObjective, log_ratio_moments
from lit_rlhf.records import ExperienceBatch
from lit_rlhf.rollout.experience import sampled_trees

LOG_RATIO = torch.tensor([[math.log(1.5), math.log(0.5)], [math.log(1.1), 0.0]])
ADVANTAGES = torch.tensor([[1.0, 1.0], [-2.0, 0.0]])
OLD = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])


def output(values: torch.Tensor | None = None, entropy: torch.Tensor | None = None) -> ActorCriticOutput:
    return ActorCriticOutput(OLD + LOG_RATIO, entropy, values)


def batch(failed: tuple[bool, bool] = (False, False)) -> ExperienceBatch:
    """A response of two tokens and one of one."""
    return ExperienceBatch(
        trees=sampled_trees([[5], [5]], [[7, 8], [9]], failed),
        old_logprobs=OLD,
        reference_logprobs=OLD - torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
        values=torch.tensor([[0.0, 0.0], [0.0, 0.0]]),
        advantages=ADVANTAGES,
        returns=torch.tensor([[1.0, 1.0], [2.0, 0.0]]),
        weights=torch.ones(2),
    )


def loss(now: ActorCriticOutput | None = None, kl_coef: float = 0.0, **settings) -> tuple[float, int]:
    total, count, _ = PolicyObjective(**settings).loss(now or output(), batch(), kl_coef)
    return total.item(), int(count)


def test_token_level_clips_each_tokens_ratio() -> None:
    # −min(1.5, 1.2), −0.5, and 2·max(1.1, 0.8)
    assert loss() == (pytest.approx(-1.2 - 0.5 + 2.2), 3)
    assert loss(clip_range=0.05) == (pytest.approx(-1.05 - 0.5 + 2.2), 3)


def test_the_upper_range_is_its_own() -> None:
    assert loss(clip_range_high=0.4) == (pytest.approx(-1.4 - 0.5 + 2.2), 3)


def test_dual_clip_bounds_the_loss_of_a_negative_advantage() -> None:
    assert loss(dual_clip=1.05) == (pytest.approx(-1.2 - 0.5 + 2.1), 3)


def test_the_means() -> None:
    assert loss(loss_mean="responses") == (pytest.approx((-1.2 - 0.5) / 2 + 2.2), 2)
    assert loss(loss_mean="max_length", max_new_tokens=4) == (pytest.approx((-1.2 - 0.5 + 2.2) / 4), 2)


def test_sequence_level_clips_the_whole_responses_ratio() -> None:
    # 1.5·0.5 = 0.75 stays as it is where the advantage is positive
    assert loss(level="sequence") == (pytest.approx(-0.75 + 2.2), 2)


def test_gspo_takes_the_geometric_mean_of_the_ratio() -> None:
    assert loss(level="gspo") == (pytest.approx(-math.sqrt(0.75) + 2.2), 2)


def test_kl_in_the_loss_is_added_at_its_price() -> None:
    plain = loss()[0]
    rho = LOG_RATIO + torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # to the reference; the last is padding
    first, second, third = rho[0, 0].item(), rho[0, 1].item(), rho[1, 0].item()
    squares = (first**2 + second**2 + third**2) / 2
    assert loss(kl_coef=0.3, kl_in="loss", kl_estimator="k2") == (pytest.approx(plain + 0.3 * squares), 3)
    k3 = sum(math.exp(-each) - 1 + each for each in (first, second, third))
    assert loss(kl_coef=0.3, kl_in="loss", kl_estimator="k3") == (pytest.approx(plain + 0.3 * k3), 3)
    of_responses = ((first + second) ** 2 + third**2) / 2
    expected = loss(level="sequence")[0] + 0.3 * of_responses
    settings = {"kl_coef": 0.3, "kl_in": "loss", "kl_estimator": "k2"}
    assert loss(level="sequence", **settings) == (pytest.approx(expected), 2)
    assert loss(kl_coef=0.3, kl_in="reward") == (pytest.approx(plain), 3)  # there it is in the advantages


def test_the_value_loss_is_weighted_and_clipped() -> None:
    values = torch.tensor([[0.5, 1.0], [0.0, 9.0]])  # the last is padding
    squares = 0.5**2 / 2 + 0.0 + 2.0**2 / 2
    expected = loss()[0] + 0.1 * squares
    assert loss(output(values), value_clip_range=None) == (pytest.approx(expected), 3)
    clipped = max(0.25, 0.8**2) / 2 + 0.8**2 / 2 + 2.0**2 / 2
    expected = loss()[0] + 0.1 * clipped
    assert loss(output(values), value_clip_range=0.2) == (pytest.approx(expected), 3)


def test_at_sequence_level_the_first_value_alone_learns() -> None:
    values = torch.tensor([[0.5, 7.0], [0.0, 9.0]], requires_grad=True)
    objective = PolicyObjective(level="sequence", value_clip_range=None)
    total, _, metrics = objective.loss(output(values), batch(), 0.0)
    assert metrics["value/loss"].item() == pytest.approx((0.5**2 + 2.0**2) / 4)
    total.backward()
    assert values.grad.tolist() == [[pytest.approx(-0.05), 0.0], [pytest.approx(-0.2), 0.0]]


def test_entropy_is_taken_off_the_loss() -> None:
    entropy = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert loss(output(entropy=entropy), entropy_coef=0.5) == (pytest.approx(loss()[0] - 3.0), 3)


def test_a_failed_response_has_neither_loss_nor_count() -> None:
    for level, expected in (("token", (-1.2 - 0.5, 2)), ("sequence", (-0.75, 1))):
        failing = batch((False, True))
        failing.advantages[1] = 0
        total, count, _ = PolicyObjective(level=level).loss(output(values=torch.zeros(2, 2)), failing, 0.0)
        extra = 0.1 * 0.5 * (2 if level == "token" else 1)  # returns of 1 against values of 0
        assert (total.item(), int(count)) == (pytest.approx(expected[0] + extra), expected[1])


def test_moments_of_the_log_ratio_are_those_of_counted_tokens() -> None:
    ratios = (1.5, 0.5, 1.1)
    expected = sum(ratio - 1 - math.log(ratio) for ratio in ratios)
    moved = log_ratio_moments(output(), batch())
    assert moved.tolist() == [pytest.approx(expected, rel=1e-5), 3.0]


@pytest.mark.parametrize(
    "wrong",
    [{"clip_range": 0.0}, {"clip_range_high": -0.1}, {"dual_clip": 1.0}, {"value_clip_range": 0.0},
     {"loss_mean": "words"}, {"value_coef": -1.0}, {"entropy_coef": -0.1}],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_their_key(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"model\.{next(iter(wrong))}: expected"):
        PolicyObjective(**wrong)


def test_a_mean_over_tokens_of_whole_responses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.loss_mean: at model\.level sequence"):
        PolicyObjective(level="sequence", loss_mean="responses")

"""Kendall's τ-b and top-1: by hand, and against torchmetrics prompt by prompt."""

import math

import pytest
import torch
from torchmetrics.regression import KendallRankCorrCoef

from lit_rlhf.metrics import KendallTau, TopOne
from lit_rlhf.metrics.rankings import compare_rankings

NAN = math.nan


def of_one(scores: list[float], ranks: list[float]):
    found = compare_rankings(torch.tensor(scores), torch.tensor(ranks), torch.zeros(len(scores)).long())
    assert len(found.prompt) == 1
    return found


@pytest.mark.parametrize(
    ("scores", "ranks", "tau", "top1"),
    [
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], 1, 1),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], -1, 0),
        ([3.0, 1.0, 2.0], [1.0, 2.0, 3.0], 1 / 3, 1),  # of three pairs one is the wrong way round
        ([3.0, 1.0, 2.0], [1.0, 2.0, 2.0], 2 / math.sqrt(3 * 2), 1),  # a tie in the ranks
        ([3.0, 1.0, 1.0], [1.0, 2.0, 3.0], 2 / math.sqrt(2 * 3), 1),  # a tie in the scores
        ([3.0, 3.0, 1.0], [1.0, 1.0, 2.0], 1, 1),  # the same tie in both
        ([3.0, 3.0, 1.0], [1.0, 2.0, 2.0], 1 / 2, 0),  # a shared first place is no first place
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0, 0),  # one score for all says nothing
        ([1.0, 9.0, 0.0], [1.0, NAN, 2.0], 1, 1),  # whom nobody judged is not there
        ([1.0, 2.0], [2.0, 1.0], 1, 1),
    ],
)
def test_by_hand(scores: list[float], ranks: list[float], tau: float, top1: float) -> None:
    found = of_one(scores, ranks)
    assert found.kendall_tau.item() == pytest.approx(tau)
    assert found.top1.item() == top1
    assert not found.tied.any()


def test_prompts_that_are_tied_or_hardly_judged_are_left_out() -> None:
    ranks = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, NAN, NAN, 1.0, 2.0])
    scores = torch.tensor([2.0, 1.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 1.0])
    # right; all tied; one judged; none judged; wrong
    prompt = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 4])
    found = compare_rankings(scores, ranks, prompt)
    assert found.prompt.tolist() == [0, 1, 4]
    assert found.judged.tolist() == [2, 2, 2]
    assert found.tied.tolist() == [False, True, False]
    assert found.kendall_tau[1].isnan()
    assert found.top1[1].isnan()
    for metric, expected in ((KendallTau(), 0.0), (TopOne(), 0.5)):
        metric.update(scores, ranks, prompt)
        assert metric.compute().item() == expected
        assert metric.tied.item() == 1


def test_tau_is_torchmetrics_of_each_prompt_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(30, (200,), generator=generator)
    scores = torch.randint(4, (200,), generator=generator).float()
    ranks = torch.randint(1, 5, (200,), generator=generator).float()
    ranks[torch.rand(200, generator=generator) < 0.1] = NAN
    found = compare_rankings(scores, ranks, prompt)
    assert len(found.prompt) > 25
    for number, tau in zip(found.prompt.tolist(), found.kendall_tau, strict=True):
        mine = (prompt == number) & ranks.isfinite()
        if len(scores[mine].unique()) == 1:
            assert tau == 0
            continue
        expected = KendallRankCorrCoef(variant="b")(scores[mine], -ranks[mine])
        torch.testing.assert_close(tau, expected, atol=1e-6, rtol=0)


def test_prompts_weigh_the_same_whatever_their_size_and_batch() -> None:
    tau, top1 = KendallTau(), TopOne()
    for metric in (tau, top1):
        one = torch.tensor([3.0, 2.0, 1.0, 0.0])
        metric.update(one, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4).long())
        metric.update(
            torch.tensor([0.0, 1.0] * 3), torch.tensor([1.0, 2.0] * 3), torch.tensor([0, 0, 1, 1, 2, 2])
        )
    assert tau.compute().item() == pytest.approx((1 - 3) / 4)
    assert top1.compute().item() == 0.25


def test_nothing_ranked_is_nobodys_zero() -> None:
    tau = KendallTau()
    tau.update(torch.zeros(2), torch.full((2,), NAN), torch.zeros(2).long())
    assert tau.compute().isnan()


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ranks \[1\]"):
        KendallTau().update(torch.zeros(2), torch.zeros(1), torch.zeros(2).long())

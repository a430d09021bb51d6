"""Optimal transport: quantiles are compared, whoever they belong to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.preference import dpo_loss
from lit_rlhf.losses.transport import aot_loss, aot_unpaired_loss

POLICY = torch.tensor([[-4.0, -6, -1], [-5.0, -3, -2]], dtype=torch.float64)
REFERENCE = torch.tensor([[-6.0, -5, -1], [-4.5, -4, -3]], dtype=torch.float64)
"""Gaps 1, -3, 1 and -1.5, -1, 2; log-ratios 2, -1, 0 and -0.5, 1, 1."""
BOTH = pytest.mark.parametrize("loss", [aot_loss, aot_unpaired_loss])


def losses_of(differences: list[float], smoothing: float = 0.0) -> list[float]:
    def cost(h: float) -> float:
        return math.log(1 + math.exp(-h))

    return [(1 - smoothing) * cost(0.4 * h) + smoothing * cost(-0.4 * h) for h in differences]


def test_paired_by_hand() -> None:
    found = aot_loss(*POLICY, *REFERENCE, beta=0.4, label_smoothing=0.1)
    # -3, 1, 1 against -1.5, -1, 2
    assert found.tolist() == pytest.approx(losses_of([-1.5, 2, -1], 0.1))


def test_unpaired_by_hand() -> None:
    found = aot_unpaired_loss(*POLICY, *REFERENCE, beta=0.4, label_smoothing=0.1)
    # -1, 0, 2 against -0.5, 1, 1
    assert found.tolist() == pytest.approx(losses_of([-0.5, -1, 1], 0.1))


@BOTH
def test_at_the_reference_the_loss_is_log_two(loss) -> None:
    assert loss(*REFERENCE, *REFERENCE, beta=0.4).tolist() == pytest.approx([math.log(2)] * 3)


@BOTH
def test_the_order_of_the_batch_changes_nothing(loss) -> None:
    shuffled = [2, 0, 1]
    found = loss(*POLICY[:, shuffled], *REFERENCE[:, shuffled], beta=0.4)
    torch.testing.assert_close(found, loss(*POLICY, *REFERENCE, beta=0.4))


@BOTH
def test_one_pair_alone_is_dpo(loss) -> None:
    pair = [each[:1] for each in (*POLICY, *REFERENCE)]
    torch.testing.assert_close(loss(*pair, beta=0.4), dpo_loss(*pair, beta=0.4))


def test_unpaired_does_not_ask_whose_response_it_is() -> None:
    other = [1, 2, 0]
    found = aot_unpaired_loss(POLICY[0], POLICY[1, other], REFERENCE[0], REFERENCE[1, other], beta=0.4)
    torch.testing.assert_close(found, aot_unpaired_loss(*POLICY, *REFERENCE, beta=0.4))


@BOTH
def test_gradients_are_those_of_finite_differences(loss) -> None:
    def total(policy: Tensor) -> Tensor:
        return loss(*policy, *REFERENCE, beta=0.4)

    apart = (POLICY + torch.tensor([[0.1, 0.0, 0.3], [0.0, 0.2, 0.0]])).requires_grad_()  # no two alike
    assert torch.autograd.gradcheck(total, apart)


@BOTH
def test_far_from_the_reference_all_stays_finite(loss) -> None:
    policy = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    found = loss(*policy, *torch.zeros(2, 3), beta=0.4)
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), policy)[0].isfinite().all()


@BOTH
def test_what_does_not_fit_is_refused(loss) -> None:
    with pytest.raises(ValueError, match="expected tensors of one shape"):
        loss(POLICY[0, :, None], POLICY[1], *REFERENCE, beta=0.4)
    with pytest.raises(ValueError, match=r"found 0\.5"):
        loss(*POLICY, *REFERENCE, beta=0.4, label_smoothing=0.5)

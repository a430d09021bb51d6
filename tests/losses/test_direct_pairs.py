"""What all losses on pairs have in common, and where each of them differs; numbers of others are in tests/golden."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lit_rlhf.losses.absolute import bco_loss, nca_loss, sppo_loss
from lit_rlhf.losses.anchored import apo_down_loss, apo_zero_loss
from lit_rlhf.losses.differences import discopop_loss, exo_loss, hinge_loss, ipo_loss
from lit_rlhf.losses.divergences import alpha_divergence, forward_kl, jensen_shannon
from lit_rlhf.losses.length_normalized import length_normalized_dpo_loss, length_normalized_ipo_loss
from lit_rlhf.losses.preference import dpo_loss, pair_rewards, robust_dpo_loss
from lit_rlhf.losses.unpaired import kto_pair_loss

PairLoss = Callable[..., Tensor]
"""Of policy better, policy worse, reference better, reference worse ``[C]``, and `target`."""

BETA = 0.3
LENGTHS = torch.tensor([3, 7, 2, 5]), torch.tensor([6, 1, 2, 4])


def with_lengths(loss: PairLoss) -> PairLoss:
    """Of pairs whose lengths are LENGTHS, one way round or the other."""

    def call(*pair: Tensor, exchanged: bool = False, **others: object) -> Tensor:
        lengths = tuple(each[: len(pair[0])] for each in (LENGTHS[::-1] if exchanged else LENGTHS))
        return loss(*pair, *lengths, BETA, **others)

    return call


def kto_at(point: float) -> PairLoss:
    return lambda *pair, **others: kto_pair_loss(*pair, point, BETA, **others)


OF_DIFFERENCES: dict[str, PairLoss] = {
    "dpo": partial(dpo_loss, beta=BETA),
    "dpo smoothed": partial(dpo_loss, beta=BETA, label_smoothing=0.1),
    "robust": partial(robust_dpo_loss, beta=BETA, flip_rate=0.2),
    "hinge": partial(hinge_loss, beta=BETA),
    "ipo": partial(ipo_loss, beta=BETA),
    "exo": partial(exo_loss, beta=BETA, label_smoothing=0.1),
    "discopop": partial(discopop_loss, beta=BETA),
}
NORMALIZED: dict[str, PairLoss] = {
    "dpo per token": with_lengths(length_normalized_dpo_loss),
    "ipo per token": with_lengths(length_normalized_ipo_loss),
}
PAIR_LOSSES: dict[str, PairLoss] = {
    **OF_DIFFERENCES,
    **NORMALIZED,
    "dpo forward KL": partial(dpo_loss, beta=BETA, divergence=forward_kl),
    "dpo Jensen-Shannon": partial(dpo_loss, beta=BETA, divergence=jensen_shannon),
    "dpo alpha": partial(dpo_loss, beta=BETA, divergence=partial(alpha_divergence, alpha=0.4)),
    "bco": partial(bco_loss, beta=BETA),
    "bco shifted": partial(bco_loss, beta=BETA, shift=0.4),
    "nca": partial(nca_loss, beta=BETA),
    "apo zero": partial(apo_zero_loss, beta=BETA),
    "apo down": partial(apo_down_loss, beta=BETA),
    "sppo": partial(sppo_loss, beta=BETA),
    "kto": kto_at(0.0),
    "kto above its reference": kto_at(1.5),
}
EVERY = pytest.mark.parametrize("name", PAIR_LOSSES)
LN2 = math.log(2)
AT_REFERENCE = {
    **dict.fromkeys(["dpo", "dpo smoothed", "robust", "dpo per token", "dpo forward KL"], LN2),
    **dict.fromkeys(["dpo Jensen-Shannon", "dpo alpha"], LN2),
    **dict.fromkeys(["hinge", "apo zero", "apo down"], 1.0),
    **dict.fromkeys(["ipo", "ipo per token"], 1 / (4 * BETA**2)),
    "exo": 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1),
    "discopop": (1 + LN2) / 2,
    "bco": 2 * LN2,
    "bco shifted": math.log(1 + math.exp(0.4)) + math.log(1 + math.exp(-0.4)),
    "nca": 2 * LN2,
    "sppo": 1 / (2 * BETA**2),
    "kto": 0.5,
    "kto above its reference": 0.5,  # what the one gains the other loses
}


def pairs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four comparisons, which the policy has moved by 2, -1.5, 0.3 and 0 nats on one side, and others on the other."""
    reference = torch.tensor([[-6.0, -5, -3, -9], [-4.5, -4, -3.5, -7]], dtype=dtype)
    moved = torch.tensor([[2.0, -1.5, 0.3, 0], [-0.5, 1, -1.2, 0.7]], dtype=dtype)
    return (*(reference + moved), *reference)


def exchanged(pair: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return pair[1], pair[0], pair[3], pair[2]


def slopes(loss: PairLoss, pair: tuple[Tensor, ...], **others: object) -> tuple[Tensor, Tensor]:
    """Gradients of the policy's better and worse log-probabilities."""
    better, worse = (each.detach().clone().requires_grad_() for each in pair[:2])
    found = torch.autograd.grad(loss(better, worse, *pair[2:], **others).sum(), (better, worse))
    return found[0], found[1]


@EVERY
def test_at_the_reference(name: str) -> None:
    _, _, *reference = pairs()
    loss = PAIR_LOSSES[name](*reference, *reference)
    assert loss.tolist() == pytest.approx([AT_REFERENCE[name]] * 4, rel=1e-12)


@EVERY
def test_where_training_starts_the_better_goes_up_and_the_worse_down(name: str) -> None:
    _, _, *reference = pairs()
    better, worse = slopes(PAIR_LOSSES[name], (*reference, *reference))
    if name == "discopop":  # not convex: it starts by going the wrong way
        better, worse = -better, -worse
    if name == "apo down":  # it only lets the worse fall
        assert better.tolist() == [0, 0, 0, 0]
    else:
        assert (better < 0).all()
    assert (worse > 0).all()


@EVERY
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 1.0])
def test_exchanged_responses_and_target_are_the_same_comparison(name: str, target: float) -> None:
    loss, other = PAIR_LOSSES[name], PAIR_LOSSES[name]
    if name in NORMALIZED:
        other = partial(other, exchanged=True)
    found = other(*exchanged(pairs()), target=1 - target)
    torch.testing.assert_close(loss(*pairs(), target=target), found)


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES.keys() - {"exo"}))  # a KL to the share itself
def test_a_share_of_votes_is_the_mean_over_votes(name: str) -> None:
    loss = PAIR_LOSSES[name]
    share = torch.tensor([0.75, 0.5, 1.0, 0.0], dtype=torch.float64)
    found = slopes(loss, pairs(), target=share)
    won, lost = slopes(loss, pairs(), target=1.0), slopes(loss, pairs(), target=0.0)
    expected = tuple(share * yes + (1 - share) * no for yes, no in zip(won, lost))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", OF_DIFFERENCES)
def test_a_constant_of_the_prompt_changes_nothing(name: str) -> None:
    loss, (better, worse, *reference) = OF_DIFFERENCES[name], pairs()
    shift = torch.tensor([3.0, -2.0, 0.5, 10.0], dtype=torch.float64)
    torch.testing.assert_close(
        loss(better + shift, worse + shift, *reference), loss(better, worse, *reference)
    )


@EVERY
def test_what_policy_and_reference_share_changes_nothing(name: str) -> None:
    """Such as the log-probability of a beginning that was not trained."""
    loss, (better, worse, reference_better, reference_worse) = PAIR_LOSSES[name], pairs()
    one, other = torch.tensor([[3.0, -2.0, 0.5, 10.0], [-1.0, 4.0, 0.0, 2.0]], dtype=torch.float64)
    found = loss(better + one, worse + other, reference_better + one, reference_worse + other)
    torch.testing.assert_close(found, loss(*pairs()))


@pytest.mark.parametrize("name", NORMALIZED)
def test_per_token_a_constant_is_one_of_each_token(name: str) -> None:
    loss, (better, worse, *reference) = NORMALIZED[name], pairs()
    found = loss(better + 0.7 * LENGTHS[0], worse + 0.7 * LENGTHS[1], *reference)
    torch.testing.assert_close(found, loss(*pairs()))
    assert not torch.allclose(loss(better + 0.7, worse + 0.7, *reference), loss(*pairs()))


@EVERY
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    pair = [each.clone().requires_grad_() for each in pairs()]
    target = torch.tensor([0.75, 0.5, 1.0, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *each: PAIR_LOSSES[name](*each, target=target), pair)


@EVERY
@pytest.mark.parametrize("target", [1.0, 0.5])
def test_far_from_the_reference_all_stays_finite(name: str, target: float) -> None:
    for ends in itertools.product([-1e4, 0.0, 1e4], repeat=4):
        pair = tuple(torch.tensor([end]) for end in ends)
        found = PAIR_LOSSES[name](*pair, target=target)
        assert found.isfinite().all(), ends
        assert all(slope.isfinite().all() for slope in slopes(PAIR_LOSSES[name], pair, target=target)), ends


@EVERY
def test_single_precision_is_enough(name: str) -> None:
    loss = PAIR_LOSSES[name]
    assert loss(*pairs(torch.float32)).dtype == torch.float32
    torch.testing.assert_close(loss(*pairs(torch.float32)).double(), loss(*pairs()), rtol=1e-5, atol=1e-6)
    found = slopes(loss, pairs(torch.float32))
    for one, other in zip(found, slopes(loss, pairs())):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


@EVERY
def test_a_pair_alone_is_what_it_is_in_a_batch(name: str) -> None:
    whole = PAIR_LOSSES[name](*pairs())
    assert whole.shape == (4,)
    first = PAIR_LOSSES[name](*(each[:1] for each in pairs()))
    torch.testing.assert_close(first, whole[:1])


@EVERY
def test_wrong_shapes_and_targets_are_refused(name: str) -> None:
    loss, pair = PAIR_LOSSES[name], pairs()
    with pytest.raises(ValueError, match=r"found 1\.5"):
        loss(*pair, target=1.5)
    with pytest.raises(ValueError, match=r"target \[4, 1\]"):
        loss(*pair, target=torch.ones(4, 1))
    for side in range(4):
        wrong = [each[:, None] if index == side else each for index, each in enumerate(pair)]
        with pytest.raises(ValueError, match="expected tensors of one shape"):
            loss(*wrong)
    with pytest.raises(ValueError, match="expected tensors of one shape"):
        loss(pair[0][:, None], pair[1], pair[2][:, None], pair[3])


# ------------------------------------------------------------------------------------- one by one


def log_chance(h: float) -> float:
    return -math.log(1 + math.exp(-h))


def row(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)


def test_rewards_of_a_pair_by_hand() -> None:
    better, worse = pair_rewards(*row(-4, -5, -6, -4.5), beta=0.4)
    assert (better.item(), worse.item()) == pytest.approx((0.8, -0.2))


def test_a_margin_asks_for_more() -> None:
    loss = dpo_loss(*row(-4, -5, -6, -4.5), beta=0.4, margin=torch.tensor([0.25]).double())  # h = 1
    assert loss.item() == pytest.approx(-log_chance(0.75))


def test_smoothed_dpo_stops_where_its_chance_is_one_minus_epsilon() -> None:
    h = math.log(0.9 / 0.1) / BETA
    better, _ = slopes(OF_DIFFERENCES["dpo smoothed"], row(h, 0, 0, 0))
    assert better.item() == pytest.approx(0, abs=1e-15)


def test_robust_dpo_is_unbiased_under_flips() -> None:
    right = robust_dpo_loss(*pairs(), beta=BETA, flip_rate=0.2)
    wrong = robust_dpo_loss(*exchanged(pairs()), beta=BETA, flip_rate=0.2)
    torch.testing.assert_close(0.8 * right + 0.2 * wrong, dpo_loss(*pairs(), beta=BETA))


def test_hinge_is_done_with_a_pair_that_is_far_enough() -> None:
    better, worse = slopes(OF_DIFFERENCES["hinge"], row(1 / BETA + 0.01, 0, 0, 0))
    assert (better.item(), worse.item()) == (0, 0)
    better, _ = slopes(OF_DIFFERENCES["hinge"], row(1 / BETA - 0.01, 0, 0, 0))
    assert better.item() == pytest.approx(-BETA)


@pytest.mark.parametrize("target", [1.0, 0.75, 0.5])
def test_ipo_is_smallest_at_its_place(target: float) -> None:
    place = (2 * target - 1) / (2 * BETA)
    better, _ = slopes(OF_DIFFERENCES["ipo"], row(place, 0, 0, 0), target=target)
    assert better.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("target", [1.0, 0.75, 0.5])
def test_exo_is_zero_where_the_policy_chooses_as_the_labels_do(target: float) -> None:
    chance = 0.9 * target + 0.1 * (1 - target)
    pair = row(math.log(chance / (1 - chance)) / BETA, 0, 0, 0)
    assert OF_DIFFERENCES["exo"](*pair, target=target).item() == pytest.approx(0, abs=1e-12)


def test_exo_by_hand_is_the_kl_from_the_policy() -> None:
    q, p = math.exp(log_chance(BETA * 2.5)), 0.9
    expected = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert OF_DIFFERENCES["exo"](*row(-4, -5, -6, -4.5)).item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, -0.1])
def test_exo_refuses_certain_labels(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing within"):
        exo_loss(*pairs(), beta=BETA, label_smoothing=smoothing)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_discopop_refuses_a_temperature_outside_its_range(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected temperature"):
        discopop_loss(*pairs(), beta=BETA, temperature=temperature)


def test_nca_draws_the_better_response_to_log_two() -> None:
    better, _ = slopes(PAIR_LOSSES["nca"], row(LN2 / BETA, 0, 0, 0))
    assert better.item() == pytest.approx(0, abs=1e-15)


def test_apo_down_lets_both_fall() -> None:
    better, worse = slopes(PAIR_LOSSES["apo down"], row(1, -1, 0, 0))  # once they are apart
    assert better.item() > 0
    assert worse.item() > 0


@pytest.mark.parametrize("target", [1.0, 0.75])
def test_sppo_leads_each_response_to_its_own_place(target: float) -> None:
    place = (target - 0.5) / BETA
    assert PAIR_LOSSES["sppo"](*row(place, -place, 0, 0), target=target).item() == pytest.approx(0, abs=1e-20)


def test_bco_moves_its_threshold() -> None:
    loss = bco_loss(*row(1, -0.5, 0, 0), beta=1.0, shift=torch.tensor(0.25, requires_grad=True))
    assert loss.item() == pytest.approx(-log_chance(0.75) - log_chance(0.75))
    assert not loss.requires_grad
    with pytest.raises(ValueError, match=r"shift, a scalar, found shape \[1\]"):
        bco_loss(*row(1, 0, 0, 0), beta=1.0, shift=torch.zeros(1))


def test_apo_zero_is_kto_at_zero_on_both_responses() -> None:
    torch.testing.assert_close(PAIR_LOSSES["apo zero"](*pairs()), 2 * PAIR_LOSSES["kto"](*pairs()))

"""What is collected of an evaluation, on one process and on two that have unequal shares."""

from dataclasses import fields

import pytest
import torch

from lit_rlhf.metrics import (
    CalibrationError,
    Judged,
    JudgedComparisons,
    KendallTau,
    LengthCorrelation,
    PreferenceLogLoss,
    TopOne,
)
from lit_rlhf.records import Comparison
from tests.distributed import run_distributed
from tests.metrics.judging import pack, plant

TREES = [
    plant([2, 3], [Comparison(1, 0, 0.75, tie=0.5)]),
    plant([4, 1, 6], [Comparison(0, 1), Comparison(2, 1), Comparison(2, 0)], [2.0, 3.0, 1.0]),
    plant([7], []),
    plant([5, 9], [Comparison(0, 1)], [1.0, 2.0]),
]
SCORES = torch.tensor([0.1, 0.2, 1.0, 1.1, 1.2, 2.0, 3.0, 3.5])
PROBABILITY = torch.tensor([0.6, 0.3, 0.7, 0.9, 0.2])
DISAGREEMENT = torch.arange(8) / 8
RESPONSES, COMPARISONS = [2, 3, 1, 2], [1, 3, 0, 1]


def update(metric: JudgedComparisons, places: list[int]) -> None:
    """A batch of some of the trees, which are the rows 10, 11, … of their data set."""
    responses = [split for place in places for split in torch.arange(8).split(RESPONSES)[place].tolist()]
    comparisons = [split for place in places for split in torch.arange(5).split(COMPARISONS)[place].tolist()]
    batch = pack([TREES[place] for place in places], [10 + place for place in places])
    metric.update(batch, SCORES[responses], PROBABILITY[comparisons], DISAGREEMENT[responses])


def as_lists(judged: Judged) -> dict[str, list[float]]:
    return {field.name: getattr(judged, field.name).tolist() for field in fields(judged)}


EXPECTED = {
    "row": [10, 11, 11, 11, 13],
    "better": [1, 0, 2, 2, 0],
    "worse": [0, 1, 1, 0, 1],
    "better_scores": [0.2, 1.0, 1.2, 1.2, 3.0],
    "worse_scores": [0.1, 1.1, 1.1, 1.0, 3.5],
    "probability": [0.6, 0.3, 0.7, 0.9, 0.2],
    "target": [0.75, 1, 1, 1, 1],
    "tie": [0.5, 0, 0, 0, 0],
    "better_lengths": [3, 4, 6, 6, 5],
    "worse_lengths": [2, 1, 1, 4, 9],
    "response_row": [10, 10, 11, 11, 11, 12, 13, 13],
    "response": [0, 1, 0, 1, 2, 0, 0, 1],
    "scores": SCORES.tolist(),
    "ranks": [pytest.approx(float("nan"), nan_ok=True)] * 2
    + [2, 3, 1, pytest.approx(float("nan"), nan_ok=True), 1, 2],
    "lengths": [2, 3, 4, 1, 6, 7, 5, 9],
    "disagreement": DISAGREEMENT.tolist(),
}


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[0, 1], [2, 3]]])
def test_everything_is_kept_in_its_order(batches: list[list[int]]) -> None:
    metric = JudgedComparisons()
    for places in batches:
        update(metric, places)
    found = as_lists(metric.compute())
    for name, expected in EXPECTED.items():
        close = expected if name == "ranks" else pytest.approx(expected)
        assert found[name] == close, name
    assert set(found) == set(EXPECTED)


@pytest.mark.parametrize("place", [0, 2])
def test_a_single_comparison_is_still_a_list_of_one(place: int) -> None:
    metric = JudgedComparisons()
    update(metric, [place])
    for _ in range(2):  # the second time from the cache
        judged = metric.compute()
        assert judged.target.shape == (COMPARISONS[place],)
        assert judged.scores.shape == (RESPONSES[place],)


def test_a_new_epoch_starts_empty() -> None:
    metric = JudgedComparisons()
    update(metric, [0, 1, 2, 3])
    metric.compute()
    metric.reset()
    update(metric, [3])
    assert metric.compute().row.tolist() == [13]


def test_half_precision_and_gradients_stay_outside() -> None:
    metric = JudgedComparisons()
    scores = SCORES[:2].bfloat16().requires_grad_()
    metric.update(pack([TREES[0]], [0]), scores, PROBABILITY[:1], DISAGREEMENT[:2])
    judged = metric.compute()
    assert judged.scores.dtype == torch.float32
    assert not judged.scores.requires_grad


def test_another_shape_is_refused() -> None:
    batch = pack([TREES[0]], [0])
    with pytest.raises(ValueError, match=r"scores \[3\]"):
        JudgedComparisons().update(batch, SCORES[:3], PROBABILITY[:1], DISAGREEMENT[:2])
    with pytest.raises(ValueError, match=r"probability \[2\]"):
        JudgedComparisons().update(batch, SCORES[:2], PROBABILITY[:2], DISAGREEMENT[:2])


def _on_a_rank() -> tuple[dict[str, list[float]], list[float]]:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    metric = JudgedComparisons()
    for places in ([[0, 1]], [[2], [3]])[rank]:
        update(metric, places)
    ranks = torch.tensor([float("nan")] * 2 + [2.0, 3.0, 1.0, float("nan"), 1.0, 2.0])
    tree_index = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    lengths = torch.tensor(EXPECTED["lengths"])
    targets = torch.tensor([0.75, 1.0, 1.0, 1.0, 1.0])
    responses, comparisons = (slice(0, 5), slice(0, 4)) if rank == 0 else (slice(5, 8), slice(4, 5))
    scalars = []
    for of_responses in (KendallTau(), TopOne()):
        of_responses.update(SCORES[responses], ranks[responses], tree_index[responses])
        scalars.append(of_responses.compute().item())
    length = LengthCorrelation()
    length.update(SCORES[responses], lengths[responses], tree_index[responses])
    scalars.append(length.compute().item())
    for of_comparisons in (PreferenceLogLoss(), CalibrationError()):
        of_comparisons.update(PROBABILITY[comparisons], targets[comparisons])
        scalars.append(of_comparisons.compute().item())
    found = as_lists(metric.compute())
    torch.distributed.destroy_process_group()
    return found, scalars


def test_two_ranks_see_what_one_would() -> None:
    one = JudgedComparisons()
    update(one, [0, 1, 2, 3])
    expected = as_lists(one.compute())
    log_loss = -sum(
        (
            0.75 * torch.tensor(0.6).log() + 0.25 * torch.tensor(0.4).log(),
            *torch.tensor([0.3, 0.7, 0.9, 0.2]).log(),
        )
    )
    # centred lengths and scores: (∓.5, ∓.05), (1/3, -8/3, 7/3 with -.1, 0, .1), 0, (∓2, ∓.25)
    products, lengths, scores = 0.05 + 0.2 + 1.0, 0.5 + 114 / 9 + 8, 0.005 + 0.02 + 0.125
    # right, confidence: .75/.6; 0/.7 and 1/.7 in one bin; 1/.9; 0/.8
    error = (0.15 + abs(1 - 1.4) + 0.1 + 0.8) / 5
    for found, (tau, top1, correlation, nats, ece) in run_distributed(_on_a_rank, 2):
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, nan_ok=True), name
        assert tau == pytest.approx((1 / 3 - 1) / 2)
        assert top1 == pytest.approx(1 / 2)
        assert correlation == pytest.approx(products / (lengths * scores) ** 0.5, rel=1e-5)
        assert nats == pytest.approx(log_loss.item() / 5)
        assert ece == pytest.approx(error, rel=1e-5)

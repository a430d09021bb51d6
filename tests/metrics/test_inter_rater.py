"""Coefficients of agreement: published worked examples, other tools' numbers, and what they are undefined for."""

import math

import pytest
import torch
from torchmetrics.functional import cohen_kappa as torchmetrics_cohen_kappa
from torchmetrics.functional.nominal import fleiss_kappa as torchmetrics_fleiss_kappa

from lit_rlhf.metrics.inter_rater import (
    alpha_of_coincidences,
    cohen_kappa_of_confusion,
    coincidences_of_items,
    count_answers,
    fleiss_kappa_of_sums,
    kendall_tau_b,
    kendall_w,
    shares_of_equal_pairs,
)

KRIPPENDORFF_2011 = [  # four observers of twelve units, five values; section C of the paper
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""  # thirty patients, each put by six psychiatrists in one of five groups: table 1 of the paper
ANXIETY = [  # three raters of twenty subjects, from R's irr; kendall(anxiety, TRUE) is 0.5396569
    [3, 3, 3, 4, 5, 5, 2, 3, 5, 2, 2, 6, 1, 5, 2, 2, 1, 2, 4, 3],
    [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4],
    [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2],
]
COHEN_1960 = torch.tensor([[44.0, 7, 9], [5, 20, 5], [1, 3, 6]])
"""Two clinical psychologists: personality disorder, neurosis, psychosis, in percent; κ = 0.492."""


def krippendorff_counts() -> torch.Tensor:
    said = [(unit, value - 1) for row in KRIPPENDORFF_2011 for unit, value in enumerate(row) if value]
    unit, answer = torch.tensor(said).T
    return count_answers(unit, answer, 12, 5)


def fleiss_sums(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return shares_of_equal_pairs(counts).sum(), torch.tensor(float(len(counts))), counts.sum(0)


def centred(rows: list[list[int]]) -> torch.Tensor:
    """Ranks of each row, ties sharing the mean of their places, less the mean rank."""
    values = torch.tensor(rows, dtype=torch.float64)
    above = (values[:, :, None] > values[:, None, :]).sum(2)
    below = (values[:, :, None] < values[:, None, :]).sum(2)
    return (above - below).double() / 2


@pytest.mark.parametrize(("distance", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_reliability_data(distance, alpha) -> None:
    coincidences = coincidences_of_items(krippendorff_counts()[:, None]).sum(0)
    # the paper's margins: unit 12 has one value, which pairs with nothing
    assert coincidences.sum() == pytest.approx(40)
    assert coincidences.sum(1).tolist() == pytest.approx([9, 13, 10, 5, 3])
    found = alpha_of_coincidences(coincidences, distance, range(1, 6))
    assert found.item() == pytest.approx(alpha, abs=5e-4)


def test_units_of_an_item_are_added_up() -> None:
    counts = krippendorff_counts()
    as_one_item = coincidences_of_items(counts[None])
    assert torch.allclose(as_one_item[0], coincidences_of_items(counts[:, None]).sum(0))


def test_alpha_takes_many_tables_at_once() -> None:
    first = coincidences_of_items(krippendorff_counts()[:, None]).sum(0)
    second = torch.eye(5) * 3
    for distance in ("nominal", "ordinal", "interval"):
        both = alpha_of_coincidences(torch.stack([first, second.double()]), distance, range(1, 6))
        assert both[0] == alpha_of_coincidences(first, distance, range(1, 6))
        assert both[1] == 1


def test_ordinal_alpha_does_not_hang_on_the_direction_and_ignores_answers_that_nobody_gave() -> None:
    counts = krippendorff_counts()
    upwards = alpha_of_coincidences(coincidences_of_items(counts[None])[0], "ordinal")
    downwards = alpha_of_coincidences(coincidences_of_items(counts.flip(1)[None])[0], "ordinal")
    with_gap = torch.cat([counts[:, :2], torch.zeros(12, 1), counts[:, 2:]], 1)
    assert downwards.item() == pytest.approx(upwards.item())
    assert alpha_of_coincidences(coincidences_of_items(with_gap[None])[0], "ordinal").item() == pytest.approx(
        upwards.item()
    )


def test_cohens_kappa_of_the_published_table() -> None:
    assert cohen_kappa_of_confusion(COHEN_1960).item() == pytest.approx(0.492, abs=5e-4)


def test_cohens_kappa_is_that_of_torchmetrics_for_either_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(5, (2, 200), generator=generator)
    second = torch.where(torch.rand(200, generator=generator) < 0.5, first, second)
    confusion = count_answers(first, second, 5, 5)
    for ours, theirs in [("equal", None), ("quadratic", "quadratic")]:
        expected = torchmetrics_cohen_kappa(
            second, first, task="multiclass", num_classes=5, weights=theirs
        ).item()
        assert cohen_kappa_of_confusion(confusion, ours).item() == pytest.approx(expected, abs=1e-6)
    assert cohen_kappa_of_confusion(torch.stack([confusion, confusion.T])).shape == (2,)


def test_fleiss_kappa_of_the_published_diagnoses() -> None:
    counts = torch.tensor([[float(count) for count in row] for row in FLEISS_1971.split()])
    assert counts.sum(0).tolist() == [26, 26, 30, 55, 43]
    kappa = fleiss_kappa_of_sums(*fleiss_sums(counts)).item()
    assert kappa == pytest.approx(0.430, abs=5e-4)
    expected = torchmetrics_fleiss_kappa(counts.long(), mode="counts").item()
    assert kappa == pytest.approx(expected, abs=1e-5)


def test_kendalls_w_with_ties_is_that_of_irr() -> None:
    found = kendall_w(centred(ANXIETY), torch.zeros(3, dtype=torch.long), 1)
    assert found.item() == pytest.approx(0.5396569, abs=5e-8)


def test_kendalls_w_of_three_competitors_and_four_judges_is_a_sixteenth() -> None:
    ranks = [
        [1, 3, 2],
        [1, 2, 3],
        [2, 3, 1],
        [3, 1, 2],
    ]  # ProofWiki, after Nelson's Dictionary of Mathematics
    assert kendall_w(centred(ranks), torch.zeros(4, dtype=torch.long), 1).item() == pytest.approx(1 / 16)


def test_kendalls_w_of_several_items_with_places_that_some_lack() -> None:
    # the same three as above, with an empty place, between two judges who agree on an item of four
    ranks = torch.zeros(6, 4, dtype=torch.float64)
    ranks[[0, 2, 3, 5], :3] = centred([[1, 3, 2], [1, 2, 3], [2, 3, 1], [3, 1, 2]])
    ranks[[1, 4]] = centred([[4, 3, 2, 1], [4, 3, 2, 1]])
    assert kendall_w(ranks, torch.tensor([2, 0, 2, 2, 0, 2]), 3).nan_to_num(-1).tolist() == pytest.approx(
        [1, -1, 1 / 16]
    )


def test_kendalls_tau_b_with_ties() -> None:
    # scipy.stats.kendalltau([1, 1, 3, 3], [1, 2, 3, 4]) and ([1, 2, 2, 2], [2, 1, 1, 1])
    columns = torch.combinations(torch.arange(4)).T
    rankings = torch.tensor([[1, 1, 3, 3], [1, 2, 3, 4], [1, 2, 2, 2], [2, 1, 1, 1], [1, 2, 3, 4]])
    signs = (rankings[:, columns[1]] - rankings[:, columns[0]]).sign()
    found = kendall_tau_b(signs[[0, 2, 3]], signs[[1, 3, 4]])
    assert found.tolist() == pytest.approx([0.8164965809277261, -1.0, -0.7071067811865477])


def test_what_is_undefined_is_not_a_number() -> None:
    nothing, one_answer = torch.zeros(3, 3), torch.diag(torch.tensor([6.0, 0, 0]))
    for table in (nothing, one_answer):
        assert alpha_of_coincidences(table, "nominal").isnan()
        assert alpha_of_coincidences(table, "ordinal").isnan()
        assert cohen_kappa_of_confusion(table).isnan()
    assert fleiss_kappa_of_sums(*fleiss_sums(torch.tensor([[2.0, 0.0], [2.0, 0.0]]))).isnan()
    assert fleiss_kappa_of_sums(torch.tensor(0.0), torch.tensor(0.0), torch.zeros(2)).isnan()
    alone_and_tied = torch.tensor([[-1.0, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert kendall_w(alone_and_tied, torch.tensor([0, 1, 1]), 3).isnan().tolist() == [True] * 3
    assert kendall_tau_b(torch.tensor([1.0, 1]), torch.tensor([0.0, 0])).isnan()
    assert [math.isnan(share) for share in shares_of_equal_pairs(torch.tensor([[1.0, 0], [1, 1]]))] == [
        True,
        False,
    ]


def test_a_unit_with_one_judgement_is_in_no_coincidence() -> None:
    counts = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    assert coincidences_of_items(counts).tolist() == [[[0, 1], [1, 0]]]

"""Agreement: published examples, and simulated annotators of known reliability."""

import random

import pytest
import torch

from lit_rlhf.metrics.agreement import (
    count_votes,
    describe_agreement,
    fleiss_kappa,
    krippendorff_alpha,
    leave_one_out,
    leave_out,
    pairwise_agreement,
    vote_shares,
)
from lit_rlhf.records import Vote

KRIPPENDORFF_2011 = [  # four observers of twelve units, five values; section C of the paper
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
FLEISS_14_RATERS = torch.tensor(  # ten subjects, five categories; κ = 0.210 and mean agreement 0.378
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)


def votes_of(*rows: str) -> list[list[Vote]]:
    """Rows such as ``"ab="``: the first vote is for a, the second for b, the third is a tie."""
    choice = {"a": 1.0, "b": 0.0, "=": 0.5}
    return [[Vote(f"person {place}", choice[letter]) for place, letter in enumerate(row)] for row in rows]


def simulate(
    right: float, ties: float = 0.0, rows: int = 3000, voters: int = 5, seed: int = 0
) -> list[list[Vote]]:
    """Sides at random; each annotator calls a tie at times, and else finds the better side with probability `right`."""
    draw = random.Random(seed)
    found = []
    for _ in range(rows):
        truth = draw.random() < 0.5
        letters = [
            "=" if draw.random() < ties else "ab"[(draw.random() < right) != truth] for _ in range(voters)
        ]
        found += votes_of("".join(letters))
    return found


def test_alpha_is_the_published_one_with_missing_values() -> None:
    counts = torch.zeros(12, 5)
    for observer in KRIPPENDORFF_2011:
        for unit, value in enumerate(observer):
            if value is not None:
                counts[unit, value - 1] += 1
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(counts, "interval", values=range(1, 6)) == pytest.approx(0.849, abs=5e-4)


def test_alpha_by_hand() -> None:
    # two rows, aa and ab: 4 votes, 3 for a; D_o = 2 of 4, D_e = 2·3·1 / (4·3)
    assert krippendorff_alpha(count_votes(votes_of("aa", "ab"))) == pytest.approx(0)
    # a= is as far apart as ab for the nominal one, and a quarter as far for the other
    counts = count_votes(votes_of("aa", "bb", "a="))
    nominal = 1 - 5 * 2 / (2 * (3 * 2 + 3 * 1 + 2 * 1))
    interval = 1 - 5 * (2 / 4) / (2 * (3 * 2 + 3 / 4 + 2 / 4))
    assert krippendorff_alpha(counts) == pytest.approx(nominal)
    assert krippendorff_alpha(counts, "interval") == pytest.approx(interval)


def test_annotators_by_chance_have_no_alpha_and_reliable_ones_a_known_one() -> None:
    assert krippendorff_alpha(count_votes(simulate(0.5))) == pytest.approx(0, abs=0.02)
    for distance in ("nominal", "interval"):
        # two agree with probability c² + (1 - c)², by chance 1/2: α = (2c - 1)²
        assert krippendorff_alpha(count_votes(simulate(0.9)), distance) == pytest.approx(0.64, abs=0.02)
    with_ties = count_votes(simulate(0.9, ties=0.2))
    # nominal: D_o = 1 - (0.64·0.82 + 0.04), D_e = 1 - (2·0.16 + 0.04)
    assert krippendorff_alpha(with_ties) == pytest.approx(1 - (1 - 0.5648) / (1 - 0.36), abs=0.02)
    # interval: expected squared distance 0.64·0.18 + 0.32/4, by chance 0.64/2 + 0.32/4
    assert krippendorff_alpha(with_ties, "interval") == pytest.approx(1 - 0.1952 / 0.4, abs=0.02)


def test_alpha_needs_two_votes_and_two_answers() -> None:
    assert krippendorff_alpha(count_votes(votes_of("a", "b"))) is None
    assert krippendorff_alpha(count_votes(votes_of("aa", "aaa"))) is None
    assert krippendorff_alpha(count_votes([])) is None
    # a row with one vote pairs with nothing, and is not in the margins either
    assert krippendorff_alpha(count_votes(votes_of("aa", "bb", "ab", "a", "a"))) == krippendorff_alpha(
        count_votes(votes_of("aa", "bb", "ab"))
    )


def test_kappa_and_pairwise_agreement_are_the_published_ones() -> None:
    found = fleiss_kappa(FLEISS_14_RATERS)
    assert found is not None
    assert found.kappa == pytest.approx(0.210, abs=5e-4)
    assert (found.rows, found.votes) == (10, 14)
    assert pairwise_agreement(FLEISS_14_RATERS) == pytest.approx(0.378, abs=5e-4)


def test_kappa_takes_the_rows_with_the_most_common_number_of_votes() -> None:
    # aa, bb and ab of 6 votes: observed 2/3, by chance 1/2
    found = fleiss_kappa(count_votes(votes_of("aa", "bbb", "ab", "bb", "a", "a", "a", "a")))
    assert found is not None
    assert (found.rows, found.votes) == (3, 2)
    assert found.kappa == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2), abs=1e-4)
    of_two = fleiss_kappa(count_votes(votes_of("ab", "aab")))
    assert of_two is not None
    assert of_two.votes == 3
    assert fleiss_kappa(count_votes(votes_of("aa", "aa"))) is None
    assert fleiss_kappa(count_votes(votes_of("a", "b"))) is None


def test_pairwise_agreement_is_a_mean_of_rows() -> None:
    assert pairwise_agreement(count_votes(votes_of("aaab", "bb", "a"))) == pytest.approx((1 / 2 + 1) / 2)
    assert pairwise_agreement(count_votes(votes_of("a"))) is None


def test_shares_give_half_a_tie_to_either() -> None:
    assert vote_shares(count_votes(votes_of("a", "b=", "aab=")))[:3].tolist() == [1, 0.25, 2.5 / 4]


def test_an_annotator_is_held_against_the_majority_of_the_others() -> None:
    found = leave_one_out(votes_of("aab", "aa", "a=", "ab", "a"))
    # aab: either a sees one of each and is left out, b sees two. a=: the tie sees an a, the a sees no majority
    assert found.row.tolist() == [0, 1, 1, 2, 3, 3]
    assert found.right().tolist() == [0, 1, 1, 0.5, 0, 0]
    assert found.vote.tolist() == [2, 3, 4, 6, 7, 8]
    of_simulated = leave_one_out(simulate(0.8, voters=4)).right()
    # of three others the majority is right with probability 0.8³ + 3·0.8²·0.2
    most = 0.8**3 + 3 * 0.8**2 * 0.2
    assert of_simulated.mean().item() == pytest.approx(0.8 * most + 0.2 * (1 - most), abs=0.01)


def test_who_is_not_counted_is_held_against_the_others_and_leads_nobody() -> None:
    # a, a and a program's b; then a and the program's a
    row, choice = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    found = leave_out(row, choice, torch.tensor([True, True, False, True, False]))
    assert found.vote.tolist() == [0, 1, 2, 4]
    assert found.right().tolist() == [1, 1, 0, 1]
    assert leave_out(row[:0], choice[:0]).vote.tolist() == []


def test_another_choice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 1: expected a choice of 1, 0 or 0\.5, found 0\.7"):
        count_votes([[], [Vote("ann", 0.7)]])


def test_description_of_votes() -> None:
    lines = describe_agreement(votes_of("aab", "bb", "", "a=", "a"))
    assert lines[0] == "votes: 8 by 3 annotators on 4 rows, 2.0 a row (1 to 3), 12.5% ties"
    assert lines[1] == "  rows with a single vote, which say nothing of agreement: 1"
    # pairs that agree: 1/3, 1, 0
    assert lines[2].startswith("  two annotators of a row agree in 44.4%; Krippendorff's α ")
    assert "with a tie half way" in lines[2]
    assert "(2 rows of 2 votes)" in lines[2]
    # b of aab: wrong; bb: right twice; = beside a: half
    assert lines[3] == "  an annotator sides with the majority of the others in 62.5%"
    assert "agrees with 80.6% of a row's votes" in lines[4]  # 2/3, 1, 3/4


def test_description_without_ties_without_names_and_without_agreement_to_speak_of() -> None:
    unnamed = [[Vote("", 1.0), Vote("", 1.0)], [Vote("", 1.0), Vote("", 1.0)]]
    lines = describe_agreement(unnamed)
    assert lines[0].startswith("votes: 4 by annotators without names on 2 rows")
    assert "α undefined (all votes are one answer); Fleiss' κ undefined" in lines[1]
    assert "tie half way" not in lines[1]
    some = [[Vote("ann", 1.0), Vote("", 1.0)], [Vote("", 0.0), Vote("bob", 1.0), Vote("ann", 0.0)]]
    assert describe_agreement(some)[0].startswith("votes: 5 by 2 annotators and 2 without a name on 2 rows")
    assert describe_agreement(votes_of("a", "b"))[1:] == [
        "  no row has two votes: how far people agree is not known"
    ]
    assert describe_agreement([[], []]) == describe_agreement([]) == []

import pytest

from benchmarks.baselines import bag_of_words, longer_wins


def pair(chosen, rejected):
    return {"prompt": "p", "chosen": chosen, "rejected": rejected}


def test_longer_wins_counts_characters_and_splits_ties():
    assert longer_wins([pair("long", "no"), pair("a", "longer"), pair("ab", "cd")]) == [1.0, 0.0, 0.5]


def test_bag_of_words_learns_a_word_whatever_the_length():
    pytest.importorskip("sklearn")
    fillers = ["one two three", "four", "five six", "seven eight nine ten"]
    pairs = [pair(f"good {a}", f"bad {b}") for a in fillers for b in fillers]
    held_out = [pair("a good thing", "a bad thing"), pair("bad", "good"), pair("unknown", "stranger")]
    assert bag_of_words(pairs, pairs, held_out) == [1.0, 0.0, 0.5]

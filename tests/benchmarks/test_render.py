from benchmarks.render import curve, interval, reward

ACCURACY = {"mean": 0.5, "low": 0.25, "high": 0.75, "unit": "row", "count": 8}


def test_numbers_are_written_with_their_interval_and_differences_with_their_sign():
    assert interval(ACCURACY) == "0.500 [0.250, 0.750]"
    assert interval({"mean": 0.1, "low": -0.05, "high": 0.25}, sign=True) == "+0.100 [-0.050, +0.250]"


def test_steps_are_counted_from_one():
    assert curve([(49, 0.123), (99, 0.4)], 2) == "50: 0.12, 100: 0.40"


def test_the_reward_table_says_what_was_resampled():
    found = dict.fromkeys(
        ("accuracy", "longer_wins", "bag_of_words", "minus_longer_wins", "minus_bag_of_words"), ACCURACY
    )
    page = reward({"some_pairs": {**found, "pairs": 8, "development_accuracy": [(9, 0.625)]}})
    assert "| some_pairs | 8 | row (8) | 0.500 [0.250, 0.750] |" in page
    assert "- some_pairs: 10: 0.625" in page

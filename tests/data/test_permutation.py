"""Orders of which any part can be computed alone."""

from __future__ import annotations

import numpy as np
import pytest

from lit_rlhf.data.streaming.permutation import draw_key, draw_keys, permute


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_every_place_comes_once(count: int) -> None:
    assert sorted(permute(np.arange(count), count, draw_key(3, 1)).tolist()) == list(range(count))


def test_a_part_of_the_order_is_that_part_of_the_whole() -> None:
    whole = permute(np.arange(1000), 1000, draw_key(0, 0))
    assert permute(np.arange(400, 410), 1000, draw_key(0, 0)).tolist() == whole[400:410].tolist()


def test_seed_and_epoch_decide_the_order() -> None:
    orders = {
        tuple(permute(np.arange(50), 50, draw_key(seed, epoch)).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert tuple(range(50)) not in orders


def test_a_key_a_place_is_an_order_a_place() -> None:
    keys = draw_keys(7, np.arange(20))
    together = permute(np.arange(20) % 6, 6, keys).tolist()
    alone = [permute(np.array([k % 6]), 6, int(key)).tolist()[0] for k, key in enumerate(keys)]
    assert together == alone


@pytest.mark.parametrize("count", [5, 6, 17])
def test_every_value_is_as_likely_at_a_place(count: int) -> None:
    drawn = permute(np.full(60_000, 3), count, draw_keys(9, np.arange(60_000)))
    expected = 60_000 / count
    # five standard deviations of a count
    assert np.abs(np.bincount(drawn, minlength=count) - expected).max() < 5 * expected**0.5

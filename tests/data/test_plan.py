"""Plans of epochs: every tree once, even batches within the budget, equal shares, reproducible."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data import plan as plan_module
from lit_rlhf.data.plan import EpochPlan

SIZES = st.lists(st.integers(1, 60), min_size=4, max_size=80)
WORLDS = st.integers(1, 4)


def flat(shares: list[list[list[int]]]) -> list[int]:
    return [index for batches in shares for batch in batches for index in batch]


def tokens(batch: list[int], sizes: list[int]) -> int:
    return sum(sizes[index] for index in batch)


def lognormal(count: int, seed: int = 0) -> list[int]:
    """Lengths with a mean of about 150 and a long tail, at most 512."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.exp(torch.randn(count, generator=generator) * 0.8 + 4.755)
    return drawn.round().clamp(4, 512).long().tolist()


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES,
    room=st.integers(0, 200),
    world=WORLDS,
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_under_a_budget_every_tree_comes_once_in_as_many_batches_on_every_rank(
    sizes: list[int], room: int, world: int, seed: int, epoch: int, shuffle: bool
) -> None:
    budget = max(sizes) + room
    plan = EpochPlan(sizes, max_tokens=budget, seed=seed, shuffle=shuffle, world_size=world)
    shares = plan.shares(epoch)
    assert [len(batches) for batches in shares] == [plan.num_batches] * world
    assert all(batch for batches in shares for batch in batches)
    over = [batch for batches in shares for batch in batches if tokens(batch, sizes) > budget]
    # validation leaves nothing out: single trees that the ranks cannot share evenly are joined instead
    assert not over or (not shuffle and len(sizes) % world != 0 and plan.num_left_out == 0)
    assert max(Counter(flat(shares)).values()) == 1
    assert len(flat(shares)) == len(sizes) - plan.num_left_out
    assert plan.num_left_out < world
    assert (
        EpochPlan(sizes, None, budget, seed=seed, shuffle=shuffle, world_size=world).shares(epoch) == shares
    )


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES, batch_size=st.integers(4, 20), world=WORLDS, epoch=st.integers(0, 5), shuffle=st.booleans()
)
def test_global_batches_of_prompts_are_the_same_for_any_number_of_ranks(
    sizes: list[int], batch_size: int, world: int, epoch: int, shuffle: bool
) -> None:
    one = EpochPlan(sizes, batch_size, shuffle=shuffle).shares(epoch)[0]
    plan = EpochPlan(sizes, batch_size, shuffle=shuffle, world_size=world)
    shares = plan.shares(epoch)
    assert sorted(flat(shares)) == list(range(len(sizes)))
    if len(one) > 1 and len(one[-1]) < world:
        one[-2:] = [one[-2] + one[-1]]
    assert [len(batches) for batches in shares] == [len(one)] * world
    for batch, *parts in zip(one, *shares, strict=True):
        assert sorted(index for part in parts for index in part) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        # each part in the batch's order
        assert all(sorted(part, key=batch.index) == part for part in parts)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 500), min_size=8, max_size=64), world=st.sampled_from([2, 4]))
def test_ranks_of_a_step_differ_by_one_tree_at_the_most(sizes: list[int], world: int) -> None:
    """In full rounds the greedy rule bounds the difference by the longest tree."""
    whole = sizes[: len(sizes) // world * world]
    shares = EpochPlan(whole, batch_size=len(whole), world_size=world).shares(0)
    loads = [tokens(batches[0], whole) for batches in shares]
    assert max(loads) - min(loads) <= max(whole)


def test_ranks_of_a_step_have_about_as_many_tokens() -> None:
    """Dealt out in turn, the slowest of eight ranks has 1.43 times the mean."""
    sizes = lognormal(6400)
    shares = EpochPlan(sizes, batch_size=64, world_size=8).shares(0)
    slowest = sum(max(tokens(part, sizes) for part in step) for step in zip(*shares, strict=True))
    assert slowest * 8 / sum(sizes) < 1.04


def test_rounds_of_longest_first_by_hand() -> None:
    # 9 | 8, then 7 to the rank of 8 and 3 to that of 9 (8+7, 9+3), then the last to the rank with fewer tokens
    (one,), (other,) = EpochPlan([3, 9, 1, 8, 7], batch_size=5, shuffle=False, world_size=2).shares(0)
    assert (one, other) == ([0, 1, 2], [3, 4])


def test_nothing_is_left_out_without_shuffle():
    plan = EpochPlan([10, 9, 8, 7, 6], max_tokens=10, world_size=2, shuffle=False)
    assert plan.num_left_out == 0
    shares = plan.shares(0)
    assert [len(batches) for batches in shares] == [2, 2]
    assert sorted(index for batches in shares for batch in batches for index in batch) == [0, 1, 2, 3, 4]
    assert [3, 4] in [batch for batches in shares for batch in batches]  # the shortest two


def test_rows_of_a_small_fraction_are_rare_and_not_left_out_for_good():
    plan = EpochPlan([5] * 7, batch_size=8, weights=[0.1, 0.1, 0.1, 0.1, 2.5, 1.0, 1.0])
    epochs = [[index for batch in plan.shares(epoch)[0] for index in batch] for epoch in range(40)]
    assert all(len(epoch) == 1 + 3 + 2 for epoch in epochs)
    assert {index for epoch in epochs for index in epoch} == set(range(7))


@pytest.mark.parametrize(("budget", "mean_fill", "worst_fill"), [(1024, 0.96, 0.94), (2048, 0.965, 0.955)])
@pytest.mark.parametrize("world", [1, 8])
def test_batches_are_full_and_even(budget: int, mean_fill: float, worst_fill: float, world: int) -> None:
    sizes = lognormal(4000)
    plan = EpochPlan(sizes, max_tokens=budget, world_size=world)
    for epoch in range(2):
        loads = [tokens(batch, sizes) for batches in plan.shares(epoch) for batch in batches]
        assert sum(loads) / len(loads) > mean_fill * budget
        assert min(loads) > worst_fill * budget


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 16), min_size=30, max_size=80), world=st.integers(1, 3))
def test_no_straggler_under_half_of_the_budget(sizes: list[int], world: int) -> None:
    plan = EpochPlan(sizes, max_tokens=64, world_size=world)
    loads = [tokens(batch, sizes) for batches in plan.shares(1) for batch in batches]
    if sum(sizes) > 64 * 2 * world:  # else the data leaves nothing else
        assert min(loads) > 32


def test_lengths_are_mixed_in_every_batch_and_the_epoch_has_no_trend() -> None:
    sizes = lognormal(4000)
    median = sorted(sizes)[2000]
    (batches,) = EpochPlan(sizes, max_tokens=2048).shares(0)
    assert all(min(sizes[i] for i in batch) < median < max(sizes[i] for i in batch) for batch in batches)
    means = [tokens(batch, sizes) / len(batch) for batch in batches]
    half = len(means) // 2
    assert sum(means[:half]) / half == pytest.approx(sum(means[half:]) / (len(means) - half), rel=0.05)


def test_batches_are_made_anew_every_epoch_and_by_every_seed() -> None:
    sizes = lognormal(1000)

    def made(seed: int, epoch: int) -> set[frozenset[int]]:
        (batches,) = EpochPlan(sizes, max_tokens=2048, seed=seed).shares(epoch)
        return {frozenset(batch) for batch in batches}

    assert not made(0, 0) & made(0, 1)
    assert not made(0, 0) & made(1, 0)
    sizes = list(range(50, 450))  # no two are alike, so that chance alone makes other batches
    assert len(made(0, 0) & made(0, 1)) <= 2


def test_an_epoch_that_cannot_be_dealt_anew_takes_the_batches_that_settled_the_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, weights = lognormal(300), [1.5] * 100 + [1.0] * 100 + [0.3] * 100
    plan = EpochPlan(sizes, max_tokens=1024, world_size=2, weights=weights)
    monkeypatch.setattr(plan_module, "_level", lambda *_: None)
    fallback = [plan.shares(epoch) for epoch in range(6)]
    for shares in fallback:
        assert [len(batches) for batches in shares] == [plan.num_batches] * 2
        assert all(batch and tokens(batch, sizes) <= 1024 for batches in shares for batch in batches)
        assert len(flat(shares)) == 150 + 100 + 30
    assert sorted(flat(fallback[0])) != sorted(flat(fallback[1]))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from([0.2, 0.5, 1.0, 1.75, 3.0])), min_size=20, max_size=80
    ),
    size=st.sampled_from([{"batch_size": 7}, {"max_tokens": 60}, {"max_tokens": 200}]),
    shuffle=st.booleans(),
)
def test_weights_say_how_often_a_tree_is_drawn(
    rows: list[tuple[int, float]], size: dict[str, int], shuffle: bool
) -> None:
    sizes, weights = [size for size, _ in rows], [weight for _, weight in rows]
    plan = EpochPlan(sizes, **size, weights=weights, shuffle=shuffle)
    for epoch in range(3):
        (batches,) = plan.shares(epoch)
        times = Counter(flat([batches]))
        assert all(int(weight) <= times[index] <= -int(-weight // 1) for index, weight in enumerate(weights))
        for weight in set(weights):
            members = [index for index in range(len(rows)) if weights[index] == weight]
            drawn = sum(times[index] for index in members)
            # to the nearest, and of a fraction at least one
            assert abs(drawn - weight * len(members)) <= 0.5 or drawn == int(weight) * len(members) + 1
        assert len(batches) == plan.num_batches
        if budget := size.get("max_tokens"):
            assert all(tokens(batch, sizes) <= budget for batch in batches)


@pytest.mark.parametrize("size", [{"batch_size": 8}, {"max_tokens": 900}])
def test_a_fraction_reaches_every_tree_in_time(size: dict[str, int]) -> None:
    """Each as likely as another: of 60 trees at 0.3, in 400 epochs, the rarest and the commonest."""
    plan = EpochPlan(lognormal(60), **size, weights=[0.3] * 60)
    times = Counter(index for epoch in range(400) for index in flat(plan.shares(epoch)))
    assert 80 < min(times[index] for index in range(60)) <= max(times.values()) < 160
    assert len({frozenset(flat(plan.shares(epoch))) for epoch in range(400)}) > 200


def test_of_a_fraction_that_leaves_out_one_tree_each_is_left_out_in_its_turn() -> None:
    plan = EpochPlan(list(range(1, 10)), batch_size=8, weights=[0.9] * 9)
    assert {
        index for epoch in range(80) for index in range(9) if index not in flat(plan.shares(epoch))
    } == set(range(9))


def test_the_fractions_share_hardly_changes_an_epochs_tokens() -> None:
    sizes = lognormal(2000)
    plan = EpochPlan(sizes, max_tokens=4096, weights=[0.1] * 2000)
    totals = [tokens(flat(plan.shares(epoch)), sizes) for epoch in range(10)]
    assert max(totals) - min(totals) < 0.02 * sum(totals) / 10
    assert plan.num_batches * 4096 < 1.2 * sum(totals) / 10


def test_without_shuffle_batches_keep_near_the_order_of_the_file() -> None:
    (batches,) = EpochPlan(lognormal(1000), max_tokens=2048, shuffle=False).shares(3)
    assert all(batch == sorted(batch) for batch in batches)
    # At most eight batches are open at a time, of some 14 trees each: no tree is far from its place.
    places = [index for batch in batches for index in batch]
    assert max(abs(index - place) for place, index in enumerate(places)) < 8 * 20


def test_one_tree_a_batch_where_none_fit_together() -> None:
    shares = EpochPlan([10] * 7, max_tokens=15, world_size=3).shares(0)
    assert [[len(batch) for batch in batches] for batches in shares] == [[1, 1]] * 3
    assert len(set(flat(shares))) == 6

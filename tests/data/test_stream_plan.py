"""Plans that are computed batch by batch: what they share with plans that are written down, and where they begin."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.streaming.plan import StreamPlan

SIZES = st.lists(st.integers(1, 60), min_size=5, max_size=160)
WORLDS = st.integers(1, 5)


def shares(plan: StreamPlan, epoch: int) -> list[list[list[int]]]:
    return [list(plan.batches(epoch, rank)) for rank in range(plan.world_size)]


def flat(batches: list[list[list[int]]]) -> list[int]:
    return [tree for rank in batches for batch in rank for tree in batch]


@settings(max_examples=80, deadline=None)
@given(
    sizes=SIZES,
    room=st.integers(0, 200),
    world=WORLDS,
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    window=st.sampled_from([8, 20, 1000]),
)
def test_under_a_budget_every_tree_comes_once_in_as_many_batches_on_every_rank(
    sizes: list[int], room: int, world: int, seed: int, epoch: int, window: int
) -> None:
    budget = max(sizes) + room
    array = np.array(sizes, dtype=np.int32)
    plan = StreamPlan(array, max_tokens=budget, seed=seed, world_size=world, trees_a_window=window)
    dealt = shares(plan, epoch)
    assert [len(batches) for batches in dealt] == [plan.num_batches] * world
    assert all(batch for batches in dealt for batch in batches)
    assert all(array[batch].sum() <= budget for batches in dealt for batch in batches)
    assert max(Counter(flat(dealt)).values(), default=1) == 1
    assert len(flat(dealt)) == len(sizes) - plan.num_left_out


@settings(max_examples=80, deadline=None)
@given(
    sizes=SIZES, batch_size=st.integers(5, 20), world=WORLDS, epoch=st.integers(0, 5), shuffle=st.booleans()
)
def test_global_batches_of_prompts_are_the_same_for_any_number_of_ranks(
    sizes: list[int], batch_size: int, world: int, epoch: int, shuffle: bool
) -> None:
    array = np.array(sizes, dtype=np.int32)
    (one,) = shares(StreamPlan(array, batch_size, shuffle=shuffle), epoch)
    dealt = shares(StreamPlan(array, batch_size, shuffle=shuffle, world_size=world), epoch)
    assert sorted(flat(dealt)) == list(range(len(sizes)))
    if len(one) > 1 and len(one[-1]) < world:
        one[-2:] = [one[-2] + one[-1]]
    assert [len(batches) for batches in dealt] == [len(one)] * world
    for batch, *parts in zip(one, *dealt, strict=True):
        assert sorted(tree for part in parts for tree in part) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(sorted(part, key=batch.index) == part for part in parts)


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES,
    size=st.sampled_from([{"batch_size": 7}, {"max_tokens": 90}]),
    world=WORLDS,
    share=st.floats(0, 1),
)
def test_an_epoch_taken_up_is_the_rest_of_it(
    sizes: list[int], size: dict[str, int], world: int, share: float
) -> None:
    array = np.array(sizes, dtype=np.int32)
    plan = StreamPlan(array, **size, world_size=world, trees_a_window=20)  # type: ignore[arg-type]
    start = int(share * plan.num_batches)
    for rank in range(world):
        assert list(plan.batches(3, rank, start)) == list(plan.batches(3, rank))[start:]


def test_without_shuffle_trees_come_in_the_order_of_the_file() -> None:
    plan = StreamPlan(np.ones(5, dtype=np.int32), 2, shuffle=False)
    assert shares(plan, 0) == shares(plan, 1) == [[[0, 1], [2, 3], [4]]]


def test_seed_and_epoch_decide_the_batches() -> None:
    sizes = np.arange(1, 61, dtype=np.int32)
    for size in ({"batch_size": 8}, {"max_tokens": 120}):
        plans = [StreamPlan(sizes, **size, seed=seed) for seed in (0, 0, 1)]  # type: ignore[arg-type]
        assert shares(plans[0], 0) == shares(plans[1], 0)
        assert len({str(shares(plan, epoch)) for plan in (plans[0], plans[2]) for epoch in (0, 1)}) == 4


def test_batches_under_a_budget_are_full_and_mix_lengths() -> None:
    draw = np.random.default_rng(0)
    sizes = np.clip(np.exp(draw.normal(4.5, 0.8, 20_000)), 4, 512).astype(np.int32)
    plan = StreamPlan(sizes, max_tokens=2048, world_size=4, trees_a_window=2000)
    loads = [sizes[batch].sum() for batches in shares(plan, 0) for batch in batches]
    assert np.mean(loads) > 0.95 * 2048
    assert min(loads) > 0.85 * 2048


def test_a_window_has_trees_from_all_over_the_data() -> None:
    """Not those that stand together in the file: of 10 windows each has about a tenth of every tenth."""
    plan = StreamPlan(np.full(10_000, 10, dtype=np.int32), max_tokens=1000, trees_a_window=1000)
    (batches,) = shares(plan, 0)
    first = np.array([tree for batch in batches[: len(batches) // 10] for tree in batch])
    tenths = np.bincount(first // 1000, minlength=10)
    assert (tenths > 50).all()
    assert (tenths < 150).all()


@pytest.mark.parametrize("size", [{"batch_size": 8}, {"max_tokens": 60}])
def test_weights_draw_trees_more_or_less_often(size: dict[str, int]) -> None:
    sizes = np.array([3, 5, 7, 9] * 6, dtype=np.int32)
    parts = [(8, 2.5), (8, 1.0), (8, 0.5)]
    plan = StreamPlan(sizes, **size, parts=parts)  # type: ignore[arg-type]
    totals: Counter[int] = Counter()
    for epoch in range(40):
        counts = Counter(flat(shares(plan, epoch)))
        assert sorted(counts[tree] for tree in range(8)) == [2] * 4 + [3] * 4
        assert [counts[tree] for tree in range(8, 16)] == [1] * 8
        assert sorted(counts[tree] for tree in range(16, 24)) == [0] * 4 + [1] * 4
        assert len(list(plan.batches(epoch, 0))) == plan.num_batches
        totals.update(counts)
    assert min(totals[tree] for tree in range(16, 24)) >= 8  # half of 40 on average
    assert max(totals[tree] for tree in range(16, 24)) <= 32


def test_files_of_one_weight_share_what_is_drawn() -> None:
    """Ten files of one row and weight 0.4 give four rows an epoch, not ten."""
    plan = StreamPlan(np.full(10, 5, dtype=np.int32), 2, parts=[(1, 0.4)] * 10)
    assert plan.trees_an_epoch == 4
    assert {tree for epoch in range(60) for tree in flat(shares(plan, epoch))} == set(range(10))


@pytest.mark.parametrize(
    ("size", "parts", "found"),
    [({"max_tokens": 50}, None, "max_tokens"), ({"batch_size": 2}, [(5, 2.0)], "weights")],
)
def test_what_needs_shuffle_says_so(
    size: dict[str, int], parts: list[tuple[int, float]] | None, found: str
) -> None:
    with pytest.raises(ValueError, match=rf"data\.streaming: .*{found}.* goes with data\.shuffle true"):
        StreamPlan(np.ones(5, dtype=np.int32), **size, parts=parts, shuffle=False)  # type: ignore[arg-type]


def test_trees_that_fill_a_batch_each_are_shared_evenly_and_the_rest_is_counted() -> None:
    plan = StreamPlan(np.full(23, 10, dtype=np.int32), max_tokens=12, world_size=3, trees_a_window=10)
    dealt = shares(plan, 0)
    assert {len(batches) for batches in dealt} == {plan.num_batches}
    assert len(flat(dealt)) == len(set(flat(dealt))) == 23 - plan.num_left_out
    assert plan.num_left_out == 5  # windows of 12 and 11 trees, of which three ranks take 9 each


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_that_divide_the_windows_deal_out_the_batches_of_one(world: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 50, 163).astype(np.int32)
    (alone,) = shares(StreamPlan(sizes, max_tokens=90, trees_a_window=20), 2)
    dealt = shares(StreamPlan(sizes, max_tokens=90, trees_a_window=20, world_size=world), 2)
    together = [batch for step in zip(*dealt, strict=True) for batch in step]
    assert together == alone[: len(together)]
    assert len(alone) - len(together) < world

"""Order, shares of the ranks, budgets of tokens, and taking up an epoch at its exact row."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from lit_rlhf.data.loader import TreeLoader
from lit_rlhf.modules.sft import SFTModule
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, sgd, weights_of


def trees(count: int, tokens: int = 3) -> list[Tree]:
    return [Tree([k] * (tokens - 2), [[k, 1]], [[True, True]], id=f"f:{k}") for k in range(count)]


def seen(loader: TreeLoader) -> list[list[int]]:
    return [batch.row_indices.tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_an_epoch_holds_every_row_once() -> None:
    loader = TreeLoader(trees(10), batch_size=4)
    batches = seen(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(flat(batches)) == list(range(10))
    assert len(loader) == 3


def test_batches_hold_the_trees_that_their_indices_name() -> None:
    batch = next(iter(TreeLoader(trees(6), batch_size=4)))
    assert batch.input_ids[::3].tolist() == batch.row_indices.tolist()
    assert batch.row_ids == [f"f:{k}" for k in batch.row_indices.tolist()]


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    epoch = [0]
    loader = TreeLoader(trees(50), batch_size=8, seed=3, epoch=lambda: epoch[0])
    first = seen(loader)
    torch.manual_seed(99)
    assert seen(loader) == first
    epoch[0] = 1
    assert seen(loader) != first
    assert seen(TreeLoader(trees(50), batch_size=8, seed=4)) != first
    assert first != [list(range(k, min(k + 8, 50))) for k in range(0, 50, 8)]


def test_without_shuffle_rows_come_in_the_order_of_the_file() -> None:
    assert seen(TreeLoader(trees(5), batch_size=2, shuffle=False)) == [[0, 1], [2, 3], [4]]


def test_ranks_share_each_global_batch() -> None:
    whole = seen(TreeLoader(trees(24), batch_size=8))
    ranks = [seen(TreeLoader(trees(24), batch_size=8, rank=rank, world_size=2)) for rank in range(2)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert shares == [batch[0::2], batch[1::2]]


@pytest.mark.parametrize(
    ("count", "size", "world"), [(9, 4, 3), (13, 4, 4), (10, 4, 3), (7, 7, 5), (4, 4, 4)]
)
def test_no_rank_goes_without_rows_and_none_is_lost(count: int, size: int, world: int) -> None:
    loaders = [
        TreeLoader(trees(count), batch_size=size, rank=rank, world_size=world) for rank in range(world)
    ]
    shares = [seen(loader) for loader in loaders]
    assert len({len(loader) for loader in loaders}) == 1
    assert all(len(share) == len(loaders[0]) and all(share) for share in shares)
    assert sorted(row for share in shares for row in flat(share)) == list(range(count))


def test_more_ranks_than_rows_or_prompts_of_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^val: .*as many rows as ranks \(4\), found 3; .*trainer\.devices"):
        TreeLoader(trees(3), batch_size=4, world_size=4, name="val")
    with pytest.raises(ValueError, match=r"^data\.batch_size: expected .* \(4\).* found 2"):
        TreeLoader(trees(9), batch_size=2, world_size=4)


def uneven(count: int) -> list[Tree]:
    return [
        Tree([k], [[1] * (1 + k * 7 % 13)], [[True] * (1 + k * 7 % 13)], id=f"f:{k}") for k in range(count)
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_token_budget_holds_on_every_rank_and_epoch(world: int, shuffle: bool) -> None:
    data = uneven(60)
    for epoch in range(4):
        loaders = [
            TreeLoader(
                data, max_tokens=30, shuffle=shuffle, rank=rank, world_size=world, epoch=lambda e=epoch: e
            )
            for rank in range(world)
        ]
        shares = [seen(loader) for loader in loaders]
        assert sorted(row for share in shares for row in flat(share)) == list(range(60))
        assert all(len(share) == len(loader) for share, loader in zip(shares, loaders, strict=True))
        assert len({len(loader) for loader in loaders}) == 1
        assert all(sum(data[row].num_tokens for row in batch) <= 30 for share in shares for batch in share)


def test_token_budget_is_filled() -> None:
    data = uneven(60)
    total = sum(tree.num_tokens for tree in data)
    assert len(TreeLoader(data, max_tokens=30)) <= 1.2 * total / 30


def test_epochs_differ_in_order_under_a_token_budget() -> None:
    first, second = (seen(TreeLoader(uneven(60), max_tokens=30, epoch=lambda e=e: e)) for e in (0, 1))
    assert first != second


def test_a_budgets_batches_and_their_fill_are_said() -> None:
    loader = TreeLoader(trees(20), max_tokens=16, weights=[0.5] * 20, world_size=2)  # ten of three tokens
    assert loader.describe() == "1 batch an epoch on each of 2 ranks, of 16 tokens at the most, 94% full"


def test_tree_over_the_budget_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"13 tokens cannot hold 1 of 3 rows: f:2 \(prompt 1, response 13\)"):
        TreeLoader([*trees(2), Tree([1], [[1] * 13], [[True] * 13], id="f:2")], max_tokens=13)


def test_batches_that_cannot_be_shared_evenly_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaders = [TreeLoader(trees(5), max_tokens=3, rank=rank, world_size=2) for rank in range(2)]
    assert [len(loader) for loader in loaders] == [2, 2]
    assert caplog.messages == ["1 of 5 rows are left out of each epoch: 2 ranks cannot share them evenly"]


def test_either_size_has_to_be_given() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size and data\.max_tokens, found neither"):
        TreeLoader(trees(3))
    with pytest.raises(ValueError, match=r"data\.batch_size and data\.max_tokens, found both \(2 and 9\)"):
        TreeLoader(trees(3), batch_size=2, max_tokens=9)


def test_weights_draw_rows_more_or_less_often() -> None:
    weights = [2.5] * 4 + [1.0] * 4 + [0.5] * 4
    counts = []
    for epoch in range(8):
        loader = TreeLoader(trees(12), batch_size=4, weights=weights, epoch=lambda e=epoch: e)
        rows = flat(seen(loader))
        counts.append([rows.count(row) for row in range(12)])
        assert len(loader) == 4
        assert sorted(counts[-1][:4]) == [2, 2, 3, 3]
        assert counts[-1][4:8] == [1] * 4
        assert sorted(counts[-1][8:]) == [0, 0, 1, 1]
    assert len(set(map(tuple, counts))) > 1


def test_weights_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer rows than ranks"):
        TreeLoader(trees(2), batch_size=2, weights=[0.1, 0.1], world_size=2)


@pytest.mark.parametrize("size", [{"batch_size": 3}, {"max_tokens": 9}])
def test_taken_up_at_the_exact_row(size: dict[str, Any]) -> None:
    whole = seen(TreeLoader(trees(20), **size, epoch=lambda: 2))
    loader = TreeLoader(trees(20), **size, epoch=lambda: 2)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (2, 3)
    resumed = TreeLoader(trees(20), **size, epoch=lambda: 2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert seen(resumed) == whole[3:]
    assert seen(resumed) == whole


def test_state_counts_from_the_start_of_the_epoch_after_a_resume() -> None:
    loader = TreeLoader(trees(20), batch_size=3)
    iterator = iter(loader)
    next(iterator)
    resumed = TreeLoader(trees(20), batch_size=3)
    resumed.load_state_dict(loader.state_dict())
    next(iter(resumed))
    assert resumed.state_dict()["position"] == 2


def test_state_at_the_end_of_an_epoch_does_not_empty_the_next() -> None:
    epoch = [0]
    loader = TreeLoader(trees(6), batch_size=2, epoch=lambda: epoch[0])
    assert len(seen(loader)) == 3
    resumed = TreeLoader(trees(6), batch_size=2, epoch=lambda: epoch[0])
    resumed.load_state_dict(loader.state_dict())
    epoch[0] = 1
    assert seen(resumed) == seen(loader)
    assert len(seen(resumed)) == 3


def test_state_is_plain_values() -> None:
    state = TreeLoader(trees(6), batch_size=2).state_dict()
    assert all(value is None or isinstance(value, int | bool) for value in state.values())


def test_state_of_other_data_is_refused() -> None:
    state = TreeLoader(trees(6), batch_size=2).state_dict()
    with pytest.raises(ValueError, match="rows was 6 and is 7"):
        TreeLoader(trees(7), batch_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        TreeLoader(trees(6), batch_size=2, seed=1).load_state_dict(state)
    changed = trees(6)
    changed[3].response_ids[0][0] = 77
    with pytest.raises(ValueError, match="content was"):
        TreeLoader(changed, batch_size=2).load_state_dict(state)


LONG_AND_SHORT = [
    Tree([5, 6], [[9] * size + [1]], [[True] * (size + 1)], id=f"f:{size}") for size in range(1, 20, 2)
]


def weights_after_training(sizes: dict[str, int], world_size: int) -> np.ndarray:
    """Of an SFT epoch of plain gradient descent; an array, since a tensor would travel as a handle."""
    tokenizer = make_tokenizer()
    module = SFTModule(make_llama(tokenizer), optimizer=sgd, tokenizer=tokenizer)
    ranks: dict[str, Any] = {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
    trainer = quiet_trainer(max_epochs=1, **ranks)
    loader = TreeLoader(LONG_AND_SHORT, **sizes, rank=trainer.global_rank, world_size=trainer.world_size)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    return weights_of(module.network).numpy()


def test_two_processes_train_as_one_does() -> None:
    """Which rank takes which tree of a global batch changes nothing."""
    one, other = run_distributed(weights_after_training, 2, {"batch_size": 5}, 2)
    alone = weights_after_training({"batch_size": 5}, 1)
    start = weights_of(make_llama(make_tokenizer())).numpy()
    assert (one == other).all()
    assert abs(one - alone).max() < 1e-4 * abs(alone - start).max()


def test_two_processes_share_an_epoch_under_a_budget() -> None:
    """Two batches of 70 tokens at a time are one global batch of 140."""
    one, other = run_distributed(weights_after_training, 2, {"max_tokens": 70}, 2)
    alone = weights_after_training({"max_tokens": 140}, 1)
    start = weights_of(make_llama(make_tokenizer())).numpy()
    assert (one == other).all()
    assert abs(one - alone).max() < 1e-4 * abs(alone - start).max()

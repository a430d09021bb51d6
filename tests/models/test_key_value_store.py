"""Buffers of keys and values: what they keep when they grow, and when rows have left."""

import torch
from torch import Tensor

from lit_rlhf.models.key_value_store import COLUMNS_AT_A_TIME, Buffers

HEADS, WIDTH = 2, 3


def written(buffers: Buffers, rows: list[int], columns: list[int]) -> tuple[Tensor, Tensor]:
    """Put away random keys and values of some tokens; both are handed back."""
    keys, values = torch.randn(2, len(rows), HEADS, WIDTH)
    places = buffers.places(HEADS, torch.tensor(rows), torch.tensor(columns))
    buffers.write(0, keys, values, places)
    return keys, values


def test_tokens_go_to_their_row_and_column():
    buffers = Buffers(4, 10)
    buffers.grow(5)
    keys, values = written(buffers, [0, 3, 3], [4, 0, 2])
    expected = torch.zeros(2, 4, HEADS, buffers.allocated, WIDTH)
    for number, (row, column) in enumerate(((0, 4), (3, 0), (3, 2))):
        expected[0, row, :, column], expected[1, row, :, column] = keys[number], values[number]
    assert torch.equal(torch.stack(buffers.layers[0]), expected)


def test_columns_grow_by_a_step_and_up_to_the_most():
    buffers = Buffers(2, COLUMNS_AT_A_TIME + 3)
    buffers.grow(1)
    assert buffers.allocated == COLUMNS_AT_A_TIME
    held = written(buffers, [1], [0])
    buffers.grow(COLUMNS_AT_A_TIME + 1)
    assert buffers.allocated == COLUMNS_AT_A_TIME + 3
    for found, new in zip(buffers.layers[0], held, strict=True):
        assert found.shape == (2, HEADS, COLUMNS_AT_A_TIME + 3, WIDTH)
        assert torch.equal(found[1, :, 0], new[0])
        assert found.count_nonzero() == HEADS * WIDTH


def test_rows_that_left_are_not_made_again_and_others_come_empty():
    buffers = Buffers(6, 100)
    buffers.grow(4, rows=5)
    keys, _ = written(buffers, [0, 1, 4], [3, 2, 1])
    assert len(buffers.layers[0][0]) == 5
    buffers.grow(4, rows=2)  # nothing is made anew, so nothing is given up
    assert len(buffers.layers[0][0]) == 5
    buffers.grow(buffers.allocated + 1, rows=2)
    held = buffers.layers[0][0]
    assert len(held) == 2
    assert torch.equal(held[0, :, 3], keys[0]) and torch.equal(held[1, :, 2], keys[1])
    buffers.grow(1, rows=4)
    held = buffers.layers[0][0]
    assert len(held) == 4 and torch.equal(held[1, :, 2], keys[1])
    assert not held[2:].any()
    buffers.grow(1)
    assert len(buffers.layers[0][0]) == 6

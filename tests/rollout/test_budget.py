"""What is held of keys and values: no more than the stated number of tokens, and nothing behind the call."""

import gc
import weakref

import pytest
import torch

from lit_rlhf.models.key_value_store import Buffers, NextTokenAttention
from lit_rlhf.rollout.decoding import group_by_prompt, room_for
from tests.rollout.engine import EOS, keys_for, sample, small_llama


class Watch:
    """Sees every forward, and counts what the buffers hold behind it."""

    def __init__(self, network) -> None:
        self.plain, self.peak_tokens, self.peak_bytes = network.next_token_logits, 0, 0
        self.known: weakref.WeakSet[Buffers] = weakref.WeakSet()
        self.prompts = 0
        network.next_token_logits = self

    def __call__(self, feed):
        attention = feed.attention
        self.known.add(attention.buffers)
        if isinstance(attention, NextTokenAttention) and attention.sharing is not None:
            self.known.add(attention.sharing.buffers)
        self.prompts += len(feed.prompt_lengths or [])
        seen = self.plain(feed)
        held = [tensor for buffers in self.known for pair in buffers.layers.values() for tensor in pair]
        self.peak_bytes = max(self.peak_bytes, sum(tensor.untyped_storage().nbytes() for tensor in held))
        self.peak_tokens = max(self.peak_tokens, sum(b.rows * b.allocated for b in self.known))
        return seen


BYTES_OF_A_TOKEN = 2 * 2 * 2 * 8 * 4
"""Layers, keys and values, key heads, size of a head, bytes of fp32."""


def uneven(samples: int) -> list[list[int]]:
    prompts = [[number + 10] * (1 + 7 * number % 23) for number in range(12)]
    return [prompt for number, prompt in enumerate(prompts) for _ in range(samples if number % 2 else 1)]


@pytest.mark.parametrize("budget", [40, 150, 600])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_the_buffers_stay_under_the_budget(samples: int, budget: int):
    network = small_llama()
    with torch.no_grad():
        network.causal_lm.lm_head.weight[EOS] *= 3  # rows end at different times, and others are taken in
    prompts = uneven(samples)
    free = sample(network, prompts, max_new_tokens=16).response_ids
    watch = Watch(network)
    assert sample(network, prompts, max_new_tokens=16, max_cached_tokens=budget).response_ids == free
    assert 0 < watch.peak_tokens <= budget
    assert 0 < watch.peak_bytes <= budget * BYTES_OF_A_TOKEN
    assert watch.peak_bytes > budget * BYTES_OF_A_TOKEN / 3  # and most of it is made use of
    gc.collect()
    assert not watch.known


def test_nothing_is_held_after_an_error():
    network = small_llama()
    watch = Watch(network)

    def fail(numbers: list[int], tokens: list[int]) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sample(network, uneven(2), on_tokens=fail)
    gc.collect()
    assert not watch.known


def test_a_prompt_is_computed_once_for_all_its_samples_and_again_for_those_that_come_later():
    network = small_llama()
    watch = Watch(network)
    sample(network, [[7, 8, 9]] * 5 + [[4]] * 5, max_new_tokens=4, min_new_tokens=4)
    assert watch.prompts == 2
    watch.prompts = 0
    # 3 rows of 4 and a prompt of 9, and none of another
    prompts = [list(range(50, 59))] * 5
    free = sample(network, prompts, max_new_tokens=4, min_new_tokens=4).response_ids
    assert watch.prompts == 1
    found = sample(network, prompts, max_new_tokens=4, min_new_tokens=4, max_cached_tokens=9 + 12)
    assert found.response_ids == free
    assert watch.prompts == 3


@pytest.mark.parametrize(("prompts", "needed"), [([[5] * 9, [6]], 15), ([[5] * 9, [6], [6]], 15)])
def test_a_budget_too_small_for_one_row_is_an_error_that_says_what_is_needed(prompts, needed: int):
    network = small_llama()
    with pytest.raises(ValueError, match=rf"max_cached_tokens: expected at least {needed}, .*found 14"):
        sample(network, prompts, max_new_tokens=6, max_cached_tokens=14)
    assert len(sample(network, prompts, max_new_tokens=6, max_cached_tokens=15).response_ids) == len(prompts)


def test_without_a_budget_everything_is_held_at_once():
    groups = group_by_prompt(uneven(5))
    limits = [16] * sum(len(group.responses) for group in groups)
    room = room_for(groups, limits, None)
    assert (room.rows, room.prompts) == (36, 12)


def test_room_for_very_many_responses_is_found_at_once():
    """By halving: step by step, each step a look at every limit, it would take hours."""
    groups = group_by_prompt([[number] for number in range(20_000) for _ in range(4)])
    room = room_for(groups, [16] * 80_000, 5000)
    assert 4900 < room.tokens <= 5000
    assert room_for(groups, [16] * 80_000, 5001).tokens >= room.tokens


def test_buffers_keep_what_was_written_while_they_grow_and_rows_move():
    buffers, rows = Buffers(3, 40), torch.arange(3)
    written = torch.zeros(3, 40, 2, 4)
    for column in range(40):
        buffers.grow(column + 1)
        new = torch.randn(3, 2, 4)
        written[:, column] = new
        columns = torch.full((3,), column)
        buffers.write(0, new, -new, buffers.places(2, rows, columns))
    keys, values = buffers.layers[0]
    assert torch.equal(keys.transpose(1, 2), written) and torch.equal(values, -keys)
    assert buffers.allocated == 40
    buffers.move(torch.tensor([2]), torch.tensor([0]), 7)
    expected = written.clone()
    expected[0, :7] = written[2, :7]
    assert torch.equal(buffers.layers[0][0].transpose(1, 2), expected)


def test_keys_fix_the_draws_whatever_waits():
    network, prompts = small_llama(), uneven(3)
    keys = keys_for(len(prompts), seed=9)
    found = [
        sample(network, prompts, keys, max_new_tokens=5, max_cached_tokens=budget).response_ids
        for budget in (None, 60, 28)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("budget", [100, 200, 400, 1000])
def test_rows_that_end_at_once_make_room_for_others_of_shared_prompts(budget: int):
    """New rows join others that are under way, and some of them have no second token."""
    network = small_llama()
    with torch.no_grad():
        network.causal_lm.lm_head.weight[EOS] *= 6
    prompts = [[number, number % 7 + 5] for number in range(20, 60) for _ in range(4)]
    free = sample(network, prompts, max_new_tokens=40)
    lengths = [len(response) for response in free.response_ids]
    assert min(lengths) == 1 and max(lengths) > 20
    held = sample(network, prompts, max_new_tokens=40, max_cached_tokens=budget)
    assert held.response_ids == free.response_ids

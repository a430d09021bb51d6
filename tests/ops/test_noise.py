"""Counted randomness: uniform, and a function of its counters alone."""

import torch

from lit_rlhf.ops.noise import counted_uniform, counter_key, drawing_from, seed_from


def splitmix(x: int) -> int:
    """The finalizer in Python's own integers."""
    mask = (1 << 64) - 1
    x &= mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_key_is_the_published_hash():
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    expected = splitmix((0 + 4 * golden) & mask)
    expected = splitmix((expected + 8 * golden) & mask)
    assert int(counter_key(3, 7)) & mask == expected


def test_keys_of_tensors_are_the_keys_of_their_entries():
    together = counter_key(1, torch.tensor([4, 5]), torch.tensor([0, 9]))
    assert together.tolist() == [int(counter_key(1, 4, 0)), int(counter_key(1, 5, 9))]


def test_order_of_counters_matters():
    assert int(counter_key(1, 2)) != int(counter_key(2, 1))


def test_uniform_is_uniform_over_keys_and_steps():
    keys = counter_key(0, torch.arange(20_000))
    over_keys = counted_uniform(keys, 3)
    over_steps = torch.stack([counted_uniform(keys[:20], step) for step in range(1000)]).flatten()
    for draws in (over_keys, over_steps):
        counts = torch.histc(draws.float(), bins=20, min=0, max=1)
        chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
        assert chi_square < 43.8  # 0.1 % point of chi-square with 19 degrees of freedom
        assert draws.min() >= 0 and draws.max() < 1


def test_neighbouring_counters_are_uncorrelated():
    keys = counter_key(0, torch.arange(20_000))
    draws = torch.stack(
        [
            counted_uniform(keys, 0),
            counted_uniform(keys, 1),
            counted_uniform(counter_key(1, torch.arange(20_000)), 0),
        ]
    )
    correlation = torch.corrcoef(draws) - torch.eye(3)
    assert correlation.abs().max() < 4 / 20_000**0.5


def test_seeds_are_valid_and_differ():
    seeds = {seed_from(0, i) for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_block_draws_from_its_seed_and_leaves_the_global_stream_alone():
    def draw(seed: int) -> torch.Tensor:
        with drawing_from(seed, torch.device("cpu")):
            return torch.rand(3)

    torch.manual_seed(5)
    untouched = torch.rand(3)
    torch.manual_seed(5)
    first = draw(1)
    assert torch.equal(torch.rand(3), untouched)
    assert torch.equal(draw(1), first)
    assert not torch.equal(draw(2), first)

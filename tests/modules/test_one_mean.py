"""The gradient is that of the whole optimizer batch, however it is split over steps and ranks."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.modules.dpo import DPOModule
from lit_rlhf.modules.reward import RewardModule
from lit_rlhf.modules.sft import SFTModule
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
TREES = random_trees(8)
PHASES = {"sft": SFTModule, "reward": RewardModule, "dpo": DPOModule}


class Batches:
    """A sized loader over given groups of trees; each rank takes its share of a group."""

    def __init__(
        self, groups: list[list[int]], rank: int = 0, world_size: int = 1, trees: list[Tree] = TREES
    ) -> None:
        self.shares = [group[rank::world_size] for group in groups]
        self.trees = trees

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self):
        for share in self.shares:
            yield pack_trees([self.trees[index] for index in share], share)


def trained(phase: str, groups: list[list[int]], **trainer_settings) -> torch.Tensor:
    """Weights after one pass over the groups with plain gradient descent."""
    torch.manual_seed(0)
    settings_of_phase = {"center": False} if phase == "reward" else {}
    module = PHASES[phase](make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER, **settings_of_phase)
    trainer = quiet_trainer(**trainer_settings)
    rank = trainer.global_rank
    trainer.fit(module, Batches(groups, rank, trainer.world_size))
    return weights_of(module.network)


def on_ranks(phase: str, groups: list[list[int]], world_size: int, accumulate: int) -> list[torch.Tensor]:
    answers = run_distributed(_on_one_rank, world_size, phase, groups, world_size, accumulate)
    return [torch.from_numpy(answer) for answer in answers]


def _on_one_rank(phase: str, groups: list[list[int]], world_size: int, accumulate: int) -> np.ndarray:
    settings_of_rank = {"devices": world_size, "strategy": "ddp", "accumulate_grad_batches": accumulate}
    # an array: a tensor would travel as a handle that dies with its process
    return trained(phase, groups, **settings_of_rank).numpy()


@cache
def whole(phase: str) -> torch.Tensor:
    return trained(phase, [list(range(8))])


def moved(phase: str) -> torch.Tensor:
    """The scale to compare against: how far the step moves the weights."""
    start = torch.cat([p.detach().flatten() for p in make_llama(TOKENIZER).base_model.parameters()])
    return (whole(phase)[: len(start)] - start).abs().max()


@pytest.mark.parametrize("phase", PHASES)
@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(8)), cuts=st.sets(st.integers(1, 7), min_size=1, max_size=4))
def test_accumulated_micro_batches_give_the_whole_batches_gradient(phase, order, cuts):
    edges = [0, *sorted(cuts), 8]
    groups = [list(order[a:b]) for a, b in pairwise(edges)]
    split = trained(phase, groups, accumulate_grad_batches=len(groups))
    assert (split - whole(phase)).abs().max() < 1e-4 * moved(phase)


@pytest.mark.parametrize("phase", PHASES)
def test_a_ragged_last_window_is_divided_by_its_own_count(phase):
    """Lightning divides every window by its nominal length, the last one too."""
    split = trained(phase, [[0, 1, 2], [3, 4], [5, 6, 7]], accumulate_grad_batches=5)
    assert (split - whole(phase)).abs().max() < 1e-4 * moved(phase)


@pytest.mark.parametrize("phase", PHASES)
def test_two_ranks_give_the_gradient_of_one(phase):
    one, other = on_ranks(phase, [list(range(8))], 2, 1)
    assert torch.equal(one, other)
    assert (one - whole(phase)).abs().max() < 1e-4 * moved(phase)


def test_two_ranks_with_accumulation_and_uneven_shares():
    one, other = on_ranks("sft", [[0, 1, 2], [3, 4, 5, 6, 7]], 2, 2)
    assert torch.equal(one, other)
    assert (one - whole("sft")).abs().max() < 1e-4 * moved("sft")


def weighted_update(weight: float, groups: list[list[int]], **settings_of_trainer) -> torch.Tensor:
    """How far a reward model's weights move when every comparison has this weight."""
    torch.manual_seed(0)
    module = RewardModule(make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER, center=False)
    start = weights_of(module.network)
    trees = [
        replace(tree, comparisons=[replace(c, weight=weight) for c in tree.comparisons]) for tree in TREES
    ]
    quiet_trainer(**settings_of_trainer).fit(module, Batches(groups, trees=trees))
    return weights_of(module.network) - start


@pytest.mark.parametrize("weight", [0.05, 3.0])
def test_a_weight_that_all_share_changes_nothing(weight: float):
    """Counts of weights may well be under 1."""
    whole_batch = weighted_update(1.0, [[0, 1, 2, 3]])
    assert torch.allclose(weighted_update(weight, [[0, 1, 2, 3]]), whole_batch, atol=1e-6)
    split = weighted_update(weight, [[0], [1], [2], [3]], accumulate_grad_batches=4)
    assert torch.allclose(split, whole_batch, atol=1e-6)

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
from lit_rlhf.models import reading
from lit_rlhf.models.reading import Attention
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


def trained(
    phase: str,
    groups: list[list[int]],
    trees: list[Tree] = TREES,
    attention: Attention = "auto",
    **trainer_settings,
) -> torch.Tensor:
    """Weights after one pass over the groups with plain gradient descent."""
    torch.manual_seed(0)
    settings_of_phase = {"center": False} if phase == "reward" else {}
    module = PHASES[phase](
        make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER, attention=attention, **settings_of_phase
    )
    trainer = quiet_trainer(**trainer_settings)
    rank = trainer.global_rank
    trainer.fit(module, Batches(groups, rank, trainer.world_size, trees))
    return weights_of(module.network)


def step_of(phase: str, groups: list[list[int]], *arguments, **trainer_settings) -> torch.Tensor:
    """How far that pass moves the weights: the gradient, scaled."""
    start = trained(phase, [], *arguments, limit_train_batches=0)
    return trained(phase, groups, *arguments, **trainer_settings) - start


@cache
def whole(phase: str) -> torch.Tensor:
    return trained(phase, [list(range(8))])


def moved(phase: str) -> torch.Tensor:
    """The scale to compare against: how far the step moves the weights."""
    start = torch.cat([p.detach().flatten() for p in make_llama(TOKENIZER).base_model.parameters()])
    return (whole(phase)[: len(start)] - start).abs().max()


@st.composite
def splits(draw) -> tuple[list[Tree], list[list[int]]]:
    """Random trees, K from 2 to 7 within a batch, and a way to cut them into micro-batches, in any order."""
    count = draw(st.integers(2, 8))
    trees = random_trees(count, draw(st.integers(0, 10_000)), draw(st.integers(2, 7)))
    order = draw(st.permutations(range(count)))
    cuts = draw(st.sets(st.integers(1, count - 1), min_size=1, max_size=4))
    return trees, [list(order[a:b]) for a, b in pairwise([0, *sorted(cuts), count])]


@pytest.mark.parametrize("attention", ["trees", "padded"])
@pytest.mark.parametrize("phase", PHASES)
@settings(max_examples=6, deadline=None)
@given(split=splits())
def test_micro_batches_cut_any_way_and_in_any_order_give_the_whole_batches_gradient(phase, attention, split):
    trees, groups = split
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
        whole_batch = step_of(phase, [list(range(len(trees)))], trees, attention)
        cut = step_of(phase, groups, trees, attention, accumulate_grad_batches=len(groups))
    assert (cut - whole_batch).abs().max() < 1e-4 * whole_batch.abs().max()


SHARED_OUT = [
    # trees of each micro-batch; ranks take every other one, so that some have more than others
    [[6, 1, 4, 0], [5, 2], [7, 3]],
    [[0, 1, 2, 3, 4], [7, 5, 6]],
    [[3, 2], [1, 0, 7, 6, 5, 4]],
]


def test_micro_batches_on_two_ranks_give_the_whole_batches_gradient():
    """Every phase, over trees, from one start of the processes: the draws follow one another."""
    one, other = run_distributed(_every_split_on_one_rank, 2)
    assert np.array_equal(one, other)
    steps = iter(torch.from_numpy(one))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
        for phase in PHASES:
            for number, _ in enumerate(SHARED_OUT):
                expected = step_of(phase, [list(range(8))], random_trees(8, number, 6), "trees")
                found = next(steps)[: len(expected)]
                assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), (phase, number)


def _every_split_on_one_rank() -> np.ndarray:
    reading.MIN_MEAN_SEGMENT = 0  # this process ends with the function
    steps = [
        step_of(
            phase, groups, random_trees(8, number, 6), "trees",
            devices=2, strategy="ddp", accumulate_grad_batches=len(groups),
        )
        for phase in PHASES
        for number, groups in enumerate(SHARED_OUT)
    ]  # fmt: skip
    width = max(map(len, steps))
    return np.stack([np.pad(step.numpy(), (0, width - len(step))) for step in steps])


@pytest.mark.parametrize("phase", PHASES)
def test_a_ragged_last_window_is_divided_by_its_own_count(phase):
    """Lightning divides every window by its nominal length, the last one too."""
    split = trained(phase, [[0, 1, 2], [3, 4], [5, 6, 7]], accumulate_grad_batches=5)
    assert (split - whole(phase)).abs().max() < 1e-4 * moved(phase)


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

"""The collectives that ranks call, and those that the model on paper has."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.scale import networks, volume
from benchmarks.scale.collectives import Tally, collective, purpose, sent, sent_share
from benchmarks.scale.communication import on_paper, ratio
from benchmarks.scale.runs import Run, count

TINY = {"hidden": 8, "layers": 2, "heads": 2, "intermediate": 12, "vocabulary": 10}
LAYER = 4 * 8 * 8 + 3 * 8 * 12 + 2 * 8
ROOT = 2 * 10 * 8 + 8


@pytest.mark.parametrize(
    "run",
    [
        Run("dpo", "fsdp2", 2, size="tiny"),
        Run("sft", "ddp", 2, size="tiny", lora=True),
        Run("reward", "fsdp2", 2, size="tiny", reshard_after_forward=False),
        Run("ppo", "fsdp2", 2, size="tiny", prompt=6, response=4, epochs=1),
        pytest.param(
            Run("ppo", "fsdp2", 2, size="tiny", prompt=6, response=4, whole_while_sampling=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(Run("ppo", "ddp", 2, size="tiny", accumulate=2), marks=pytest.mark.slow),
        pytest.param(Run("ppo", "fsdp2", 4, size="tiny", lora=True), marks=pytest.mark.slow),
        pytest.param(Run("reward", "fsdp2", 4, size="tiny"), marks=pytest.mark.slow),
    ],
    ids=lambda run: f"{run.phase} {run.strategy} {run.ranks}",
)
def test_what_is_counted_is_what_paper_says(run: Run):
    counted, paper = count(run), on_paper(run)
    for found, expected in ((counted.step, paper.step), (counted.rollout, paper.rollout)):
        assert found.keys() == expected.keys()
        for key in found.keys() - {("all_gather", "objects")}:
            assert found[key] == expected[key], key
        assert ratio(found, expected, run.ranks) == pytest.approx(1, abs=0.1)
    objects = "all_gather", "objects"
    if run.phase == "ppo":
        assert counted.rollout[objects].payload == pytest.approx(paper.rollout[objects].payload, rel=0.1)


def test_an_update_in_numbers_by_hand():
    """Llama of two layers in parts over 2: each layer gathered twice and reduced, the root once."""
    policy = networks.policy(TINY)
    step = volume.steady_update(volume.Settings("fsdp2", 2), policy)
    assert step["all_gather", "weights"] == Tally(5, 4 * (2 * 2 * LAYER + ROOT))
    assert step["reduce_scatter", "gradients"] == Tally(3, 4 * (2 * LAYER + ROOT))
    kept = volume.steady_update(volume.Settings("fsdp2", 2, reshard_after_forward=False), policy)
    assert kept["all_gather", "weights"] == Tally(3, 4 * (2 * LAYER + ROOT))
    whole = volume.steady_update(volume.Settings("ddp", 2), policy)
    assert whole["all_reduce", "gradients"] == Tally(1, 4 * (2 * LAYER + ROOT))
    assert ("all_gather", "weights") not in whole


def test_every_micro_batch_gathers_and_reduces_in_parts_and_the_last_alone_with_whole_weights():
    policy = networks.policy(TINY)
    parts = volume.steady_update(volume.Settings("fsdp2", 2, accumulate=3), policy)
    assert parts["reduce_scatter", "gradients"] == Tally(9, 3 * 4 * (2 * LAYER + ROOT))
    whole = volume.steady_update(volume.Settings("ddp", 2, accumulate=3), policy)
    assert whole["all_reduce", "gradients"].calls == 1


def test_a_frozen_network_gathers_its_layers_once_a_forward_and_its_root_once():
    paper = volume.Paper(volume.Settings("fsdp2", 2))
    paper.look("reference", networks.policy(TINY))
    paper.taken()
    paper.look("reference", networks.policy(TINY), times=3)
    assert paper.taken()["all_gather", "weights"] == Tally(6, 3 * 4 * 2 * LAYER)
    paper.look("reward", networks.scorer(TINY), times=2)
    root = 10 * 8 + 8 + 2 * 8 + 2  # the head's row and its bias are padded to one for each rank
    assert paper.taken()["all_gather", "weights"] == Tally(5, 4 * (2 * 2 * LAYER + root))


def test_a_decoding_step_gathers_every_layer_unless_weights_are_kept():
    policy = networks.policy(TINY)
    models = volume.Models(policy, 2, policy, networks.scorer(TINY))
    rollout = volume.Rollout(forwards=50, rows=2, batch=2, prompt=3, response=50)
    longer = replace(rollout, forwards=51)
    each = []
    plain = volume.Settings("fsdp2", 2)
    kept, whole = replace(plain, reshard_after_forward=False), replace(plain, whole_while_sampling=True)
    for settings in (plain, kept, whole):
        first, second = (
            volume.steady_iteration(settings, models, drawn, 1)[0]["all_gather", "weights"]
            for drawn in (rollout, longer)
        )
        each.append(second.payload - first.payload)
    assert each == [4 * 2 * LAYER, 0, 0]


def test_adapters_alone_are_reduced_and_everything_is_gathered():
    step = volume.steady_update(volume.Settings("fsdp2", 2), networks.policy(TINY, lora=2))
    adapters = 2 * 2 * (2 * 8 + 8 * 2)
    assert step["reduce_scatter", "gradients"] == Tally(2, 4 * adapters)
    assert step["all_gather", "weights"].payload == 4 * (2 * (2 * LAYER + adapters) + ROOT)


def test_one_rank_sends_nothing():
    for strategy in ("ddp", "fsdp2"):
        step = volume.steady_update(volume.Settings(strategy, 1), networks.policy(TINY))
        assert sent(step, 1) == 0


@pytest.mark.parametrize(
    ("kind", "share"),
    [("all_gather", 3 / 4), ("reduce_scatter", 3 / 4), ("all_reduce", 3 / 2), ("broadcast", 3 / 4)],
)
def test_shares_of_a_ring(kind: str, share: float):
    assert sent_share(kind, 4) == share
    assert sent({(kind, "weights"): Tally(2, 100.0)}, 4) == 100 * share
    assert sent({(kind, "weights"): Tally(2, 100.0)}, 4, "gradients") == 0


def test_parts_are_padded_to_the_longest():
    assert networks.Parameter(10, 3).padded(4) == 4 * 3 * 3
    assert networks.policy(networks.SHAPE_8B).numel == 8_030_261_248
    assert math.isclose(networks.scorer(networks.SHAPE_8B).numel / 1e9, 7.505, abs_tol=1e-3)


def test_a_collective_that_is_not_known_is_refused():
    with pytest.raises(NotImplementedError, match="alltoall"):
        list(collective(torch.ops.c10d.alltoall_base_.default, (torch.zeros(1),)))
    assert list(collective(torch.ops.c10d.barrier.default, (torch.zeros(1),))) == []


def test_purposes():
    large, flag = torch.zeros(1000), torch.zeros(1, dtype=torch.int64)
    assert purpose("all_reduce", large, "c10d") == "gradients"
    assert purpose("all_reduce", large, "_c10d_functional") == "bookkeeping"  # the norms of all weights
    assert purpose("all_reduce", flag, "c10d") == "bookkeeping"
    assert purpose("all_gather", flag, "c10d") == "bookkeeping"
    assert purpose("all_gather", large.to(torch.bfloat16), "c10d") == "weights"
    assert purpose("all_gather", torch.zeros(1000, dtype=torch.uint8), "c10d") == "objects"

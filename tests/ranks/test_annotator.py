"""A reward model as the annotator of online DPO, spread over ranks of which some have nothing to ask it."""

from __future__ import annotations

from typing import Any

import pytest

from lit_rlhf.labelling.annotators.judging import Judge
from tests.ranks.conftest import Fit
from tests.ranks.phases import ONLINE, SGD
from tests.ranks.same import TOLERANCE, numbers_that_differ, weights_differ

FEW = [
    *ONLINE, *SGD, "--model.annotator", "{annotator: reward}", "--model.max_new_tokens", "1", "--data.batch_size", "2",
    "--model.minibatch_size", "4", "--trainer.accumulate_grad_batches", "1", "--trainer.max_epochs", "4",
]  # fmt: skip
"""Two prompts an iteration, each with two responses of one token, which often are the same."""


def looked_at(rank: int) -> None:
    """Has each rank see that it holds its parts alone once the annotator was asked."""
    from torch.distributed.tensor import DTensor

    from lit_rlhf.modules import online_dpo

    plain = online_dpo.annotator_ranks

    def annotator_ranks(judge: Judge, *others: Any) -> Any:
        found = plain(judge, *others)
        (network,) = judge.networks()
        weights = list(network.parameters())
        assert not judge.is_sharded or all(isinstance(weight, DTensor) for weight in weights)
        return found

    online_dpo.annotator_ranks = annotator_ranks  # type: ignore[assignment]


@pytest.mark.parametrize("strategy", ["fsdp2", pytest.param("ddp", marks=pytest.mark.slow)])
def test_a_rank_with_nothing_to_ask_does_not_keep_the_others_waiting(fit: Fit, strategy: str) -> None:
    several, single = fit(FEW, 2, strategy, limit=120.0, on_rank=looked_at), fit(FEW)
    assert numbers_that_differ(several, single) == {}
    assert weights_differ(several, single) < TOLERANCE
    (ours,), (theirs,) = (
        [line for line in run.outputs[0].splitlines() if "model.annotator: " in line]
        for run in (several, single)
    )
    assert ours == theirs, "the judgements of all ranks"
    assert 0 < int(ours.split("model.annotator: ")[1].split()[0]) < 8, "some ranks had nothing to ask"

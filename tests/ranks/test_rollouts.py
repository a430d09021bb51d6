"""Ranks draw what one process draws, whatever each of them is doing at the moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_rlhf import PPOModule
from lit_rlhf.records import Experience
from tests.ranks.conftest import Fit
from tests.ranks.phases import PPO, SGD

ALL = [*PPO, *SGD, "--model.max_new_tokens", "12"]


def kept(file: Path) -> Callable[[int], None]:
    """Has rank 0 write down what each iteration has drawn over all ranks."""

    def on_rank(rank: int) -> None:
        plain = PPOModule.on_rollout_end

        def on_rollout_end(self: PPOModule, experience: Experience) -> None:
            if rank == 0:
                line = {
                    "responses": experience.response_ids,
                    "logprobs": experience.sampled_logprobs.tolist(),
                    "reference": experience.reference_logprobs.tolist(),
                    "values": experience.values.tolist(),
                    "advantages": experience.advantages.tolist(),
                    "scores": experience.scores.tolist(),
                }
                with open(file, "a") as out:
                    out.write(json.dumps(line) + "\n")
            plain(self, experience)

        PPOModule.on_rollout_end = on_rollout_end  # type: ignore[method-assign]

    return on_rank


@pytest.mark.parametrize(
    ("ranks", "strategy", "flags"),
    [
        (2, "fsdp2", []),
        pytest.param(2, "ddp", [], marks=pytest.mark.slow),
        pytest.param(4, "fsdp2", [], marks=pytest.mark.slow),
        pytest.param(4, "ddp", [], marks=pytest.mark.slow),
        pytest.param(2, "fsdp2", ["--model.max_cached_tokens", "40"], marks=pytest.mark.slow),
        pytest.param(4, "fsdp2", ["--model.attention", "padded"], marks=pytest.mark.slow),
        pytest.param(
            2, "fsdp2", ["--model.reward", "reward", "--model.critic", "shared"], marks=pytest.mark.slow
        ),
    ],
)
def test_the_responses_of_one_process(
    here: Path, fit: Fit, ranks: int, strategy: str, flags: list[str]
) -> None:
    fit([*ALL, *flags], on_rank=kept(here / "one"))
    fit([*ALL, *flags], ranks, strategy, on_rank=kept(here / "several"))
    ours, theirs = (
        [json.loads(line) for line in (here / name).read_text().splitlines()] for name in ("several", "one")
    )
    assert len(ours) == len(theirs) == 2
    for several, single in zip(ours, theirs, strict=True):
        assert several["responses"] == single["responses"]
        assert len({len(ids) for ids in single["responses"]}) > 3
        for name in ("logprobs", "reference", "values", "advantages", "scores"):
            assert np.abs(np.array(several[name]) - np.array(single[name])).max() < 1e-5, name

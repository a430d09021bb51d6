"""Updates of so many tokens, on however many ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data import accumulation
from lit_rlhf.data.accumulation import batches_an_update
from lit_rlhf.data.datamodules import DemonstrationDataModule, PromptDataModule
from tests.conftest import make_tokenizer
from tests.data.test_datamodules import Recorder, trainer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer

ROWS = [{"prompt": f"soup {k}", "response": " tasty" * (1 + k * 7 % 5)} for k in range(60)]


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "ranks", "batches"),
    [
        (1000, 100, 1, 10),
        (1000, 100, 2, 5),
        (1000, 100, 4, 2),
        (999, 100, 4, 2),
        (10, 100, 8, 1),
        (340, 100, 1, 3),
    ],
)
def test_the_number_of_batches_comes_nearest(tokens: int, max_tokens: int, ranks: int, batches: int) -> None:
    assert batches_an_update(tokens, max_tokens, ranks) == batches


class Counter(Recorder):
    """Counts the tokens of each update."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.updates: list[int] = []
        self.tokens = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.tokens += len(batch.input_ids)
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *given: Any, **named: Any) -> None:
        super().optimizer_step(*given, **named)
        self.updates.append(self.tokens)
        self.tokens = 0


def updates_of(ranks: int, streaming: bool) -> tuple[list[int], int]:
    """Tokens of each update on this rank, and the batches of an update."""
    module = Counter(make_tokenizer())
    given: dict[str, Any] = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    fitting = quiet_trainer(**given)
    fitting.fit(
        module, DemonstrationDataModule(ROWS, max_tokens=60, tokens_per_update=240, streaming=streaming)
    )
    return module.updates, fitting.accumulate_grad_batches


@pytest.mark.parametrize("streaming", [False, True])
def test_two_processes_have_the_tokens_of_one_in_an_update(streaming: bool) -> None:
    ((alone, batches),) = run_distributed(updates_of, 1, 1, streaming)
    (first, fewer), (second, _) = run_distributed(updates_of, 2, 2, streaming)
    assert (batches, fewer) == (4, 2)
    together = [one + other for one, other in zip(first, second, strict=True)]
    assert len(together) == len(alone) > 3
    assert sum(together) == sum(alone)
    # the last update has what is left; batches of a few rows leave some room
    assert all(160 < tokens <= 240 for tokens in [*alone[:-1], *together[:-1]])


def test_what_is_set_is_said_and_a_second_fit_may_set_it_again(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(accumulation, "rank_zero_info", said.append)
    data = DemonstrationDataModule(ROWS, max_tokens=60, tokens_per_update=200)
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(Recorder(tiny_tokenizer), data)
    assert said == [
        "data.tokens_per_update 200: trainer.accumulate_grad_batches is 3, so an update has 180 tokens at the most "
        "(3 x 60)"
    ]
    fitting.fit(Recorder(tiny_tokenizer), data)
    assert fitting.accumulate_grad_batches == 3


def test_without_it_the_trainers_own_number_stands(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    fitting = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=5)
    fitting.fit(Recorder(tiny_tokenizer), DemonstrationDataModule(ROWS, max_tokens=60))
    assert fitting.accumulate_grad_batches == 5


@pytest.mark.parametrize(
    ("callbacks", "settings", "message"),
    [
        (
            [],
            {"accumulate_grad_batches": 2},
            r"tokens_per_update 200 and trainer\.accumulate_grad_batches 2 both",
        ),
        ([GradientAccumulationScheduler({0: 2})], {}, r"callback GradientAccumulationScheduler both"),
    ],
)
def test_two_masters_are_refused(
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    callbacks: list[Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    data = DemonstrationDataModule(ROWS, max_tokens=60, tokens_per_update=200)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, *callbacks, max_epochs=1, **settings).fit(Recorder(tiny_tokenizer), data)


def test_it_needs_a_budget_and_counts_no_responses_of_ppo() -> None:
    with pytest.raises(ValueError, match=r"data\.tokens_per_update goes with data\.max_tokens"):
        DemonstrationDataModule(ROWS, tokens_per_update=200)
    with pytest.raises(ValueError, match=r"data\.tokens_per_update: expected 1 or more, found 0"):
        DemonstrationDataModule(ROWS, max_tokens=60, tokens_per_update=0)
    with pytest.raises(TypeError):
        PromptDataModule([{"prompt": "p"}], tokens_per_update=200)  # type: ignore[call-arg]

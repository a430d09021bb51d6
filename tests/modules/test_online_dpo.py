"""Online DPO as a phase: what it learns from, what changes nothing, what is refused, and that it resumes to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.modules.online_dpo import OnlineDPOModule
from lit_rlhf.records import Experience, LossOutput, Row, Tree
from lit_rlhf.rewards.protocol import RewardError
from tests.modules.ppo_runs import ROWS, TOKENIZER, Prompts, share_of_small_ids
from tests.modules.test_ppo_invariants import ending_llama
from tests.modules.training import quiet_trainer, sgd, weights_of


def count_letters(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    """What an annotator can see: the text."""
    return [float(len(text)) for text in completions]


RULE = {"annotator": "tests.modules.test_online_dpo.count_letters"}


def breaks_on_short_ones(
    prompts: Any, completions: Any, completion_ids: Any, **columns: Any
) -> list[float | None]:
    return [None if len(ids) < 3 else float(ids[0]) for ids in completion_ids]


class Watched(OnlineDPOModule):
    """Keeps what passes, for the tests."""

    def on_rollout_end(self, experience: Experience) -> None:
        super().on_rollout_end(experience)
        self.rollouts = [*getattr(self, "rollouts", []), experience]

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.numbers = [*getattr(self, "numbers", []), dict(self._rollout_metrics)]

    def compute_loss(self, batch: Any) -> LossOutput:
        output = super().compute_loss(batch)
        self.losses = [*getattr(self, "losses", []), output]
        return output


def make_module(**changes: Any) -> Watched:
    settings: dict[str, Any] = {
        "reward": share_of_small_ids,
        "minibatch_size": 8,
        "max_new_tokens": 6,
        "beta": 0.5,
    }
    settings |= {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3), **changes}
    torch.manual_seed(0)
    return Watched(ending_llama(), tokenizer=TOKENIZER, **settings)


def fit(module: OnlineDPOModule, ckpt_path: str | None = None, **trainer_settings: Any) -> L.Trainer:
    trainer = quiet_trainer(**trainer_settings)
    trainer.fit(module, datamodule=Prompts(), ckpt_path=ckpt_path)
    return trainer


def test_it_starts_at_ln_2_and_learns_what_the_judge_wants() -> None:
    module = make_module(minibatch_size=16)
    fit(module, max_epochs=25)
    first = module.losses[0]
    assert (first.total / first.count).item() == pytest.approx(math.log(2), abs=1e-6)
    scores = [numbers["objective/scores"] for numbers in module.numbers]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.15
    assert module.numbers[-1]["objective/kl"] > 0.5 > abs(module.numbers[0]["objective/kl"])
    assert module.numbers[-1]["episodes"] == 25 * 16


def test_the_loss_is_the_formula_on_the_rollouts_own_numbers() -> None:
    """−log σ(β·h) of each pair whose scores differ, averaged over the prompts that have one."""
    module = make_module(optimizer=sgd, minibatch_size=16)
    fit(module, max_epochs=2)
    rollout = module.rollouts[1]
    kl = (rollout.old_logprobs - rollout.reference_logprobs).sum(1)  # before the rollout's only update
    losses = []
    for first in range(0, 16, 2):
        gap = rollout.scores[first] - rollout.scores[first + 1]
        if gap != 0:
            losses.append(-torch.nn.functional.logsigmoid(0.5 * (kl[first] - kl[first + 1]) * gap.sign()))
    output = module.losses[1]
    assert len(losses) < 8 and output.count.item() == len(losses), "some pairs are tied"
    torch.testing.assert_close(output.total / output.count, torch.stack(losses).mean(), rtol=1e-4, atol=1e-6)
    assert module.numbers[1]["rollout/decided"] == len(losses) / 8


@pytest.mark.parametrize(
    "form",
    [{}, {"samples_per_prompt": 4, "minibatch_size": 32}, {"loss": "ipo"}, {"loss": "simpo"}, {"ties": "half"},
     {"samples_per_prompt": 4, "minibatch_size": 32, "loss": "plackett_luce"}],
    ids=["pairs", "four", "ipo", "simpo", "ties", "rankings"],
)  # fmt: skip
def test_micro_batches_and_the_padded_path_change_nothing(form: dict[str, Any]) -> None:
    settings = {"optimizer": sgd, "minibatch_size": 16, **form}

    def moved(accumulate: int, attention: str) -> Tensor:
        module = make_module(attention=attention, **settings)
        start = weights_of(module.network)
        fit(module, accumulate_grad_batches=accumulate)
        return weights_of(module.network) - start

    whole = moved(1, "trees")
    assert whole.abs().max() > 1e-5
    for accumulate, attention in ((4, "trees"), (1, "padded")):
        torch.testing.assert_close(moved(accumulate, attention), whole, rtol=1e-3, atol=1e-6)


def test_more_passes_see_the_same_rollout() -> None:
    module = make_module(epochs=3)
    fit(module, max_epochs=2)
    assert len(module.rollouts) == 2 and len(module.losses) == 2 * 3 * 2


def test_an_annotator_judges_in_the_rewards_place() -> None:
    module = make_module(reward=None, annotator=RULE, minibatch_size=16)
    fit(module, max_epochs=15)
    lengths = [numbers["rollout/response_length"] for numbers in module.numbers]
    assert sum(lengths[-3:]) > sum(lengths[:3])
    assert "objective/scores" not in module.numbers[0]
    rollout = module.rollouts[0]
    for first in range(0, 16, 2):
        texts = [
            TOKENIZER.decode(rollout.response_ids[first + place], skip_special_tokens=True)
            for place in (0, 1)
        ]
        ranks = rollout.ranks[first : first + 2].tolist()
        assert (ranks[0] < ranks[1]) == (len(texts[0]) > len(texts[1]))
        assert (ranks[0] == ranks[1]) == (len(texts[0]) == len(texts[1]))


def test_an_annotators_noise_is_its_own_and_comes_again() -> None:
    def ranks(**noise: Any) -> list[float]:
        annotator = {**RULE, **noise}
        module = make_module(reward=None, annotator=annotator)
        fit(module)
        return module.rollouts[0].ranks.tolist()

    noisy = ranks(temperature=3.0)
    assert noisy == ranks(temperature=3.0) != ranks()
    assert ranks(flips=1.0) != ranks()


def test_what_failed_is_in_no_comparison() -> None:
    module = make_module(reward=breaks_on_short_ones, failed_rewards="skip", minibatch_size=16)
    fit(module)
    rollout = module.rollouts[0]
    assert 0 < rollout.failed.sum() < 16
    assert torch.equal(rollout.ranks.isnan(), rollout.failed)
    both = sum(not rollout.failed[first : first + 2].any() for first in range(0, 16, 2))
    assert module.losses[0].count.item() <= both
    with pytest.raises(RewardError, match=r"soup|cake|train|lamp|hotel"):
        fit(make_module(reward=breaks_on_short_ones))


class SaveAt(L.Callback):
    """Saves a checkpoint behind an update."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *others: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("judge", ["reward", "annotator"])
def test_a_run_stopped_inside_an_iteration_goes_on_to_the_bit(judge: str, tmp_path: Path) -> None:
    judges: dict[str, Any] = {"reward": {}, "annotator": {
        "reward": None, "annotator": {**RULE, "temperature": 1.0},
    }}[judge]  # fmt: skip
    settings = {"epochs": 2, "reference": {"decay": 0.5}, **judges}
    whole = make_module(**settings)
    fit(whole, max_epochs=3)
    begun = make_module(**settings)
    fit(begun, max_epochs=3, callbacks=[SaveAt(5, tmp_path / "inside.ckpt")])  # four updates an iteration
    again = make_module(**settings)
    fit(again, max_epochs=3, ckpt_path=str(tmp_path / "inside.ckpt"))
    assert torch.equal(weights_of(again.network), weights_of(whole.network))
    assert len(again.rollouts) == 1, "of the three; the one that was under way is not drawn again"


def silent_on_some(prompts: Any, completions: list[str], **columns: Any) -> list[float | None]:
    return [None if len(text) % 5 == 1 else float(len(text)) for text in completions]


def never_says(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
    return [None] * len(completions)


def test_an_annotator_that_skips_everything_ends_the_run() -> None:
    module = make_module(reward=None, annotator={"annotator": "tests.modules.test_online_dpo.never_says"})
    with pytest.raises(RewardError, match=r"model\.annotator: it skipped every prompt.*does not apply"):
        fit(module)


@pytest.mark.parametrize("judge", ["reward", "annotator"])
def test_a_prompt_that_nobody_judged_weighs_nothing_in_a_ranking(judge: str) -> None:
    judges: dict[str, Any] = {"reward": {"reward": breaks_on_short_ones, "failed_rewards": "skip"}, "annotator": {
        "reward": None, "annotator": {"annotator": "tests.modules.test_online_dpo.silent_on_some"},
    }}[judge]  # fmt: skip
    module = make_module(loss="plackett_luce", minibatch_size=16, **judges)
    fit(module)
    ranks = module.rollouts[0].ranks.reshape(-1, 2)
    decided = ~ranks.isnan().any(1) & (ranks[:, 0] != ranks[:, 1])
    assert 0 < decided.sum() < 8 and ranks.isnan().any()
    assert module.losses[0].count.item() == decided.sum()
    assert module.losses[0].total.item() / decided.sum() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples_per_prompt": 1}, r"model\.samples_per_prompt: expected 2 or more"),
        ({"compared": "some"}, r"model\.compared: expected one of all, best_worst"),
        ({"reward": None}, r"model\.reward: .*neither"),
        ({"annotator": RULE}, r"model\.reward: .*both"),
        ({"loss": "kto"}, r"model\.loss: kto"),
        ({"loss": "robust"}, r"model\.loss: robust"),
        ({"margin": "data", "loss": "sigmoid"}, r"model\.margin: no row says"),
        ({"loss": "plackett_luce", "ties": "half"}, r"model\.ties: plackett_luce"),
        ({"loss": "plackett_luce", "samples_per_prompt": 13}, r"model\.samples_per_prompt: plackett_luce.*12 at most"),
        ({"loss": "aot", "ties": "half"}, r"model\.ties: aot"),
        ({"loss": "bco", "reference": {"decay": 0.9}}, r"model\.reference: bco"),
        ({"samples_per_prompt": 2.5}, r"model\.samples_per_prompt: expected a whole number.*found 2\.5"),
        ({"loss": "plackett_luce", "compared": "best_worst"}, r"model\.compared: plackett_luce"),
        ({"reward": None, "annotator": RULE, "failed_rewards": "skip"}, r"model\.failed_rewards: is of"),
        ({"reward": None, "annotator": {"annotator": "a.b", "flips": 2.0}}, r"model\.annotator\.flips: expected"),
        ({"temperature": 0.0}, r"model\.temperature: expected more than 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_key(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_module(**wrong)


def test_minibatches_are_of_whole_prompts() -> None:
    with pytest.raises(ValueError, match=r"model\.minibatch_size: .*a multiple of the 2 of each, found 7"):
        fit(make_module(minibatch_size=7))
    with pytest.raises(
        ValueError, match=r"model\.minibatch_size: .*2 prompts with 2 responses each.*too few for 3"
    ):
        fit(make_module(minibatch_size=4), accumulate_grad_batches=3)


def test_rows_that_it_did_not_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="trains on what it has drawn itself"):
        make_module().compute_loss(pack_trees([Tree([1], [[2]], [[True]])]))


def test_it_validates_on_prompts() -> None:
    rows = ROWS[:3]

    class WithValidation(Prompts):
        def rows(self, split: str) -> list[Row]:
            return rows

        def val_dataloader(self) -> Any:
            trees = [Tree(TOKENIZER(str(row.prompt))["input_ids"], id=row.id or "") for row in rows]
            return DataLoader([pack_trees(trees, [0, 1, 2])], batch_size=None)  # type: ignore[arg-type]

    for judge, has_scores in (
        ({}, True),
        ({"reward": None, "annotator": RULE}, False),
    ):
        trainer = quiet_trainer()
        (numbers,) = trainer.validate(make_module(**judge), datamodule=WithValidation(), verbose=False)
        assert numbers["val/objective/kl"] == pytest.approx(0.0, abs=1e-5)
        assert ("val/objective/scores" in numbers) == has_scores

"""Pretraining rows beside PPO's minibatches: which they are, how cut, and what they add to the gradient."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import GPT2Config

from lit_rlhf.data.files import BadRowsError
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.modules.pretraining_mix import PretrainingMix, PretrainingRows
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.modules.one_update import one_update
from tests.modules.ppo_runs import TOKENIZER, fit, make_module
from tests.modules.training import weights_of

ENCODER = TextEncoder(TOKENIZER)
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id


def rows_of(path, seed: int = 0, **settings) -> PretrainingRows:
    return PretrainingRows(PretrainingMix(path, **settings), ENCODER, seed)


def texts(count: int) -> list[dict]:
    return [{"text": f"the soup {n}", "id": str(n)} for n in range(count)]


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def names(rows: PretrainingRows, update: int) -> list[str]:
    return [tree.id for tree in rows.trees_of(update)]


def test_every_row_comes_once_a_round_and_each_round_in_an_order_of_its_own():
    rows = rows_of(texts(7), batch_size=3)
    run = [name for update in range(14) for name in names(rows, update)]  # 42 rows: six rounds of 7
    rounds = [run[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(one) == [str(n) for n in range(7)] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 4


def test_a_minibatch_can_have_more_rows_than_there_are():
    rows = rows_of(texts(3), batch_size=8)
    counts = Counter(name for update in range(3) for name in names(rows, update))
    assert counts == {"0": 8, "1": 8, "2": 8}
    assert len(rows.trees_of(5)) == 8


def test_what_goes_with_a_minibatch_follows_from_its_number_alone():
    there, again = rows_of(texts(7), batch_size=3), rows_of(texts(7), batch_size=3)
    forwards = {update: names(there, update) for update in range(10)}
    for update in (9, 2, 5, 2, 0):
        assert names(again, update) == forwards[update]
    assert forwards != {
        update: names(rows_of(texts(7), seed=1, batch_size=3), update) for update in range(10)
    }


def test_weighted_files_come_as_often_as_their_weight_says(tmp_path):
    for name, count in (("often", 2), ("seldom", 4)):
        lines = [json.dumps({"text": f"{name} {n}", "id": f"{name}-{n}"}) for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    path = [
        {"path": str(tmp_path / "often.jsonl"), "weight": 3},
        {"path": str(tmp_path / "seldom.jsonl"), "weight": 0.5},
    ]
    rows = rows_of(path, batch_size=4)  # a round is 2·3 + 4/2 = 8 rows
    counts = Counter(name.split("-")[0] for update in range(2) for name in names(rows, update))
    assert counts == {"often": 6, "seldom": 2}
    assert {name for update in range(40) for name in names(rows, update)} >= {f"seldom-{n}" for n in range(4)}


def test_long_text_is_cut_into_windows_that_hold_all_of_it():
    text = "the soup is tasty and the cake is fresh . a train looks late but my hotel seems lovely ."
    rows = rows_of([{"text": text, "id": "long"}], batch_size=1, max_tokens=8)
    trees = rows.planted.trees
    assert len(trees) > 2 and all(tree.num_tokens <= 8 for tree in trees)
    assert all(tree.prompt_ids == [BOS] for tree in trees)
    assert [token for tree in trees for token in tree.response_ids[0]] == [*ids(text), EOS]
    assert rows.report.trees == len(trees) and rows.report.rows == 1


def test_a_demonstration_is_cut_only_where_it_is_too_long(caplog):
    long_prompt, long_response = (
        "the soup is tasty and the cake",
        " is fresh . a train looks late but my hotel",
    )
    data = [
        {"prompt": "the soup", "response": long_response},
        {"prompt": long_prompt, "response": " fresh"},
        {"prompt": long_prompt, "response": long_response},
    ]
    whole_first = 1 + len(ids("the soup")) + len(ids(long_response)) + 1
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        rows = rows_of(data, max_tokens=whole_first)
    first, second, third = rows.planted.trees
    assert first.num_tokens == whole_first and first.response_ids[0] == [*ids(long_response), EOS]
    assert second.prompt_ids == [BOS, *ids(long_prompt)]
    half = whole_first // 2
    assert third.prompt_ids == [BOS, *ids(long_prompt)[1 - half :]]
    assert third.response_ids[0] == ids(long_response)[: whole_first - half]
    said = caplog.text
    assert "pretraining: 3 rows" in said
    assert "1 prompts cut on the left to half of model.pretraining.max_tokens" in said
    assert "1 of 3 responses cut to half of model.pretraining.max_tokens, no EOS" in said


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "fine"}\n{"txt": "not"}\n')
    with pytest.raises(
        BadRowsError, match=r"model\.pretraining\.path: 1 bad of 2 rows, the first is .*text\.jsonl:2"
    ):
        rows_of(str(path))  # fmt: skip


def test_rows_past_the_models_table_of_positions_are_refused():
    rows = rows_of([{"text": "the soup is tasty and the cake is fresh .", "id": "long"}], max_tokens=64)
    rows.check_positions(GPT2Config(n_positions=64))
    with pytest.raises(ValueError, match=r"the model has 8 positions, too few for 1 of 1 rows"):
        rows.check_positions(GPT2Config(n_positions=8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coef": -1.0}, r"model\.pretraining\.coef: expected 0 or more, found -1\.0"),
        ({"coef": float("nan")}, r"model\.pretraining\.coef: expected 0 or more, found nan"),
        ({"batch_size": 0}, r"model\.pretraining\.batch_size: expected 1 or more, found 0"),
        ({"max_tokens": 1}, r"model\.pretraining\.max_tokens: expected 2 or more, found 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PretrainingMix("text.jsonl", **settings)


# --- in fits

TEXT = [
    {"text": text}
    for text in ("the soup is tasty .", "a train looks late", "my hotel seems lovely .", "cake", "lamp lamp")
]
MIX = {"path": TEXT, "coef": 3.0, "batch_size": 5, "max_tokens": 64}


def loss_of_text(model) -> torch.Tensor:
    """The mean loss of every token of the five texts behind their BOS, by plain calls."""
    losses = []
    for row in TEXT:
        tokens = torch.tensor([[BOS, *ids(row["text"]), EOS]])
        logprobs = torch.log_softmax(model(tokens).logits[0, :-1], -1)
        losses.append(-logprobs.gather(1, tokens[0, 1:, None]))
    return torch.cat(losses).mean()


def gradient_of_text() -> torch.Tensor:
    """At the start, in one vector over the parameters of policy and critic."""
    model = make_llama(TOKENIZER)
    loss_of_text(model).backward()
    by_name = {f"policy.causal_lm.{name}": parameter.grad for name, parameter in model.named_parameters()}
    parts = make_module().network.named_parameters()
    return torch.cat([by_name.get(name, torch.zeros_like(parameter)).flatten() for name, parameter in parts])


@pytest.mark.parametrize(
    ("accumulate", "options"),
    [
        (1, {}),
        (2, {}),
        (4, {}),
        (2, {"temperature": 0.7}),  # that of sampling: text is learnt at 1
        (2, {"loss_mean": "responses"}),
        (2, {"advantage": "reinforce", "baseline": "value", "level": "sequence"}),
    ],
)
def test_the_gradient_is_that_of_both_means(accumulate, options):
    """However the minibatch is split, and however unevenly the texts then are shared out."""
    _, plain = one_update(**options)
    _, mixed = one_update({"accumulate_grad_batches": accumulate}, pretraining=MIX, **options)
    of_text = gradient_of_text()
    expected = plain + 3.0 * of_text
    assert of_text.abs().max() > 0.01
    assert torch.allclose(mixed, expected, atol=1e-4 * expected.abs().max().item())


def _mixed_on_one_rank(accumulate: int) -> np.ndarray:
    spread = {"devices": 2, "strategy": "ddp", "accumulate_grad_batches": accumulate}
    return one_update(spread, pretraining=MIX)[1].numpy()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradient_is_that_of_both_means_on_two_ranks(accumulate):
    """With four steps of two ranks, some shares of the five texts are empty."""
    expected = one_update()[1] + 3.0 * gradient_of_text()
    for gradient in run_distributed(_mixed_on_one_rank, 2, accumulate):
        assert np.allclose(gradient, expected.numpy(), atol=1e-4 * expected.abs().max().item())


def test_text_beside_the_rollouts_is_learnt():
    module = make_module(pretraining=MIX)
    fit(module, max_epochs=3)
    with torch.no_grad():
        assert loss_of_text(module.network.policy.causal_lm) < 0.7 * loss_of_text(make_llama(TOKENIZER))


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_the_rows_go_on_where_they_were_on_resume(tmp_path: Path):
    """Of five rows each minibatch takes two: a resumed run that began anew would take others."""
    mix = {"pretraining": {**MIX, "batch_size": 2}}
    straight = make_module(**mix)
    fit(straight, max_epochs=2)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="inside")
    fit(make_module(**mix), max_epochs=1, enable_checkpointing=True, callbacks=[keep])
    resumed = make_module(**mix)
    fit(resumed, str(tmp_path / "inside.ckpt"), max_epochs=2)
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))

"""Data modules on their own and inside a Lightning trainer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from lit_rlhf.data import tree_datamodule
from lit_rlhf.data.datamodules import (
    DemonstrationDataModule,
    PairDataModule,
    PromptDataModule,
    RankingDataModule,
    read_reference_trees,
)
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.records import ResponseTrees, Row
from tests.conftest import make_llama

PAIRS = [{"prompt": f"prompt {k}", "chosen": "good", "rejected": "bad"} for k in range(30)]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(tree_datamodule, "rank_zero_info", lines.append)
    return lines


class Recorder(LightningModule):
    """Writes down which rows it was given."""

    def __init__(self, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__()
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: ResponseTrees, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.row_indices.tolist()))
        return self.weight * 1.0

    def validation_step(self, batch: ResponseTrees, batch_idx: int) -> None:
        self.validated += batch.row_indices.tolist()

    def rollout_loader(self, rows: list[Row]) -> list[Row]:
        return rows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        **{"default_root_dir": folder, "callbacks": list(callbacks), "num_sanity_val_steps": 0},
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    }
    return Trainer(**{**quiet, **options})


def saving(folder: Path, every: int) -> ModelCheckpoint:
    return ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1, filename="{step}")


def test_tokenizer_and_template_come_from_the_trainers_module(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    module = Recorder(tiny_tokenizer, "chatml")
    data = DemonstrationDataModule(rows, batch_size=1)
    trainer(tmp_path, max_epochs=1).fit(module, data)
    assert data.encoder.tokenizer is tiny_tokenizer
    assert data.example()[0][0] == "<|bos|><|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    data = DemonstrationDataModule(
        rows, batch_size=1, chat_template="{{ messages[0]['content'] }}b{{ eos_token }}"
    )
    with pytest.raises(ValueError, match="rows:1: no token of the response would count"):
        trainer(tmp_path, max_epochs=1).fit(module, data)


def test_no_tokenizer_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"PairDataModule has no tokenizer: give tokenizer=\.\.\."):
        PairDataModule(PAIRS).setup("fit")


def test_tokenizer_by_folder(tiny_model_dir: Path) -> None:
    data = PairDataModule(PAIRS, tokenizer=str(tiny_model_dir))
    assert len(data.trees("train")) == 30


def test_split_is_read_and_tokenized_once(tiny_tokenizer: PreTrainedTokenizerFast, said: list[str]) -> None:
    data = PairDataModule(PAIRS, tokenizer=tiny_tokenizer)
    data.setup("fit")
    first = data.trees("train")
    data.setup("fit")
    assert data.trees("train") is first
    assert len(said) == 1
    assert said[0].startswith("train: 30 rows, ")


def test_every_epoch_sees_every_row_and_validation_runs(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    module = Recorder(tiny_tokenizer)
    data = PairDataModule(PAIRS, val_fraction=0.2, batch_size=5)
    trainer(tmp_path, max_epochs=2).fit(module, data)
    assert module.validated == list(range(6)) * 2
    epochs = [[row for epoch, rows in module.seen if epoch == e for row in rows] for e in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1]


def test_without_validation_data_training_runs(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    module = Recorder(tiny_tokenizer)
    data = PairDataModule(PAIRS, batch_size=5)
    trainer(tmp_path, max_epochs=1).fit(module, data)
    assert (len(module.seen), module.validated, data.rows("val")) == (6, [], [])
    assert list(data.val_dataloader()) == []


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
@pytest.mark.parametrize("size", [{"batch_size": 4}, {"max_tokens": 60}])
@pytest.mark.parametrize("stop", [3, 8])
def test_interrupted_run_goes_on_at_the_exact_row(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, size: dict[str, int], stop: int
) -> None:
    def data() -> PairDataModule:
        return PairDataModule(PAIRS, **size)

    whole = Recorder(tiny_tokenizer)
    trainer(tmp_path, saving(tmp_path, stop), max_epochs=3).fit(whole, data())
    rest = Recorder(tiny_tokenizer)
    checkpoint = tmp_path / f"step={stop}.ckpt"
    trainer(tmp_path, saving(tmp_path, stop), max_epochs=3).fit(
        rest, data(), ckpt_path=checkpoint, weights_only=True
    )
    assert rest.seen == whole.seen[stop:]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_resuming_with_other_data_is_refused(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    trainer(tmp_path, saving(tmp_path, 3), max_epochs=1).fit(
        Recorder(tiny_tokenizer), PairDataModule(PAIRS, batch_size=4)
    )
    with pytest.raises(ValueError, match="rows was 30 and is 29"):
        trainer(tmp_path, saving(tmp_path, 3), max_epochs=1).fit(
            Recorder(tiny_tokenizer),
            PairDataModule(PAIRS[1:], batch_size=4),
            ckpt_path=tmp_path / "step=3.ckpt",
            weights_only=True,
        )


def test_given_validation_file_is_taken_as_it_is_and_shared_prompts_are_counted(
    tiny_tokenizer: PreTrainedTokenizerFast, said: list[str]
) -> None:
    data = PairDataModule(
        PAIRS, val_path=[*PAIRS[:2], {**PAIRS[0], "prompt": "new"}], tokenizer=tiny_tokenizer
    )
    data.setup("fit")
    assert len(data.rows("val")) == 3
    assert data.report["val"].shared_prompts == 2
    assert "  2 distinct prompts shared with the training rows" in said


def test_split_by_row_is_said_aloud(tiny_tokenizer: PreTrainedTokenizerFast, said: list[str]) -> None:
    PairDataModule(PAIRS[:5], val_fraction=0.2, tokenizer=tiny_tokenizer).setup("fit")
    assert any("too few (found 5, a split by prompt needs 20)" in line for line in said)


def test_losses_on_the_way_are_counted_and_said(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, said: list[str]
) -> None:
    rows = [
        {"prompt": "x" * 12, "chosen": "good", "rejected": "bad"},
        {"prompt": "p", "chosen": "y" * 9, "rejected": "bad"},
        {"prompt": "p", "chosen": "zzzz1", "rejected": "zzzz2"},
        {"prompt": "p", "chosen": "zzzz1", "rejected": "zzzz2"},
        {"prompt": "<|bos|><|bos|>p", "chosen": "q", "rejected": "r"},
        {"prompt": "p"},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = PairDataModule(
        str(path), tokenizer=tiny_tokenizer, max_prompt_tokens=8, max_response_tokens=4, bad_rows="skip"
    )
    data.setup("fit")
    report = data.report["train"]
    assert (report.rows, report.no_comparison, report.bad, report.duplicates) == (3, 2, 1, 1)
    assert (report.truncated_prompts, report.truncated_responses, report.identical) == (1, 6, 2)
    assert report.doubled_bos == 1
    assert f"  1 bad rows left out (first: {path}:6: expected" in "\n".join(said)
    assert f"  1 rows repeat an earlier one and are kept (first: {path}:4)" in said
    assert f"  1 prompts came with a double BOS, one kept (first: {path}:5)" in said
    assert f"  2 comparisons dropped, their two sides the same tokens (first: {path}:3)" in said
    assert [row.place for row in data.rows()] == [f"{path}:{line}" for line in (1, 2, 5)]
    assert [tree.id for tree in data.trees()] == [f"{path}:{line}" for line in (1, 2, 5)]


def test_bad_rows_stop_the_run_by_default(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="rows:31: expected `prompt`, `chosen` and `rejected`"):
        PairDataModule([*PAIRS, {"prompt": "p"}], tokenizer=tiny_tokenizer).setup("fit")


def test_rankings_without_a_comparison_are_left_out_and_counted(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 1, 2]},
        {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "r", "responses": ["a", "b"], "ranks": [1, None]},
    ]
    data = RankingDataModule(rows, tokenizer=tiny_tokenizer)
    partly, fully = data.trees()
    assert [(c.better, c.worse, c.tie) for c in partly.comparisons] == [(0, 2, 0), (1, 2, 0), (0, 1, 1)]
    assert [(c.target, c.tie) for c in fully.comparisons] == [(0.5, 1)]
    report = data.report["train"]
    assert (report.no_comparison, report.ties, report.unjudged) == (1, 2, 1)
    assert (report.fully_tied, report.first_fully_tied) == (1, "rows:2")
    assert "  1 rows are nothing but ties, kept (first: rows:2)" in report.lines()
    assert "  1 responses not judged, in no comparison" in report.lines()
    with pytest.raises(ValueError, match=r"data\.path: none of 2 rows tells two responses apart"):
        RankingDataModule(rows[1:], tokenizer=tiny_tokenizer).setup("fit")


def test_example_tells_its_parts_apart(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    data = DemonstrationDataModule([{"messages": turns}], tokenizer=tiny_tokenizer)
    assert data.example() == [
        ("user: a\nassistant: ", "prompt"),
        ("b", "counted"),
        ("<|eos|>", "eos"),
        ("\nuser: c\nassistant: ", "uncounted"),
        ("d", "counted"),
        ("<|eos|>", "eos"),
    ]


def test_text_windows(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = DemonstrationDataModule([{"text": "q" * 10}], tokenizer=tiny_tokenizer, max_response_tokens=4)
    assert [tree.num_tokens for tree in data.trees()] == [5, 5, 4]
    assert "train: 1 rows in 3 windows, 3 prompt tokens, 11 of 11" in data.report["train"].lines()[0]


def test_weights_of_files_reach_the_loader(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for name, rows in {"a": PAIRS[:2], "b": PAIRS[2:4]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = [{"path": str(tmp_path / "a.jsonl"), "weight": 3}, {"path": str(tmp_path / "b.jsonl")}]
    data = PairDataModule(path, tokenizer=tiny_tokenizer, batch_size=8)
    (batch,) = data.train_dataloader()
    assert sorted(batch.row_indices.tolist()) == [0, 0, 0, 1, 1, 1, 2, 3]


def test_prompts_go_to_the_modules_rollout_loader(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"prompt": f"p {k}", "gold": k} for k in range(4)]
    data = PromptDataModule(rows, val_path=rows[2:], tokenizer=tiny_tokenizer, batch_size=2)
    data.trainer = trainer(tmp_path)
    data.trainer.strategy._lightning_module = Recorder(tiny_tokenizer)
    assert [row.columns["gold"] for row in data.train_dataloader()] == [0, 1, 2, 3]
    (batch,) = data.val_dataloader()
    assert (batch.num_trees, batch.num_responses) == (2, 0)
    assert [data.rows("val")[k].columns["gold"] for k in batch.row_indices.tolist()] == [2, 3]


def test_prompts_need_a_module_with_a_rollout_loader(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="such as PPOModule"):
        PromptDataModule([{"prompt": "p"}], tokenizer=tiny_tokenizer).train_dataloader()


def test_prediction_rows_need_no_judgement(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = PairDataModule(
        PAIRS, tokenizer=tiny_tokenizer, predict_path=[{"prompt": "p", "responses": ["a", "b", "c"]}]
    )
    (batch,) = data.predict_dataloader()
    assert (batch.num_responses, len(batch.better)) == (3, 0)


def test_missing_split_and_contradicting_arguments_are_said(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"no rows for test: give data\.test_path"):
        PairDataModule(PAIRS, tokenizer=tiny_tokenizer).test_dataloader()
    with pytest.raises(ValueError, match=r"no rows for train: give data\.path"):
        PairDataModule(val_path=PAIRS, tokenizer=tiny_tokenizer).train_dataloader()
    with pytest.raises(ValueError, match=r"data\.batch_size: expected 1 or more, found 0"):
        PairDataModule(PAIRS, batch_size=0)


def test_reference_responses(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (tree,) = read_reference_trees([{"prompt": "a", "response": "b"}], TextEncoder(tiny_tokenizer))
    assert tiny_tokenizer.decode(tree.prompt_ids + tree.response_ids[0]) == "<|bos|>ab<|eos|>"


def test_a_validation_file_wins_over_the_fraction(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The shipped configs set a fraction; who names a file wants that file, and all of `path` for training."""
    data = PairDataModule(PAIRS, val_path=PAIRS[:3], val_fraction=0.5, tokenizer=tiny_tokenizer)
    assert (len(data.trees("train")), len(data.trees("val"))) == (len(PAIRS), 3)


def test_testing_and_predicting_need_no_training_file(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = PairDataModule(test_path=PAIRS[:4], val_fraction=0.05, tokenizer=tiny_tokenizer)
    data.setup("test")
    assert sum(batch.num_trees for batch in data.test_dataloader()) == 4
    assert data.trees("train") == []


def test_validate_without_validation_rows_is_refused(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    module, data = Recorder(tiny_tokenizer), PairDataModule(PAIRS)
    with pytest.raises(ValueError, match=r"no rows for val: give data\.val_path \(or val_fraction\)"):
        trainer(tmp_path).validate(module, data)
    trainer(tmp_path, max_epochs=1).fit(module, data)  # a fit goes without
    assert module.seen


def test_too_few_rows_for_the_ranks_name_the_split(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = PairDataModule(PAIRS, val_path=PAIRS[:1], tokenizer=tiny_tokenizer)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=None, global_rank=0, world_size=2, lightning_module=None, state=SimpleNamespace(fn="fit")
    )
    with pytest.raises(ValueError, match=r"^val, data\.val_path.*: expected .* ranks \(2\), found 1"):
        data.val_dataloader()


def test_rows_over_the_budget_are_named_by_place_when_they_are_read(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "d.jsonl"
    rows = [{**PAIRS[0], "id": "short"}, {"prompt": "x" * 40, "chosen": "a", "rejected": "b", "id": "long"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = PairDataModule(str(path), tokenizer=tiny_tokenizer, max_tokens=40)
    with pytest.raises(
        ValueError, match=r"data\.max_tokens: .* 1 of 2 rows: .*d\.jsonl:2 with id long \(prompt 41"
    ):
        data.setup("fit")


def test_max_tokens_takes_the_place_of_batch_size(
    tiny_tokenizer: PreTrainedTokenizerFast, said: list[str]
) -> None:
    for size in ({"batch_size": 1}, {"batch_size": None}):
        data = PairDataModule(PAIRS, tokenizer=tiny_tokenizer, max_tokens=10_000, **size)  # type: ignore[arg-type]
        assert len(list(data.train_dataloader())) == 1
    assert any(line.startswith("train: 1 batch an epoch, of 10000 tokens at the most") for line in said)
    with pytest.raises(ValueError, match=r"expected data\.batch_size or data\.max_tokens, found neither"):
        PairDataModule(PAIRS, batch_size=None)


class WithModel(Recorder):
    """Holds a model, which says how many positions there are."""

    def __init__(self, tokenizer: Any, model: PreTrainedModel, new_tokens: int = 0) -> None:
        super().__init__(tokenizer)
        self.network = torch.nn.ModuleList([model])
        self.sampling = SimpleNamespace(max_new_tokens=new_tokens, max_cached_tokens=None)


def gpt2(positions: int) -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=positions, n_embd=8, n_layer=1, n_head=2))


@pytest.mark.parametrize("train", [True, False])
def test_a_fit_refuses_rows_past_the_models_positions(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, train: bool
) -> None:
    long = [{"prompt": "x" * 30, "chosen": "a", "rejected": "bcd", "id": "long"}]
    data = PairDataModule(PAIRS + long if train else PAIRS, val_path=PAIRS if train else long)
    module = WithModel(tiny_tokenizer, gpt2(34))  # 1 + 30 and 3 + 1
    with pytest.raises(
        ValueError, match=r"34 positions, too few for 1 of \d+ rows: rows:\d+ with id long \(prompt 31"
    ):
        trainer(tmp_path, max_epochs=1).fit(module, data)
    assert module.seen == []
    trainer(tmp_path, max_epochs=1).fit(WithModel(tiny_tokenizer, gpt2(35)), data)


def test_a_fit_warns_of_rows_past_rotary_positions_and_goes_on(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    module = WithModel(tiny_tokenizer, make_llama(tiny_tokenizer, max_position_embeddings=4))
    with pytest.warns(UserWarning, match=r"4 positions, too few for 30 of 30 rows: rows:1 .*25 more"):
        trainer(tmp_path, max_epochs=1).fit(module, PairDataModule(PAIRS))
    assert len(module.seen) == 4


def test_prompts_are_held_against_positions_with_what_is_drawn_to_them(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = PromptDataModule([{"prompt": "x" * 9}], tokenizer=tiny_tokenizer)
    data.trainer = trainer(tmp_path)
    data.trainer.strategy._lightning_module = WithModel(tiny_tokenizer, gpt2(20), new_tokens=10)
    data.setup("fit")
    data.trainer.strategy._lightning_module = WithModel(tiny_tokenizer, gpt2(20), new_tokens=11)
    with pytest.raises(ValueError, match=r"20 positions, .*\(prompt 10, and 11 to be drawn\)"):
        data.setup("fit")
    module = WithModel(tiny_tokenizer, gpt2(20), new_tokens=10)
    module.sampling.max_cached_tokens = 19
    data.trainer.strategy._lightning_module = module
    with pytest.raises(ValueError, match=r"model\.max_cached_tokens: 19 cannot hold 1 of 1 rows"):
        data.setup("fit")

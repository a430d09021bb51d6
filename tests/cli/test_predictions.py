"""What ``predict`` writes: lines in the data's order however it was shared out, and rows that can be read again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lit_rlhf import DemonstrationDataModule, PromptDataModule, SFTModule
from lit_rlhf.cli.predictions import PredictionsFile
from lit_rlhf.data.files import read_rows
from lit_rlhf.data.loader import TreeLoader
from lit_rlhf.records import Tree
from tests.modules.training import quiet_trainer

QUESTIONS = [
    {"prompt": [{"role": "user", "content": f"is the soup {k}"}], "id": f"q{k}", "response": "no"}
    for k in range(3)
]


def written(folder: Path, batches_of_ranks: list[list[tuple[Any, list[int]]]]) -> list[int]:
    """The numbers in the file, after each rank wrote (batch, numbers) for each of its batches."""
    world = len(batches_of_ranks)
    # Rank 0 ends last: it puts the parts together.
    for rank in reversed(range(world)):
        trainer: Any = SimpleNamespace(
            global_rank=rank,
            world_size=world,
            is_global_zero=rank == 0,
            default_root_dir=str(folder),
            strategy=SimpleNamespace(barrier=lambda name: None),
        )
        callback, module = PredictionsFile(), LightningModule()
        callback.on_predict_start(trainer, module)
        for number, (batch, rows) in enumerate(batches_of_ranks[rank]):
            callback.on_predict_batch_end(
                trainer, module, [{"n": row, "é": " \u2028"} for row in rows], batch, number
            )
        callback.on_predict_end(trainer, module)
    assert [entry.name for entry in folder.iterdir()] == ["predictions.jsonl"]
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line)["n"] for line in lines]


@pytest.mark.parametrize("sizes", [{"batch_size": 4}, {"max_tokens": 9}])
def test_the_ranks_lines_stand_in_the_order_of_the_data(tmp_path: Path, sizes: dict[str, Any]) -> None:
    trees = [
        Tree([5] * (1 + k % 3), [[1] * (1 + k % 4)], [[True] * (1 + k % 4)], id=f"f:{k}") for k in range(23)
    ]
    loaders = [TreeLoader(trees, shuffle=False, rank=rank, world_size=2, **sizes) for rank in range(2)]
    shares = [[(batch, batch.row_indices.tolist()) for batch in loader] for loader in loaders]
    assert written(tmp_path, shares) == list(range(23))


def test_batches_without_row_numbers_are_dealt_out_in_turn(tmp_path: Path) -> None:
    shares = [[(None, [0, 2, 4]), (None, [5, 7])], [(None, [1, 3]), (None, [6])]]
    assert written(tmp_path, shares) == list(range(8))


def test_more_lines_than_rows_go_by_batch(tmp_path: Path) -> None:
    batch = SimpleNamespace(row_indices=torch.tensor([9, 8]))
    assert written(tmp_path, [[(batch, [0, 1, 2]), (batch, [3, 4])]]) == [0, 1, 2, 4, 3]


def test_predicted_rows_keep_conversations_and_say_whose_they_are(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    module = SFTModule(str(tiny_model_dir), max_new_tokens=3)
    data = DemonstrationDataModule(predict_path=QUESTIONS, batch_size=2)
    batches: Any = quiet_trainer().predict(module, datamodule=data)
    rows = [row for batch in batches for row in batch]
    assert [row["prompt"] for row in rows] == [question["prompt"] for question in QUESTIONS]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2"]
    assert {row["source"] for row in rows} == {str(tiny_model_dir)}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = read_rows(str(tmp_path / "p.jsonl"), "candidates").rows
    assert [row.prompt for row in again] == [question["prompt"] for question in QUESTIONS]


def test_prompts_of_loaders_are_decoded_whatever_data_came_before(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    module = SFTModule(tiny_llama, tokenizer=tiny_tokenizer, max_new_tokens=3)
    trainer = quiet_trainer()
    trainer.predict(module, datamodule=PromptDataModule(predict_path=QUESTIONS))
    other = [Tree(tiny_tokenizer.encode("my hotel"), [], [], id="elsewhere")]
    batches: Any = trainer.predict(module, dataloaders=TreeLoader(other, batch_size=1))
    row = batches[0][0]
    assert (row["prompt"], row["source"]) == ("my hotel", "SFTModule")

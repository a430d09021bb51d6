"""Rows that stay in their files: the same trees as in memory, in an order of their own, taken up at the exact row."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data import tree_datamodule
from lit_rlhf.data.datamodules import DemonstrationDataModule, PairDataModule, RankingDataModule
from lit_rlhf.data.files import BadRowsError
from lit_rlhf.data.streaming import index_files, measuring, row_access, row_index
from lit_rlhf.data.streaming.streamed import Stream, Streamed, looked_at
from lit_rlhf.modules import reward, score_normalization
from lit_rlhf.modules.dpo import DPOModule
from lit_rlhf.modules.reward import RewardModule
from lit_rlhf.modules.sft import SFTModule
from tests.conftest import make_llama, make_tokenizer
from tests.data.test_datamodules import Recorder, WithModel, gpt2, saving, trainer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, sgd, weights_of

ROWS = [{"prompt": f"soup {k}", "response": " tasty" * (1 + k * 7 % 5)} for k in range(40)]
PAIRS = [{"prompt": f"soup {k}", "chosen": " good" * (1 + k % 3), "rejected": " bad"} for k in range(30)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_access, "_CHUNK_BYTES", 300)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for module in (tree_datamodule, row_index):
        monkeypatch.setattr(module, "rank_zero_info", lines.append)
    return lines


def written(folder: Path, rows: list[Any], name: str = "d.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def streamed(path: Any, tokenizer: Any, kind: Any = DemonstrationDataModule, **options: Any) -> Any:
    return kind(path, streaming=True, tokenizer=tokenizer, **{"batch_size": 6, **options})


def orders(data: Any) -> list[list[int]]:
    return [batch.row_indices.tolist() for batch in data.train_dataloader()]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("bad_rows", [[], [{"prompt": "p"}]])
def test_trees_and_counts_are_those_of_rows_in_memory(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, bad_rows: list[Any]
) -> None:
    odd = [
        {"prompt": "x " * 30, "response": "y"},
        ROWS[3],
        {"prompt": "<|bos|><|bos|>p", "response": "z" * 90},
    ]
    path = written(tmp_path, [*ROWS, *odd, *bad_rows, *ROWS[:2]])
    limits: dict[str, Any] = {"max_prompt_tokens": 12, "max_response_tokens": 20, "bad_rows": "skip"}
    stream = streamed(path, tiny_tokenizer, **limits)
    held = DemonstrationDataModule(path, tokenizer=tiny_tokenizer, **limits)
    stream.setup("fit")
    held.setup("fit")
    assert list(stream.trees()) == held.trees()
    assert list(stream.rows()) == held.rows()
    assert isinstance(stream.trees(), Streamed)
    stream.report["train"].notes = []
    assert stream.report["train"] == held.report["train"]
    assert held.report["train"].duplicates == 3
    assert stream.example() == held.example()


def test_messages_text_windows_and_tables_are_streamed_too(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"text": "tasty soup " * 9},
        {"messages": turns},
        {"text": "cake"},
        {"prompt": "", "response": "x"},
    ]
    stream = streamed(rows, tiny_tokenizer, max_response_tokens=7)
    held = DemonstrationDataModule(rows, tokenizer=tiny_tokenizer, max_response_tokens=7)
    assert len(held.trees()) > len(held.rows()) == 4
    assert list(stream.trees()) == held.trees()
    assert list(stream.rows()) == held.rows()
    assert sorted(flat(orders(stream))) == list(range(len(held.trees())))


@pytest.mark.parametrize("size", [{"batch_size": 6}, {"max_tokens": 60}])
def test_workers_change_nothing_and_end(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, size: dict[str, int]
) -> None:
    path = written(tmp_path, ROWS)
    batches = []
    for workers in (0, 1, 2):
        stream_before = torch.get_rng_state()
        batches.append(list(streamed(path, tiny_tokenizer, workers=workers, **size).train_dataloader()))
        assert (torch.get_rng_state() == stream_before).all()  # else dropout would depend on the workers
    assert multiprocessing.active_children() == []
    assert len(batches[0]) > 3
    for alone, *others in zip(*batches, strict=True):
        for other in others:
            assert other.row_ids == alone.row_ids
            assert (other.input_ids == alone.input_ids).all()
    rows = flat(batch.row_indices.tolist() for batch in batches[0])
    assert sorted(rows) == list(range(40))
    assert rows != list(range(40))


def test_a_loop_that_stops_early_ends_the_workers(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    batches = iter(streamed(written(tmp_path, ROWS), tiny_tokenizer, workers=2).train_dataloader())
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_is_of_what_was_handed_out_and_nothing_before_it_is_read_again(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ROWS)
    whole = orders(streamed(path, tiny_tokenizer))
    loader = streamed(path, tiny_tokenizer, workers=workers).train_dataloader()
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (0, 2)
    batches.close()
    read: list[int] = []
    planted = Stream.planted
    monkeypatch.setattr(
        Stream, "planted", lambda self, numbers: read.extend(numbers) or planted(self, numbers)
    )
    resumed = streamed(path, tiny_tokenizer, batch_size=6).train_dataloader()
    resumed.load_state_dict(state)
    assert [batch.row_indices.tolist() for batch in resumed] == whole[2:]
    assert read == flat(whole[2:])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
@pytest.mark.parametrize(
    ("size", "workers"), [({"batch_size": 4}, 0), ({"batch_size": 4}, 1), ({"max_tokens": 60}, 1)]
)
@pytest.mark.parametrize("stop", [3, 11])
def test_an_interrupted_fit_goes_on_at_the_exact_row(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, size: dict[str, int], workers: int, stop: int
) -> None:
    path = written(tmp_path, PAIRS)

    def data() -> PairDataModule:
        return PairDataModule(path, streaming=True, workers=workers, **size)

    whole = Recorder(tiny_tokenizer)
    trainer(tmp_path, saving(tmp_path, stop), max_epochs=3).fit(whole, data())
    assert [sorted(flat(rows for e, rows in whole.seen if e == epoch)) for epoch in range(3)] == [
        list(range(30))
    ] * 3
    rest = Recorder(tiny_tokenizer)
    trainer(tmp_path, saving(tmp_path, stop), max_epochs=3).fit(
        rest, data(), ckpt_path=tmp_path / f"step={stop}.ckpt", weights_only=True
    )
    assert rest.seen == whole.seen[stop:]


def test_state_of_other_data_or_of_rows_in_memory_is_refused(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    path = written(tmp_path, ROWS)
    state = streamed(path, tiny_tokenizer).train_dataloader().state_dict()
    assert all(value is None or isinstance(value, int | bool) for value in state.values())
    held = DemonstrationDataModule(path, tokenizer=tiny_tokenizer, batch_size=6).train_dataloader()
    with pytest.raises(ValueError, match="streaming was None and is True"):
        streamed(path, tiny_tokenizer).train_dataloader().load_state_dict(held.state_dict())
    changed = [*ROWS[:-1], {**ROWS[-1], "prompt": "cake 39"}]
    with pytest.raises(ValueError, match="content was"):
        streamed(written(tmp_path, changed), tiny_tokenizer).train_dataloader().load_state_dict(state)


def test_files_of_a_mixture_are_drawn_by_their_weights(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    first, second = written(tmp_path, ROWS[:4], "a.jsonl"), written(tmp_path, ROWS[4:10], "b.jsonl")
    path = [{"path": first, "weight": 3}, {"path": second, "weight": 0.5}]
    drawn = flat(orders(streamed(path, tiny_tokenizer)))
    assert [drawn.count(tree) for tree in range(4)] == [3] * 4
    assert sorted(drawn.count(tree) for tree in range(4, 10)) == [0, 0, 0, 1, 1, 1]
    data = streamed(path, tiny_tokenizer)
    assert [row.place for row in data.rows()] == [f"{first}:{k}" for k in (1, 2, 3, 4)] + [
        f"{second}:{k}" for k in range(1, 7)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_found_before_training(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, workers: int
) -> None:
    path = written(tmp_path, [*ROWS[:20], {"prompt": "p"}, *ROWS[20:], {"response": 3}, 5, 6])
    with pytest.raises(BadRowsError, match=r"(?s)4 bad of 44 rows:\n  .*d\.jsonl:21: .*:42: .*and 1 more\n"):
        streamed(path, tiny_tokenizer, workers=workers).setup("fit")
    data = streamed(path, tiny_tokenizer, workers=workers, bad_rows="skip")
    assert sorted(flat(orders(data))) == list(range(40))
    assert (data.report["train"].bad, data.report["train"].first_bad.split(": ")[0]) == (4, f"{path}:21")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_that_cannot_be_tokenized_is_named(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, workers: int
) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = written(tmp_path, [*ROWS, {"messages": turns}])
    template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match=r"d\.jsonl:41: no token of the response would count"):
        streamed(path, tiny_tokenizer, workers=workers, chat_template=template).setup("fit")
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_changes_while_it_is_trained_on_stops_the_run(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, workers: int
) -> None:
    path = written(tmp_path, ROWS)
    loader = streamed(path, tiny_tokenizer, workers=workers, shuffle=False).train_dataloader()
    text = Path(path).read_text(encoding="utf-8")
    Path(path).write_text(text.replace("soup 31", "so\\u1234"), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"d\.jsonl:32: the row is not what it was when the file was measured"
    ):
        list(loader)
    assert multiprocessing.active_children() == []


def test_a_file_is_measured_once_for_everything_that_its_numbers_depend_on(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    path = written(tmp_path, ROWS)
    streamed(path, tiny_tokenizer).setup("fit")
    measured: list[int] = []
    measure = measuring.measure_chunk
    monkeypatch.setattr(
        row_index, "measure_chunk", lambda *given: measured.append(given[2]) or measure(*given)
    )
    again = streamed(path, tiny_tokenizer, batch_size=3, seed=4, workers=0)
    again.setup("fit")
    assert measured == []
    assert any(line.startswith(f"{path}: measured before") for line in said)
    assert again.report["train"].rows == 40
    streamed(path, tiny_tokenizer, max_response_tokens=3).setup("fit")
    chunks = len(measured)
    assert measured == list(range(chunks))
    assert chunks > 3
    streamed(path, tiny_tokenizer, chat_template="chatml").setup("fit")
    assert len(measured) == 2 * chunks
    os.utime(path, (1, 1))
    streamed(path, tiny_tokenizer).setup("fit")
    assert len(measured) == 3 * chunks
    assert {name.rsplit(".", 1)[1] for name in os.listdir(tmp_path)} == {"jsonl", "trees", "counts"}


def test_what_is_kept_in_a_folder_is_no_data_of_it(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_index, "_KEPT_EVERY_SECONDS", -1.0)
    written(tmp_path, ROWS[:20], "a.jsonl")
    written(tmp_path, ROWS[20:], "b.jsonl")
    for _ in range(2):
        data = streamed(str(tmp_path), tiny_tokenizer)
        assert [row.prompt for row in data.rows()] == [row["prompt"] for row in ROWS]
    held = DemonstrationDataModule(str(tmp_path), tokenizer=tiny_tokenizer)
    assert held.trees() == list(data.trees())


def test_a_pass_goes_on_where_it_was_interrupted(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, [*ROWS, {"prompt": "bad"}, ROWS[0]])
    monkeypatch.setattr(row_index, "_CHUNKS_AT_ONCE", 2)
    monkeypatch.setattr(row_index, "_KEPT_EVERY_SECONDS", -1.0)
    measured: list[int] = []
    measure = measuring.measure_chunk

    def interrupted(*given: Any) -> Any:
        if given[2] == 5 and len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(given[2])
        return measure(*given)

    monkeypatch.setattr(row_index, "measure_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        streamed(path, tiny_tokenizer, bad_rows="skip").setup("fit")
    data = streamed(path, tiny_tokenizer, bad_rows="skip")
    data.setup("fit")
    assert measured[:7] == [0, 1, 2, 3, 4, 4, 5]  # the fifth was not kept yet
    held = DemonstrationDataModule(path, tokenizer=tiny_tokenizer, bad_rows="skip")
    assert list(data.trees()) == held.trees()
    data.report["train"].notes = []
    assert data.report["train"] == held.report["train"]
    assert not list(tmp_path.glob("*.part"))


def test_two_runs_that_measure_at_once_do_not_write_the_same_parts(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ROWS)
    measure = measuring.measure_chunk
    others: list[Any] = []

    def with_another(*given: Any) -> Any:
        if not others:  # the first chunk of the first run: now the second one runs, whole
            others.append(streamed(path, tiny_tokenizer))
            others[0].setup("fit")
        return measure(*given)

    monkeypatch.setattr(row_index, "measure_chunk", with_another)
    data = streamed(path, tiny_tokenizer)
    data.setup("fit")
    assert list(data.trees()) == list(others[0].trees())
    assert data.report["train"].duplicates == others[0].report["train"].duplicates == 0
    assert {name.rsplit(".", 1)[1] for name in os.listdir(tmp_path)} == {"jsonl", "trees", "counts"}


def test_a_folder_that_cannot_be_written_is_left_alone(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ROWS)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(index_files.tempfile, "gettempdir", lambda: str(elsewhere))
    data = streamed(path, tiny_tokenizer)
    assert len(data.trees()) == 40
    assert sorted(os.listdir(tmp_path)) == ["d.jsonl", "elsewhere"]
    assert len(list(elsewhere.rglob("*.trees"))) == 1


def test_votes_are_judged_row_by_row(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    labels = [{"labeler": name, "choice": choice} for name, choice in (("x", "a"), ("y", "a"), ("z", "b"))]
    votes = {"prompt": "p", "response_a": "q", "response_b": "r", "labels": labels}
    rows = [votes, {**PAIRS[0], "annotator": "x"}, PAIRS[1]]
    for use, prior in (("share", 1.0), ("majority", 0.0), ("each", 0.0)):
        data = streamed(rows, tiny_tokenizer, PairDataModule, votes=use, vote_prior=prior)
        held = PairDataModule(rows, votes=use, vote_prior=prior, tokenizer=tiny_tokenizer)
        assert list(data.trees()) == held.trees()
        assert data.votes() == held.votes()
    for options in ({"reliability": True}, {"votes": "posterior"}):
        with pytest.raises(
            ValueError, match=r"data\.(reliability|votes posterior) .* data\.streaming holds none"
        ):
            streamed(rows, tiny_tokenizer, PairDataModule, **options).setup("fit")


def test_rows_without_a_comparison_are_left_out_and_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [
        {"prompt": "q", "responses": ["a", "b"], "ranks": [1, None]},
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 1, 2]},
    ]
    data = streamed(rows, tiny_tokenizer, RankingDataModule)
    assert [tree.id for tree in data.trees()] == ["rows:2"]
    assert data.report["train"].no_comparison == 1
    with pytest.raises(ValueError, match=r"data\.path: none of 0 rows tells two responses apart"):
        streamed(rows[:1], tiny_tokenizer, RankingDataModule).setup("fit")


def test_rows_that_are_too_long_are_named(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    path = written(tmp_path, [*ROWS[:20], {"prompt": "x" * 60, "response": "y", "id": "long"}, *ROWS[20:]])
    with pytest.raises(
        ValueError, match=r"50 tokens cannot hold 1 of 41 rows: .*:21 with id long \(prompt 61, "
    ):
        streamed(path, tiny_tokenizer, max_tokens=50).setup("fit")
    data = streamed(path, tiny_tokenizer)
    with pytest.raises(ValueError, match=r"60 positions, too few for 1 of 41 rows: .*:21 with id long"):
        trainer(tmp_path, max_epochs=1).fit(WithModel(tiny_tokenizer, gpt2(60)), data)
    assert data.longest()[0].id == "long"
    with pytest.raises(ValueError, match=r"positions, too few for at least 5 of 41 rows"):
        trainer(tmp_path, max_epochs=1).fit(
            WithModel(tiny_tokenizer, gpt2(3)), streamed(path, tiny_tokenizer)
        )


def test_who_looks_at_all_rows_looks_at_some_of_a_stream(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    trees = streamed(ROWS, tiny_tokenizer).trees()
    some = looked_at(trees, most=4)
    assert [tree.id for tree in some] == ["rows:1", "rows:11", "rows:21", "rows:31"]
    assert looked_at([1, 2, 3], most=2) == [1, 2, 3]
    assert [tree.id for tree in trees[38:]] == ["rows:39", "rows:40"]
    assert trees[-1].id == "rows:40"
    with pytest.raises(IndexError):
        trees[40]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streaming": True, "val_fraction": 0.1}, r"give data\.val_path, or set data\.val_fraction to 0"),
        ({"workers": 2}, r"data\.workers 2 read ahead with data\.streaming true"),
        ({"streaming": True, "workers": -1}, r"data\.workers: expected 0 or more, found -1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DemonstrationDataModule(ROWS, **options)


def test_validation_rows_are_held_and_come_from_their_own_file(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    module = Recorder(tiny_tokenizer)
    data = PairDataModule(PAIRS, streaming=True, val_path=PAIRS[:4], val_fraction=0.1, batch_size=5)
    trainer(tmp_path, max_epochs=1).fit(module, data)
    assert module.validated == [0, 1, 2, 3]
    assert isinstance(data.trees("val"), list)
    assert "not counted" in data.report["train"].lines()[-1]


def fitted(path: str, size: dict[str, int], ranks: int) -> tuple[np.ndarray, list[int], list[list[int]]]:
    """Weights after an epoch of plain gradient descent, the chunks this process measured, the rows it read."""
    row_access._CHUNK_BYTES = 300
    row_index._CHUNKS_AT_ONCE = 2
    chunks: list[int] = []
    measure = measuring.measure_chunk
    row_index.measure_chunk = lambda *given: chunks.append(given[2]) or measure(*given)  # type: ignore[assignment]
    read: list[list[int]] = []
    planted = Stream.planted
    Stream.planted = lambda self, numbers: read.append(list(numbers)) or planted(self, numbers)  # type: ignore
    tokenizer = make_tokenizer()
    module = SFTModule(make_llama(tokenizer), optimizer=sgd, tokenizer=tokenizer)
    given: dict[str, Any] = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    data = DemonstrationDataModule(path, streaming=True, **size)  # type: ignore[arg-type]
    quiet_trainer(max_epochs=1, **given).fit(module, data)
    return weights_of(module.network).numpy(), chunks, read[-len(data.train_dataloader()) :]


def test_two_processes_share_the_pass_and_train_as_one_does(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    both = run_distributed(fitted, 2, path, {"batch_size": 5}, 2)
    for found in tmp_path.glob("*.trees"):
        found.unlink()  # so that the one process measures too
    alone, chunks, read = run_distributed(fitted, 1, path, {"batch_size": 5}, 1)[0]
    (one, first, mine), (other, second, theirs) = both
    assert sorted(first + second) == chunks
    assert abs(len(first) - len(second)) <= 1
    assert [sorted(a + b) for a, b in zip(mine, theirs, strict=True)] == [sorted(batch) for batch in read]
    start = weights_of(make_llama(make_tokenizer())).numpy()
    assert (one == other).all()
    assert abs(one - alone).max() < 1e-4 * abs(alone - start).max()


def test_what_goes_wrong_on_one_process_stops_all(tmp_path: Path) -> None:
    """The last row is the second process's, and the first one would wait for it for ever."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = written(tmp_path, [*ROWS, {"messages": turns}])
    said = run_distributed(problem_of_a_fit, 2, path)
    assert "d.jsonl:41: " in said[1]
    assert "rank 1: " in said[0]
    assert "d.jsonl:41: " in said[0]


def problem_of_a_fit(path: str) -> str:
    row_access._CHUNK_BYTES = 300
    tokenizer = make_tokenizer()
    module = SFTModule(make_llama(tokenizer), optimizer=sgd, tokenizer=tokenizer)
    data = DemonstrationDataModule(path, streaming=True, chat_template="{{ messages[0]['content'] }}")
    try:
        quiet_trainer(max_epochs=1, devices=2, strategy="ddp").fit(module, data)
    except Exception as error:
        return str(error)
    return ""


def test_phases_that_look_at_all_rows_take_some_of_them_or_say_no(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*PAIRS, {"prompt": "p", "chosen": "a", "rejected": "b", "tie": True}]
    read: list[int] = []
    planted = Stream.planted
    monkeypatch.setattr(
        Stream, "planted", lambda self, numbers: read.append(len(numbers)) or planted(self, numbers)
    )
    for user in (tree_datamodule, reward, score_normalization):
        monkeypatch.setattr(user, "looked_at", lambda items: looked_at(items, most=3))
    module = RewardModule(
        make_llama(tiny_tokenizer), tokenizer=tiny_tokenizer, loss="pairs", ties="rao_kupper"
    )
    quiet_trainer(max_epochs=1).fit(module, streamed(rows, None, PairDataModule, batch_size=31))
    assert read == [5, 3, 3, 31, 3]  # positions, votes, share of ties, the epoch, the mean score
    module = RewardModule(make_llama(tiny_tokenizer), tokenizer=tiny_tokenizer, loss="ratings")
    with pytest.raises(ValueError, match=r"model\.loss ratings needs .* leave data\.streaming false"):
        quiet_trainer(max_epochs=1).fit(module, streamed(rows, None, PairDataModule))
    dpo = DPOModule(make_llama(tiny_tokenizer), tokenizer=tiny_tokenizer, reference_storage="precomputed")
    with pytest.raises(
        ValueError, match=r"model\.reference_storage: precomputed .* leave data\.streaming false"
    ):
        quiet_trainer(max_epochs=1).fit(dpo, streamed(PAIRS, None, PairDataModule))

"""Single responses with a label: how rows are read, put together by prompt, packed, refused and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data import tree_datamodule
from lit_rlhf.data.datamodules import PairDataModule, RankingDataModule
from lit_rlhf.data.files import BadRowsError, read_rows
from lit_rlhf.data.formats import RowError, parse_row
from lit_rlhf.data.grouping import group_labels
from lit_rlhf.data.labels import LABEL_LOSSES
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.records import Comparison, Label, Tree
from tests.data.test_judging import give_module

GOOD, BAD = Label(True), Label(False)


def said(response: str, label: Any = True, prompt: str = "soup", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "label": label, **more}


def many(count: int) -> list[dict[str, Any]]:
    return [said(f" tasty {k}", k % 3 > 0, f"soup {k}") for k in range(count)]


def data_of(rows: Any, tokenizer: Any, loss: str | None = "kto", **options: Any) -> PairDataModule:
    data = PairDataModule(rows, tokenizer=tokenizer, **options)
    data.module_arguments = {"loss": loss}
    return data


def test_a_labelled_row() -> None:
    row = parse_row(
        said(" good", weight=2, annotator="ann", domain="kitchen", id=7, note="x"), "pairs", "f:1"
    )
    assert (row.prompt, row.responses, row.labels) == ("soup", [" good"], [Label(True, 2.0)])
    assert (row.comparisons, row.votes, row.ranks) == ([], [], None)
    assert (row.annotator, row.domain, row.id, row.columns["note"]) == ("ann", "kitchen", "7", "x")


def test_trls_layout_with_conversations() -> None:
    """Dataset formats of TRL, unpaired preference."""
    prompt = [{"role": "user", "content": "What color is the sky?"}]
    answer = [{"role": "assistant", "content": "It is blue."}]
    row = parse_row({"prompt": prompt, "completion": answer, "label": False}, "pairs", "f:1")
    assert (row.prompt, row.responses, row.labels) == (prompt, [answer], [BAD])
    whole = parse_row({"messages": prompt + answer, "label": True}, "pairs", "f:1")
    assert (whole.prompt, whole.responses, whole.labels) == (prompt, [answer], [GOOD])


def test_cells_of_csv_are_labels_too(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,completion,label,weight\nsoup,good,True,2\nsoup,bad,false,\n")
    assert [row.labels for row in read_rows(str(path), "pairs").rows] == [[Label(True, 2.0)], [BAD]]


def test_a_label_beside_a_pair_is_one_of_its_columns() -> None:
    row = parse_row({"prompt": "p", "chosen": "a", "rejected": "b", "label": 1}, "pairs", "f:1")
    assert (row.labels, row.comparisons, row.columns["label"]) == ([], [Comparison(0, 1)], 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "p", "response": "r"}, r"or `prompt`, `response` and `label`, found fields `prompt`, `response`"),
        (said("r", None), r"or `prompt`, `response` and `label`, found fields `prompt`, `response`"),
        ({"prompt": "p", "label": True}, r"`prompt`, `response` and `label`, found fields `prompt`, `label`"),
        ({"text": "p", "label": True}, r"`prompt`, `response` and `label`, found fields `text`, `label`"),
        (said("r", 1), r"`label` to be true \(desirable\) or false \(undesirable\), found 1"),
        (said("r", "good"), r"`label` to be true \(desirable\) or false \(undesirable\), found 'good'"),
        (said(""), r"some text in `response`, found an empty one"),
        (said([{"role": "assistant", "content": ""}]), r"some text in `response`, found an empty one"),  # type: ignore[arg-type]
        (said("r", weight=-1), r"`weight` of 0 or more, found -1"),
        (said("r", margin=0.5), r"no `margin` beside `label`, which is of one response, found 0.5"),
        (said("r", tie=False), r"no `tie` beside `label`"),
        (said("r", target=0.5), r"no `target` beside `label`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_file_and_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match="^f:7: expected .*" + message):
        parse_row(fields, "pairs", "f:7")


def test_bad_labels_stop_the_run_or_are_skipped(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [*many(4), said("r", "yes")]
    with pytest.raises(BadRowsError, match="rows:5: expected `label` to be true"):
        data_of(rows, tiny_tokenizer).setup("fit")
    data = data_of(rows, tiny_tokenizer, bad_rows="skip")
    data.setup("fit")
    assert (data.report["train"].rows, data.report["train"].bad) == (4, 1)


def grouped(*rows: dict[str, Any]) -> Any:
    return group_labels(read_rows(list(rows), "pairs"))


def test_responses_of_one_prompt_become_one_row_wherever_they_stand() -> None:
    read = grouped(
        said(" a", annotator="ann", id="first", note=1),
        said(" x", False, "cake"),
        said(" b", False, annotator="ann", weight=2),
        said(" c", domain="kitchen"),
        said(" d", annotator="ann"),
    )
    soup, cake, kitchen = read.rows
    assert (soup.responses, soup.labels) == ([" a", " b", " d"], [GOOD, Label(False, 2.0), GOOD])
    assert (soup.id, soup.place, soup.annotator) == ("first", "rows:1", "ann")
    assert soup.columns["note"] == [1, None, None] and soup.columns["label"] == [True, False, True]
    assert (cake.responses, cake.columns["label"]) == ([" x"], False)
    assert (kitchen.responses, kitchen.domain) == ([" c"], "kitchen")
    assert read.notes == ["3 of 5 labelled responses share 1 prompts, one row each now"]
    assert read.weights == [1.0] * 3


def test_annotators_who_differ_are_nobodys_row() -> None:
    (row,) = grouped(said(" a", annotator="ann"), said(" b", annotator="bob")).rows
    assert row.annotator is None and row.columns["annotator"] == ["ann", "bob"]


def test_files_drawn_with_other_weights_stay_apart(tmp_path: Path) -> None:
    for name in "xy":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(said(name)))
    paths = [{"path": str(tmp_path / f"{name}.jsonl"), "weight": w} for name, w in (("x", 1.0), ("y", 2.0))]
    read = group_labels(read_rows(paths, "pairs"))
    assert (len(read.rows), read.weights) == (2, [1.0, 2.0])


def test_pairs_are_left_as_they_are() -> None:
    read = read_rows([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2, "pairs")
    assert group_labels(read) is read


def test_repeated_and_contradicting_labels_are_kept_counted_and_said(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [*many(4), said(" x"), said(" x"), said(" x", False), said(" y", False), said(" y", False)]
    data = data_of(rows, tiny_tokenizer)
    report = (data.trees(), data.report["train"])[1]
    assert data.trees()[-1].labels == [GOOD, GOOD, BAD, BAD, BAD]
    assert (report.duplicates, report.contradicted) == (3, 1)
    lines = report.lines()
    assert "  5 rows have labels, 4 responses desirable and 5 not" in lines
    assert "  3 rows repeat an earlier one and are kept (first: rows:6)" in lines
    contradicted = [line for line in lines if "labels of both kinds" in line]
    assert contradicted == [
        "  1 responses have labels of both kinds, or were cut to the same tokens; all labels kept (first: rows:5)"
    ]


def test_labels_of_responses_cut_to_the_same_tokens_are_counted(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [*many(3), said("zzzz1"), said("zzzz2", False), said("zz")]
    data = data_of(rows, tiny_tokenizer, max_response_tokens=4)
    assert len(data.trees()) == 4
    assert (data.report["train"].contradicted, data.report["train"].duplicates) == (1, 0)


def test_the_batch_says_what_each_response_was_called(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [
        said(" a", weight=3),
        said(" b", False),
        said(" c", False, "cake"),
        said(" d", prompt="tea", weight=0),
    ]
    pair = {"prompt": "pie", "chosen": " e", "rejected": " f"}
    data = data_of([*rows, pair], tiny_tokenizer, shuffle=False)
    (batch,) = data.train_dataloader()
    nan = float("nan")
    torch.testing.assert_close(batch.desirable, torch.tensor([1.0, 0.0, 0.0, 1.0, nan, nan]), equal_nan=True)
    assert batch.label_weight.tolist() == [3, 1, 1, 0, 0, 0]
    assert batch.label_weights().tolist() == [1.5, 0.5, 1, 0, 0, 0]
    assert (batch.better.tolist(), batch.worse.tolist()) == ([4], [5])
    assert batch.to("meta").desirable.device.type == "meta"
    lines = data.report["train"].lines()
    assert (
        "  3 rows have labels, 2 responses desirable and 2 not; the other 1 compare responses, and both are "
        "learnt from" in lines
    )


def test_trees_without_labels_have_none() -> None:
    packed = pack_trees([Tree([5], [[6, 1]], [[True] * 2]), Tree([7])])
    assert packed.desirable.isnan().tolist() == [True]
    assert packed.label_weight.tolist() == packed.label_weights().tolist() == [0]


def test_a_prompt_is_there_once(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (tree,) = data_of([said(" a"), said(" bcd", False), said(" e")], tiny_tokenizer).trees()
    assert len(tree.response_ids) == 3 and tree.prompt_ids == tiny_tokenizer("<|bos|>soup")["input_ids"]


def test_a_split_keeps_a_prompts_labels_together(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [said(f" {word}", word == "a", f"soup {k}") for word in "ab" for k in range(30)]
    data = data_of(rows, tiny_tokenizer, val_fraction=0.2)
    assert (len(data.trees("train")), len(data.trees("val"))) == (24, 6)
    assert all(tree.labels == [GOOD, BAD] for split in ("train", "val") for tree in data.trees(split))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "streaming"),
    [("sigmoid", False), ("sigmoid", True), ("plackett_luce", False), ("pairs", True), ("ratings", False)],
)
def test_a_module_that_learns_from_comparisons_alone_is_refused(
    loss: str, streaming: bool, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = PairDataModule(many(4), tokenizer=tiny_tokenizer, streaming=streaming)
    give_module(data, loss=loss)
    message = (
        "rows:1: expected two responses that are compared, found one with a `label`: .* "
        "model.loss kto, bco or apo_zero, or give pairs"
    )
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


@pytest.mark.parametrize("loss", [*LABEL_LOSSES, None])
def test_who_learns_from_labels_or_says_nothing_gets_them(
    loss: str | None, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert len(data_of(many(4), tiny_tokenizer, loss).trees()) == 4


def test_the_losses_that_learn_from_labels_are_those_that_say_how() -> None:
    assert {name for name, method in METHODS.items() if method.of_labels is not None} == set(LABEL_LOSSES)


def test_prompts_are_sampled_for_whatever_is_said_of_responses(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    data = PairDataModule(predict_path=many(3), tokenizer=tiny_tokenizer)  # type: ignore[arg-type]
    give_module(data, loss="sigmoid")
    data.setup("predict")
    assert [row.prompt for row in data.rows("predict")] == ["soup 0", "soup 1", "soup 2"]


def test_streamed_rows_stay_apart(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(tree_datamodule, "rank_zero_info", lines.append)
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, [*many(5), said(" b", False, "soup 0")])))
    data = data_of(str(path), tiny_tokenizer, streaming=True, batch_size=3)
    trees = list(data.trees())
    assert [tree.labels for tree in trees] == [[Label(k % 3 > 0)] for k in range(5)] + [[BAD]]
    assert sum((~batch.desirable.isnan()).sum().item() for batch in data.train_dataloader()) == 6
    assert "  6 rows have labels, 3 responses desirable and 3 not" in lines
    assert any("labelled responses of one prompt stay apart" in line for line in lines)


def test_rankings_with_two_equal_responses_are_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Whether they were given so or cut to the same tokens; what they say of the third is kept."""
    rows = [
        {"prompt": "p", "responses": ["same", "mid", "same"], "ranks": [1, 2, 3]},
        {"prompt": "q", "responses": ["zzzz1", "zzzz2", "b"], "ranks": [1, 2, 3]},
        {"prompt": "r", "responses": ["same", "same"], "ranks": [1, 2]},
    ]
    data = RankingDataModule(rows, tokenizer=tiny_tokenizer, max_response_tokens=4)
    first, second = data.trees()
    assert [(c.better, c.worse) for c in first.comparisons] == [(0, 1), (1, 2)]
    assert [(c.better, c.worse) for c in second.comparisons] == [(0, 2), (1, 2)]
    report = data.report["train"]
    assert (report.identical, report.no_comparison, report.first_identical) == (3, 1, "rows:1")


@pytest.mark.parametrize("loss", [*METHODS, "pairs", "best_of_k"])
def test_pairs_of_one_text_are_refused_or_counted_for_every_loss(
    loss: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Also where votes, a tie or a weight are all that is said of them."""
    rows: list[dict[str, Any]] = [{"prompt": f"p{k}", "chosen": "good", "rejected": "bad"} for k in range(3)]
    same = {"prompt": "p", "chosen": "same", "rejected": "same"}
    ballot = {"prompt": "p", "response_a": "same", "response_b": "same", "labels": [{"choice": "a"}]}
    for wrong in (same, ballot):
        with pytest.raises(
            BadRowsError, match=r"rows:4: expected two different responses, found .* both 'same'"
        ):
            data_of([*rows, wrong], tiny_tokenizer, loss).setup("fit")
    cut = {"prompt": "p", "chosen": "zzzz1", "rejected": "zzzz2"}
    data = data_of([*rows, cut, {**cut, "tie": True}], tiny_tokenizer, loss, max_response_tokens=4)
    data.setup("fit")
    report = data.report["train"]
    assert (report.rows, report.identical, report.no_comparison) == (3, 2, 2)
    assert "  2 comparisons dropped, their two sides the same tokens (first: rows:4)" in report.lines()

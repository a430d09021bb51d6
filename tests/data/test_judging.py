"""What data modules make of votes, ties and ratings, and that batches point at the rows they were made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data.datamodules import PairDataModule, RankingDataModule
from lit_rlhf.records import Comparison


def votes(prompt: str, choices: dict[str, str], **more: Any) -> dict[str, Any]:
    labels = [{"labeler": name, "choice": choice} for name, choice in choices.items()]
    return {"prompt": prompt, "response_a": "good", "response_b": "bad", "labels": labels, **more}


def ballots(count: int = 24) -> list[dict[str, Any]]:
    """Three agree everywhere, `foe` with them on every other row."""
    answers = ["ab"[k % 2] for k in range(count)]
    return [
        votes(f"prompt {k}", {"x": answer, "y": answer, "z": answer, "foe": "a"})
        for k, answer in enumerate(answers)
    ]


def give_module(data: Any, hparams: dict[str, Any] | None = None, **attributes: Any) -> None:
    """A trainer with a module that has these attributes and hyper-parameters."""
    module = SimpleNamespace(**attributes, hparams=hparams or {}, modules=list)
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1, current_epoch=0)


def test_votes_are_soft_labels_and_stay_with_the_row(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = PairDataModule([votes("p", {"x": "b", "y": "b", "z": "b", "w": "tie"})], tokenizer=tiny_tokenizer)
    (row,), (tree,) = data.rows(), data.trees()
    assert tree.comparisons == row.comparisons == [Comparison(1, 0, 0.875, tie=0.25)]
    assert len(row.votes) == 4
    assert "  4 votes of 4 annotators on 1 rows, 1 of them ties" in data.report["train"].lines()


@pytest.mark.parametrize(
    ("options", "comparisons"),
    [
        ({"vote_prior": 1.0}, [Comparison(0, 1, 4 / 6)]),
        ({"votes": "majority"}, [Comparison(0, 1)]),
        ({"votes": "each"}, [Comparison(0, 1)] * 3 + [Comparison(1, 0)]),
    ],
)
def test_uses_of_votes(
    options: dict[str, Any], comparisons: list[Comparison], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [votes("p", {"x": "a", "y": "a", "z": "a", "w": "b"})]
    data = PairDataModule(rows, tokenizer=tiny_tokenizer, **options)
    assert data.trees()[0].comparisons == comparisons
    (batch,) = data.train_dataloader()
    assert batch.comparison_weights().sum() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vote_prior": -1.0}, r"data\.vote_prior: expected votes of 0 or more, found -1"),
        (
            {"vote_prior": 1.0, "votes": "majority"},
            r"data\.vote_prior goes with data\.votes share, found majority",
        ),
        ({"votes": "posterior", "reliability": True}, r"data\.reliability: data\.votes posterior weighs"),
    ],
)
def test_contradicting_uses_of_votes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairDataModule(ballots(), **options)


@pytest.mark.parametrize("options", [{"reliability": True}, {"votes": "posterior"}])
def test_annotators_are_known_from_training(
    options: dict[str, Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The validation rows alone would say that `foe` is one of two who always agree."""
    held_out = [votes(f"new {k}", {"x": "b", "foe": "a", "new": "a"}) for k in range(5)]
    data = PairDataModule(ballots(), val_path=held_out, tokenizer=tiny_tokenizer, **options)
    said = data.trees("val")[0].comparisons[0]
    x, foe, new = (data._reliability.weight(name) for name in ("x", "foe", "new"))  # type: ignore[union-attr]
    assert x > new > foe
    if "reliability" in options:
        assert (said.better, said.target) == (0, pytest.approx((foe + new) / (x + foe + new)))
    lines = data.report["val"].lines()
    assert any("10 of 15 votes are by annotators known from there" in line for line in lines)
    assert any("4 annotators estimated to judge" in line for line in data.report["train"].lines())

    alone = PairDataModule(val_path=held_out, tokenizer=tiny_tokenizer, **options)
    assert alone.trees("val")[0].comparisons[0].target > said.target
    assert any("3 annotators estimated to judge" in line for line in alone.report["val"].lines())


def test_a_validation_split_says_nothing_about_the_annotators(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    data = PairDataModule(ballots(40), val_fraction=0.5, reliability=True, tokenizer=tiny_tokenizer)
    data.trees("val")
    half = [row for row in ballots(40) if row["prompt"] in {row.prompt for row in data.rows()}]
    expected = PairDataModule(half, reliability=True, tokenizer=tiny_tokenizer)
    expected.trees()
    assert len(half) == 20
    assert data._reliability == expected._reliability


def test_where_training_has_no_votes_every_split_speaks_for_itself(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    plain = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    data = PairDataModule(
        plain, val_path=ballots(), test_path=ballots(6), reliability=True, tokenizer=tiny_tokenizer
    )
    alone = PairDataModule(test_path=ballots(6), reliability=True, tokenizer=tiny_tokenizer)
    data.setup("fit")
    assert [tree.comparisons for tree in data.trees("test")] == [
        tree.comparisons for tree in alone.trees("test")
    ]


def test_reliability_needs_rows_with_several_votes(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "x"}]
    for options, name in (
        ({"reliability": True}, "reliability"),
        ({"votes": "posterior"}, "votes posterior"),
    ):
        with pytest.raises(ValueError, match=rf"data\.{name}: expected two or more votes on a row"):
            PairDataModule(rows, tokenizer=tiny_tokenizer, **options).trees()  # type: ignore[arg-type]


def test_votes_without_a_labeler_are_said(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    unsigned = {**votes("p", {}), "labels": [{"choice": "a"}, {"choice": "b"}]}
    rows = [*ballots(4), unsigned, {"prompt": "q", "chosen": "a", "rejected": "b"}]
    data = PairDataModule(rows, reliability=True, tokenizer=tiny_tokenizer)
    data.trees()
    lines = data.report["train"].lines()
    assert "  18 votes of 4 annotators on 5 rows, 0 of them ties" in lines
    assert "  2 votes name no labeler and count like the average annotator's" in lines


def test_annotated_pairs_are_merged_for_training_and_left_alone_to_predict(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "x"},
        {"prompt": "p", "chosen": "b", "rejected": "a", "annotator": "y"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "z"},
    ]
    data = PairDataModule(rows, predict_path=rows, tokenizer=tiny_tokenizer)
    (tree,) = data.trees()
    assert tree.comparisons == [Comparison(0, 1, 2 / 3)]
    assert "  3 rows were votes on 1 pairs, one row each now" in data.report["train"].lines()
    assert len(data.trees("predict")) == 3


TIED = [
    {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 1, 2]},
    {"prompt": "q", "responses": ["a", "b"], "scores": [5, 5]},
    {"prompt": "r", "responses": ["a", "b"], "ranks": [1, None]},
    {"prompt": "s", "responses": ["a", "b"], "ranks": [2, 1]},
]


def test_a_module_that_drops_ties_gets_none(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = RankingDataModule(TIED, tokenizer=tiny_tokenizer)
    give_module(data, ties="drop")
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert (batch.num_trees, batch.tie.tolist(), batch.target.tolist()) == (2, [0] * 3, [1] * 3)
    assert data.trees()[0].comparisons == data.rows()[0].comparisons == [Comparison(0, 2), Comparison(1, 2)]
    report = data.report["train"]
    assert (report.no_comparison, report.fully_tied, report.ties) == (1, 1, 2)
    assert "  1 rows are nothing but ties, left out (first: rows:2)" in report.lines()
    assert "  2 comparisons are ties, left out" in report.lines()
    only_ties = RankingDataModule(TIED[1:2], tokenizer=tiny_tokenizer)
    give_module(only_ties, ties="drop")
    with pytest.raises(ValueError, match=r"data\.path: none of 1 rows tells two responses apart"):
        only_ties.setup("fit")


def test_the_next_module_takes_ties_its_own_way(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = RankingDataModule(TIED, tokenizer=tiny_tokenizer)
    counts = []
    for ties in ("half", "drop", "drop", "rao_kupper"):
        give_module(data, ties=ties)
        data.setup("fit")
        counts.append((len(data.trees()), sum(len(tree.comparisons) for tree in data.trees())))
    assert counts == [(3, 5), (2, 3), (2, 3), (3, 5)]


def test_dropped_ties_of_votes_leave_the_rest_of_the_row(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [votes("p", {"x": "b", "y": "tie", "z": "b", "w": "a"}), votes("q", {"x": "tie", "y": "tie"})]
    data = PairDataModule(rows, tokenizer=tiny_tokenizer)
    give_module(data, ties="drop")
    data.setup("fit")
    (tree,) = data.trees()
    (said,) = tree.comparisons
    assert (said.better, said.tie, said.weight) == (1, 0, 0.75)
    assert said.target == pytest.approx(2 / 3)


def test_a_module_that_learns_ratings_takes_rows_without_a_comparison(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = [
        {"prompt": "p", "responses": ["a"], "scores": [3], "annotator": "ann"},
        {"prompt": "q", "responses": ["a", "b"], "scores": [5, 5], "annotator": "ann"},
        {"prompt": "r", "responses": ["a", "b"], "scores": [None, None]},
    ]
    data = RankingDataModule(rows, tokenizer=tiny_tokenizer)
    give_module(data, {"loss": "ratings"}, ties="drop")
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert sorted(batch.ratings.tolist()) == [3, 5, 5]
    assert batch.annotators == ["ann", "ann"]
    give_module(data, {"loss": "pairs"}, ties="half")
    with pytest.raises(ValueError, match="none of 3 rows tells two responses apart"):
        data.setup("fit")


def test_helpsteer_rows_become_rankings(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    others = {"correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
    rows = [
        {"prompt": "p", "response": text, "helpfulness": rating, **others}
        for text, rating in (("a", 1), ("b", 4), ("c", 4))
    ]
    data = RankingDataModule(rows, predict_path=rows, tokenizer=tiny_tokenizer)
    (tree,) = data.trees()
    assert (tree.ranks, tree.ratings) == ([3, 1, 1], [1, 4, 4])
    assert "  3 rows of one rated response became 1 rankings" in data.report["train"].lines()
    assert len(data.trees("predict")) == 3


@pytest.mark.parametrize("ties", ["half", "drop"])
def test_row_indices_point_at_the_rows(ties: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Some rows are left out, some merged, some made shorter: the rest stays aligned, in every order."""
    rankings = [
        {
            "id": str(k),
            "prompt": f"prompt {k}",
            "responses": [f"a{k}", "b", "c"],
            "ranks": [1, 1, 1] if k % 3 == 0 else [1, 2, 2] if k % 3 == 1 else [1, None, None],
        }
        for k in range(30)
    ]
    pairs = [
        {
            "prompt": f"prompt {k // 2}",
            **{"chosen": f"a{k // 2}", "rejected": "bad", "annotator": str(k % 2), "tie": k % 3 == 0},
        }
        for k in range(40)
    ]
    for data in (
        RankingDataModule(rankings, tokenizer=tiny_tokenizer, batch_size=4, seed=3),
        PairDataModule(pairs, tokenizer=tiny_tokenizer, batch_size=4, seed=3),
    ):
        give_module(data, ties=ties)
        data.setup("fit")
        rows, trees = data.rows(), data.trees()
        assert (
            len(rows)
            == len(trees)
            == {"half": 20, "drop": 10 if "Ranking" in type(data).__name__ else 20}[ties]
        )
        seen: list[int] = []
        for batch in data.train_dataloader():
            responses, start = batch.input_ids.split(batch.segment_lengths), 0
            for place, index in enumerate(batch.row_indices.tolist()):
                row = rows[index]
                assert batch.row_ids[place] == (row.id or row.place)
                prompt, *answers = responses[start : start + 1 + len(row.responses)]
                start += 1 + len(row.responses)
                assert tiny_tokenizer.decode(prompt) == f"<|bos|>{row.prompt}"
                assert [tiny_tokenizer.decode(ids) for ids in answers] == [
                    f"{r}<|eos|>" for r in row.responses
                ]
                mine = batch.tree_index[batch.better] == place
                assert batch.target[mine].tolist() == pytest.approx([c.target for c in row.comparisons])
            seen += batch.row_indices.tolist()
        assert sorted(seen) == list(range(len(rows)))
        assert seen != sorted(seen)
        assert torch.tensor(data.plant("train").weights).eq(1).all()

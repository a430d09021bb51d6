"""What data modules make of votes, ties and ratings, and that batches point at the rows they were made of."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data.datamodules import PairDataModule, RankingDataModule
from lit_rlhf.data.planting import MOST_TIED
from lit_rlhf.losses.rankings import MAX_TIED, plackett_luce_loss
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
    data.trainer = SimpleNamespace(
        strategy=None, lightning_module=module, global_rank=0, world_size=1, current_epoch=0
    )


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


@pytest.mark.parametrize(
    "options",
    [
        {"reliability": True},
        {"votes": "posterior"},
        {"votes": "majority"},
        {"votes": "each"},
        {"vote_prior": 2.0},
    ],
)
def test_validation_and_test_rows_have_plain_shares_of_votes_whatever_trains(
    options: dict[str, Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    held_out = [votes(f"new {k}", {"x": "b", "foe": "a", "new": "a", "w": "tie"}, weight=2) for k in range(5)]
    data = PairDataModule(
        ballots(), val_path=held_out, test_path=held_out, tokenizer=tiny_tokenizer, **options
    )
    for split in ("val", "test"):
        assert [tree.comparisons for tree in data.trees(split)] == [  # type: ignore[arg-type]
            [Comparison(0, 1, 0.625, weight=2.0, tie=0.25)]
        ] * 5
        said = data.report[split].lines()
        assert "  labels are shares of votes, whatever is trained on; a tie is half a vote for either" in said
    plain = PairDataModule(ballots(), tokenizer=tiny_tokenizer)
    assert [tree.comparisons for tree in data.trees()] != [tree.comparisons for tree in plain.trees()]
    assert not any("labels are shares" in line for line in data.report["train"].lines())


def test_annotators_are_estimated_on_the_training_rows_alone(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    data = PairDataModule(ballots(40), val_fraction=0.5, reliability=True, tokenizer=tiny_tokenizer)
    half = [row for row in ballots(40) if row["prompt"] in {row.prompt for row in data.rows()}]
    expected = PairDataModule(half, reliability=True, tokenizer=tiny_tokenizer)
    assert len(half) == 20
    assert [tree.comparisons for tree in data.trees()] == [tree.comparisons for tree in expected.trees()]
    assert any("4 annotators estimated to judge" in line for line in data.report["train"].lines())


def test_votes_are_those_of_all_rows_read(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [
        votes("p", {"x": "a", "y": "a"}),
        votes("q", {"x": "a", "y": "b"}),
        votes("r", {"x": "tie"}),
        {"prompt": "s", "chosen": "a", "rejected": "b"},
    ]
    data = PairDataModule(rows, votes="majority", tokenizer=tiny_tokenizer)
    give_module(data, ties="drop")
    data.setup("fit")
    assert len(data.rows()) == 2
    assert [[vote.choice for vote in row] for row in data.votes()] == [[1, 1], [1, 0], [0.5]]
    assert data.votes("test") == []
    assert (
        "  2 rows are nothing but ties or even votes, left out (first: rows:2)"
        in data.report["train"].lines()
    )


def tied(count: int, below: int = 1) -> list[dict[str, Any]]:
    ranks = [1.0] * count + [2.0] * below
    return [
        {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "p", "responses": [f"r{k}" for k in range(len(ranks))], "ranks": ranks},
    ]


def test_more_tied_responses_than_the_loss_takes_are_refused_by_row(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert MOST_TIED == MAX_TIED
    for ties in ("half", "drop"):
        data = RankingDataModule(tied(13), tokenizer=tiny_tokenizer)
        give_module(data, {"loss": "plackett_luce"}, ties=ties)
        with pytest.raises(
            ValueError, match=r"^rows:2: expected at most 12 .* plackett_luce, found 13 of rank 1"
        ):
            data.setup("fit")
        data = RankingDataModule(tied(12), tokenizer=tiny_tokenizer)
        give_module(data, {"loss": "plackett_luce"}, ties=ties)
        data.setup("fit")
    data = RankingDataModule(tied(13), predict_path=tied(13), tokenizer=tiny_tokenizer)
    give_module(data, {"loss": "pairs"}, ties="half")
    data.setup("fit")
    give_module(data, {"loss": "plackett_luce"}, ties="half")
    data.setup("predict")  # nothing is learnt there


@pytest.mark.parametrize("ties", ["half", "drop"])
def test_the_last_ones_of_a_ranking_count_as_tied_only_where_ties_do(
    ties: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Held against the loss itself."""
    rows = tied(1, below=13)
    data = RankingDataModule(rows, tokenizer=tiny_tokenizer)
    give_module(data, {"loss": "plackett_luce"}, ties=ties)
    ranks = torch.tensor(rows[1]["ranks"])
    refused = pytest.raises(ValueError, match="at most 12") if ties == "half" else nullcontext()
    with refused:
        data.setup("fit")
    with refused:
        plackett_luce_loss(torch.zeros(14), ranks, torch.zeros(14).long(), ties)  # type: ignore[arg-type]


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
    (row,) = data.rows()
    (said,) = tree.comparisons
    assert (row.responses[said.better], said.target) == ("a", 2 / 3)
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

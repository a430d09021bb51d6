"""One data module for each kind of data file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.files import BadRows, DataPath, RowSet, read_rows
from lit_rlhf.data.grouping import group_labels, group_ratings, merge_annotated_pairs
from lit_rlhf.data.planting import Planted
from lit_rlhf.data.reliability import Reliability, estimate_reliability
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.sources import Split
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.data.votes import VoteUse, compare_votes
from lit_rlhf.records import Row, Tree


class DemonstrationDataModule(TreeDataModule):
    """Demonstrations for SFT: `prompt` and `response`, or `messages`, or `text`."""

    kind = "demonstrations"


class PairDataModule(TreeDataModule):
    """Pairs for reward models and DPO: `prompt`, `chosen`, `rejected`; or votes on `response_a`, `response_b`.

    For losses that learn from single responses, such as KTO, also `prompt`, `response` and `label`, true where the
    response is desirable; the labelled responses of one prompt become one row (streamed ones stay apart). A file may
    hold pairs beside them, which is counted and said.

    Pairs that name their `annotator` are votes too: those of several annotators on the same two responses become
    one row.

    Args:
        path: Training data: a file, folder or hub name, a list of them, or of ``{path, weight}``. Not needed
            for ``test`` and ``predict``.
        votes: What a training row's votes are made into. ``share``: a soft label, the share of votes. ``majority``:
            the answer that most gave. ``each``: a comparison a vote. ``posterior``: the probability by Dawid and
            Skene's model, which finds out who can be trusted from who agrees with whom. Validation and test rows
            always have the plain share of votes, so that evaluations compare whatever was trained on. Shares gave a
            better log-loss than the majority on two of three data sets (by 0.04 and 0.15 nats); the posterior fails
            where annotators vote seldom (benchmarks/results/reward_studies.md).
        vote_prior: Votes that each side is given beforehand in training, with ``share``: 1 turns 3 : 0 into 4 : 1.
        reliability: Whether votes count in training by how reliable their annotator is, estimated from agreement
            with the others; not with ``posterior``, which weighs them anyway. Helps where some answer blindly.
        options: What every data module takes; see :class:`~lit_rlhf.data.tree_datamodule.TreeDataModule`.

    Raises:
        ValueError: `vote_prior` is below 0 or goes with other votes than ``share``, or `reliability` goes with
            ``posterior``.
    """

    kind = "pairs"
    compares = True

    def __init__(
        self,
        path: DataPath | None = None,
        votes: VoteUse = "share",
        vote_prior: float = 0.0,
        reliability: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(path, **options)
        if vote_prior < 0:
            raise ValueError(f"data.vote_prior: expected votes of 0 or more, found {vote_prior}")
        if vote_prior and votes != "share":
            raise ValueError(f"data.vote_prior goes with data.votes share, found {votes}")
        if reliability and votes == "posterior":
            raise ValueError(
                "data.reliability: data.votes posterior weighs annotators anyway; leave it false"
            )
        self.vote_use: VoteUse = votes
        self.vote_prior = vote_prior
        self.reliability = reliability

    def judge(self, split: Split, rows: list[Row], report: SplitReport) -> list[Row]:
        """The rows, those to train on with their votes made into comparisons; see `votes`.

        All others keep what they were read with, the plain share of votes.
        """
        if not any(row.votes for row in rows):
            return rows
        if split != "train":
            report.notes.append(
                "labels are shares of votes, whatever is trained on; a tie is half a vote for either"
            )
            return rows
        reliability = None
        if self.reliability or self.vote_use == "posterior":
            reliability = self._annotators(rows, report)
        return [
            replace(
                row,
                comparisons=compare_votes(
                    row.votes, self.vote_use, self.vote_prior, reliability, row.comparisons[0].weight
                ),
            )
            if row.votes
            else row
            for row in rows
        ]

    def row_judge(self) -> partial[Row]:
        """A row's own votes made into comparisons; votes in rows of their own stay apart.

        Raises:
            ValueError: `reliability` or ``posterior``, which need the votes of all rows.
        """
        if self.reliability or self.vote_use == "posterior":
            field = "reliability" if self.reliability else "votes posterior"
            raise ValueError(
                f"data.{field} learns of annotators from all rows at once, and data.streaming holds none: leave one "
                "of them out"
            )
        return partial(judge_alone, votes=self.vote_use, vote_prior=self.vote_prior)

    def _annotators(self, rows: list[Row], report: SplitReport) -> Reliability:
        """How reliable each annotator is, from who agrees with whom on these rows."""
        try:
            found = estimate_reliability([row.votes for row in rows if row.votes])
        except ValueError as error:
            field = "votes posterior" if self.vote_use == "posterior" else "reliability"
            raise ValueError(f"data.{field}: {error}") from None
        report.notes += found.describe()
        return found

    def _read(self, split: Split) -> RowSet:
        read = super()._read(split)
        return read if split == "predict" else group_labels(merge_annotated_pairs(read))


def judge_alone(row: Row, votes: VoteUse, vote_prior: float) -> Row:
    """The row with its votes, or its annotator's, made into comparisons, whatever other rows say."""
    (row,) = merge_annotated_pairs(RowSet([row], [1.0])).rows
    if not row.votes:
        return row
    return replace(
        row, comparisons=compare_votes(row.votes, votes, vote_prior, None, row.comparisons[0].weight)
    )


class RankingDataModule(TreeDataModule):
    """Rankings for reward models and DPO: `prompt`, `responses`, and `ranking`, `ranks` or `scores`.

    Rows of one rated response, as HelpSteer has them, become one ranking a prompt.
    """

    kind = "rankings"
    compares = True

    def _read(self, split: Split) -> RowSet:
        read = super()._read(split)
        return read if split == "predict" else group_ratings(read)


class PromptDataModule(TreeDataModule):
    """Prompts for PPO: `prompt`; every other field is handed to the reward function.

    Its training loader is the module's own: ``trainer.lightning_module.rollout_loader(rows)``.

    Args:
        path: Prompts to train on: a file, folder or hub name, or a list of them. Not needed for ``test`` and
            ``predict``.
        val_path: Prompts for validation, taken as they are; `val_fraction` is then not used.
        val_fraction: Share of the prompts of `path` that validate, where there is no `val_path`.
        test_path: Prompts for ``test``.
        predict_path: Prompts for ``predict``.
        batch_size: Prompts an iteration, over all ranks.
        max_prompt_tokens: Longer prompts are cut on their left, conversations by whole turns.
        seed: Decides the validation split; null = that of ``seed_everything``.
        bad_rows: Whether a row that cannot be read stops the run, or is skipped and counted.
        chat_template: For conversations: chatml, a .jinja file or a template; by default the module's or the
            tokenizer's own.
        tokenizer: A tokenizer, or where to load one from; by default the module's.
    """

    kind = "prompts"

    def __init__(
        self,
        path: DataPath | None = None,
        val_path: DataPath | None = None,
        val_fraction: float = 0.0,
        test_path: DataPath | None = None,
        predict_path: DataPath | None = None,
        batch_size: int = 64,
        max_prompt_tokens: int | None = 512,
        seed: int | None = None,
        bad_rows: BadRows = "error",
        chat_template: str | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__(
            path,
            val_path=val_path,
            val_fraction=val_fraction,
            test_path=test_path,
            predict_path=predict_path,
            batch_size=batch_size,
            max_prompt_tokens=max_prompt_tokens,
            seed=seed,
            bad_rows=bad_rows,
            chat_template=chat_template,
            tokenizer=tokenizer,
        )

    def train_dataloader(self) -> Iterable[Any]:
        """What the trainer's module makes of the prompt rows.

        Raises:
            ValueError: the files of `path` are weighted, or the module has no `rollout_loader`.
        """
        planted = self.plant("train")
        assert isinstance(planted, Planted)  # prompts are not streamed
        if any(weight != 1 for weight in planted.weights):
            raise ValueError(
                "data.path: weights have no effect on prompts; repeat a file to draw it more often"
            )
        module = None if self.trainer is None else self.trainer.lightning_module
        if not hasattr(module, "rollout_loader"):
            raise ValueError(
                f"PromptDataModule trains modules with a `rollout_loader`, such as PPOModule; "
                f"{type(module).__name__} has none"
            )
        return module.rollout_loader(planted.rows)  # type: ignore[union-attr, operator]


def read_reference_trees(path: DataPath, encoder: TextEncoder) -> list[Tree]:
    """Demonstrations as trees of one response each, uncut."""
    return [tree for row in read_rows(path, "demonstrations").rows for tree in plant_tree(row, encoder)[0]]

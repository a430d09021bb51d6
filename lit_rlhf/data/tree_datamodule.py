"""Files of one kind as batches of response trees: what the data modules have in common.

A data module takes its tokenizer and chat template from the module that it meets in the trainer, reads and
tokenizes a split once, and says what it read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lit_rlhf.data.accumulation import accumulate_tokens
from lit_rlhf.data.files import BadRows, DataPath, RowSet, read_rows
from lit_rlhf.data.formats import Kind
from lit_rlhf.data.labels import LABEL_LOSSES
from lit_rlhf.data.lengths import check_budget, check_cached, check_positions
from lit_rlhf.data.loader import NoLoaders, PlannedLoader, TreeLoader
from lit_rlhf.data.planting import Judging, Planted, plant_rows
from lit_rlhf.data.ranks import Processes, data_rank
from lit_rlhf.data.report import PartKind, SplitReport, example_parts
from lit_rlhf.data.seed import settled_seed
from lit_rlhf.data.sources import Split
from lit_rlhf.data.split import shared_prompts, split_rows
from lit_rlhf.data.streaming.loader import StreamLoader
from lit_rlhf.data.streaming.row_reader import RowReader
from lit_rlhf.data.streaming.split import StreamedSplit, check_streaming, stream_split
from lit_rlhf.data.streaming.streamed import looked_at
from lit_rlhf.data.tokenization import AssistantTurns, TextEncoder, load_tokenizer
from lit_rlhf.data.trees import Truncation, plant_tree
from lit_rlhf.records import Row, Tree, Vote

_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "val"),
}


class TreeDataModule(LightningDataModule):
    """Files of one kind as batches of response trees; its subclasses in ``datamodules.py`` name the kind.

    Args:
        path: Training data: a file, folder or hub name, a list of them, or of ``{path, weight}``. Not needed
            for ``test`` and ``predict``.
        val_path: Validation data, taken as it is; `val_fraction` is then not used.
        val_fraction: Share of the prompts of `path` that validate, where there is no `val_path`.
        test_path: Data for ``test``.
        predict_path: Data for ``predict``; rows need no judgement there.
        batch_size: Prompts of a batch, with all their responses, over all ranks; null with `max_tokens` alone.
        max_tokens: Tokens of a batch on each rank at the most, prompts and responses together; given, it counts
            and `batch_size` does not. A row longer than that is refused.
        tokens_per_update: With `max_tokens`: so many tokens, over all ranks, make an update; sets
            trainer.accumulate_grad_batches to what comes nearest.
        max_prompt_tokens: Longer prompts are cut on their left, conversations by whole turns.
        max_response_tokens: Longer responses are cut on their right; `text` is cut into windows of this size.
        assistant_turns: Whether all assistant turns of a conversation count, or the last only.
        shuffle: Whether every epoch has an order of its own.
        seed: Decides order and validation split; null = that of ``seed_everything``.
        bad_rows: Whether a row that cannot be read stops the run, or is skipped and counted.
        streaming: Whether training rows stay in their files and are read when their turn comes. A file is measured
            in one pass before its first use, by all ranks and workers together; the numbers are kept beside it.
            JSON lines, Parquet, Arrow, `datasets` folders and hub names; validation rows come from `val_path`.
        workers: With `streaming`: processes of each rank that read, tokenize and pack ahead.
        chat_template: For conversations: chatml, a .jinja file or a template; by default the module's or the
            tokenizer's own.
        tokenizer: A tokenizer, or where to load one from; by default the module's.
    """

    kind: ClassVar[Kind]
    compares: ClassVar[bool] = False
    """Whether a row without a comparison has nothing to give."""

    def __init__(
        self,
        path: DataPath | None = None,
        val_path: DataPath | None = None,
        val_fraction: float = 0.0,
        test_path: DataPath | None = None,
        predict_path: DataPath | None = None,
        batch_size: int | None = 8,
        max_tokens: int | None = None,
        tokens_per_update: int | None = None,
        max_prompt_tokens: int | None = 512,
        max_response_tokens: int | None = 512,
        assistant_turns: AssistantTurns = "all",
        shuffle: bool = True,
        seed: int | None = None,
        bad_rows: BadRows = "error",
        streaming: bool = False,
        workers: int = 0,
        chat_template: str | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        for name, limit in (
            ("batch_size", batch_size),
            ("max_tokens", max_tokens),
            ("tokens_per_update", tokens_per_update),
            ("max_prompt_tokens", max_prompt_tokens),
            ("max_response_tokens", max_response_tokens),
        ):
            if limit is not None and limit < 1:
                raise ValueError(f"data.{name}: expected 1 or more, found {limit}")
        if batch_size is None and max_tokens is None:
            raise ValueError("expected data.batch_size or data.max_tokens, found neither")
        if tokens_per_update is not None and max_tokens is None:
            raise ValueError(
                "data.tokens_per_update goes with data.max_tokens, a budget of tokens for each batch; found none"
            )
        check_streaming(streaming, workers, val_fraction if val_path is None else 0.0)
        self.paths = {"train": path, "val": val_path, "test": test_path, "predict": predict_path}
        self.val_fraction = 0.0 if val_path is not None else val_fraction
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.tokens_per_update = tokens_per_update
        self.max_prompt_tokens = max_prompt_tokens
        self.max_response_tokens = max_response_tokens
        self.assistant_turns = assistant_turns
        self.shuffle = shuffle
        self.seed = settled_seed(seed)
        self.bad_rows = bad_rows
        self.streaming = streaming
        self.workers = workers
        self.chat_template = chat_template
        self.tokenizer = tokenizer
        self.report: dict[str, SplitReport] = {}
        """What was read, by split."""
        self.module_arguments: Mapping[str, Any] = {}
        """The module's `ties` and `loss`, for where there is no trainer to ask."""
        self._planted: dict[str, Planted | StreamedSplit] = {}
        self._encoder: TextEncoder | None = None
        self._planted_for: Judging | None = None
        self._accumulated: int | None = None

    @property
    def encoder(self) -> TextEncoder:
        """Text to ids and back, as this data module does it.

        Raises:
            ValueError: there is no tokenizer, neither given nor in the trainer's module.
        """
        if self._encoder is None:
            module = None if self.trainer is None else self.trainer.lightning_module
            tokenizer: Any = self.tokenizer or getattr(module, "tokenizer", None)
            if tokenizer is None:
                raise ValueError(
                    f"{type(self).__name__} has no tokenizer: give tokenizer=..., or use it in a Trainer "
                    "with a module that has a `tokenizer`"
                )
            if isinstance(tokenizer, str):
                tokenizer = load_tokenizer(tokenizer)
            self._encoder = TextEncoder(
                tokenizer, self.chat_template or getattr(module, "chat_template", None)
            )
        return self._encoder

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenize what the stage needs, once, say what was read, and look for rows that are too long.

        Raises:
            ValueError: a row cannot be read, or is longer than `max_tokens` or the model's table of positions; or
                `tokens_per_update` contradicts the trainer.
        """
        if stage == "fit" and self.trainer is not None and self.tokens_per_update is not None:
            assert self.max_tokens is not None
            self._accumulated = accumulate_tokens(
                self.trainer, self.tokens_per_update, self.max_tokens, self._accumulated
            )
        if self._planted_for not in (None, self._judging()):  # a module that takes ties another way
            self._planted.clear()
        for split in _STAGES[stage]:
            self.plant(split)
        module = None if self.trainer is None else self.trainer.lightning_module
        models = [] if module is None else [m for m in module.modules() if isinstance(m, PreTrainedModel)]
        sampling = getattr(module, "sampling", None)
        for config in {id(model.config): model.config for model in models}.values():
            self.check_positions(config, _STAGES[stage], getattr(sampling, "max_new_tokens", 0))
        if sampling is not None and sampling.max_cached_tokens is not None:
            for part in map(self.plant, _STAGES[stage]):
                trees = (
                    () if isinstance(part, StreamedSplit) else part.trees
                )  # streamed ones have their responses
                check_cached(trees, sampling.max_cached_tokens, sampling.max_new_tokens, part.places)

    def check_positions(self, config: PreTrainedConfig, splits: Iterable[Split], new_tokens: int = 0) -> None:
        """Refuse rows that run past a model's table of positions, warn where its positions are rotary.

        `setup` does it with the models of the trainer's module.

        Args:
            config: The model's.
            splits: Where to look.
            new_tokens: How many tokens the model draws to a prompt without responses.

        Raises:
            ValueError: see :func:`lit_rlhf.data.lengths.check_positions`.
        """
        whole = []
        for part in map(self.plant, splits):
            if isinstance(part, StreamedSplit):
                part.check_positions(config)
            else:
                whole.append(part)
        trees = [tree for part in whole for tree in part.trees]
        check_positions(trees, config, [place for part in whole for place in part.places], new_tokens)

    def rows(self, split: Split = "train") -> Sequence[Row]:
        """The rows of a split, in the order of the file; empty where there is no such split.

        Those of a streamed split are read when they are asked for.
        """
        return self.plant(split).rows

    def trees(self, split: Split = "train") -> Sequence[Tree]:
        """The trees of a split; `row_indices` of its batches point into this sequence.

        But for windows of `text` there is one tree a row, so that they point into `rows` too. Those of a streamed
        split are made when they are asked for; :func:`~lit_rlhf.data.streaming.streamed.looked_at` takes some of them.
        """
        return self.plant(split).trees

    def longest(self, split: Split = "train") -> Sequence[Tree]:
        """Trees among which is the one with the longest sequence: all, or of a streamed split the five longest."""
        planted = self.plant(split)
        return planted.longest_trees() if isinstance(planted, StreamedSplit) else planted.trees

    def votes(self, split: Split = "train") -> list[list[Vote]]:
        """The votes of every row of a split that was read with votes, before any row is dropped.

        How far people agree is a matter of all of them: `rows` lacks those that are nothing but ties where ties
        are dropped. Of a streamed split these are the votes of some thousand rows that are kept.
        """
        planted = self.plant(split)
        if isinstance(planted, StreamedSplit):
            return [row.votes for row in looked_at(planted.rows) if row.votes]
        return planted.votes

    def example(self, split: Split = "train") -> list[tuple[str, PartKind]]:
        """The first tree as text in parts: ``prompt``, ``counted``, ``uncounted``, ``eos``."""
        trees = self.trees(split)
        return example_parts(trees[0], self.encoder) if trees else []

    def train_dataloader(self) -> Iterable[Any]:
        """Batches in an order of their own each epoch; goes on at the exact row after a resume."""
        return self._loader("train", self.shuffle)

    def val_dataloader(self) -> Iterable[Any]:
        """Validation batches in the file's order; a fit has none where nothing was set aside."""
        asked_for = self.trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING
        return self._loader("val") if asked_for or self.trees("val") else NoLoaders()

    def test_dataloader(self) -> Iterable[Any]:
        """Test batches in the file's order."""
        return self._loader("test")

    def predict_dataloader(self) -> Iterable[Any]:
        """Batches to score or to answer, in the file's order."""
        return self._loader("predict")

    def _loader(self, split: Split, shuffle: bool = False) -> PlannedLoader:
        planted = self.plant(split)
        if not planted.trees:
            raise ValueError(f"there are no rows for {split}: give data.{_argument(split)}")
        rank, world_size = data_rank(self.trainer)
        options: dict[str, Any] = {
            "batch_size": None if self.max_tokens is not None else self.batch_size,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "shuffle": shuffle,
            "rank": rank,
            "world_size": world_size,
            "epoch": lambda: 0 if self.trainer is None else self.trainer.current_epoch,
            "name": f"{split}, data.{_argument(split)}",
        }
        loader: PlannedLoader
        if isinstance(planted, StreamedSplit):
            loader = StreamLoader(planted, workers=self.workers, **options)
        else:
            weights = planted.weights if split == "train" else None
            loader = TreeLoader(planted.trees, weights=weights, **options)
        if self.max_tokens is not None:
            rank_zero_info(f"{split}: {loader.describe()}")
        return loader

    def plant(self, split: Split) -> Planted | StreamedSplit:
        """A split in tokens; read on the first call, and empty where there is no such split."""
        if split in self._planted:
            return self._planted[split]
        if self.streaming and split == "train" and self.paths["train"] is not None:
            self._planted[split] = self._stream()
        elif self.val_fraction and split in ("train", "val") and self.paths["train"] is not None:
            read = self._read("train")
            train, val, note = split_rows(read.rows, self.val_fraction, self.seed)
            self._settle("train", read, train)
            self._settle("val", RowSet(read.rows, read.weights, notes=[note]), val)
        elif self.paths[split] is None:
            self._planted[split] = Planted()
        else:
            read = self._read(split)
            self._settle(split, read, range(len(read.rows)))
        return self._planted[split]

    def _read(self, split: Split) -> RowSet:
        kind: Kind = self.kind if split != "predict" or self.kind == "prompts" else "candidates"
        path = self.paths[split]
        assert path is not None
        return read_rows(path, kind, self.bad_rows, split)

    def judge(self, split: Split, rows: list[Row], report: SplitReport) -> list[Row]:
        """The rows of a split, all of them read, with the comparisons that are made of them.

        Meant to be overridden: by default what each row says by itself.
        """
        return rows

    def _judging(self) -> Judging:
        """What is asked of a row, as the trainer's module wants it."""
        loss = self._module_argument("loss")
        return Judging(
            self.compares,
            drops_ties=self._module_argument("ties") == "drop",
            rates=loss == "ratings",
            labels=loss is None or loss in LABEL_LOSSES,
            ranks_whole=loss == "plackett_luce",
        )

    def _module_argument(self, name: str) -> Any:
        module = None if self.trainer is None else self.trainer.lightning_module
        if module is None:
            return self.module_arguments.get(name)
        return getattr(module, name, module.hparams.get(name))

    def row_judge(self) -> partial[Row] | None:
        """What makes comparisons of one streamed training row, where :meth:`judge` has all of them; None = nothing.

        Meant to be overridden: a function that can be pickled, whose named arguments are all that it depends on.
        """
        return None

    def _stream(self) -> StreamedSplit:
        """The training rows in their files, measured."""
        assert self.paths["train"] is not None
        judging = self._judging()
        reader = RowReader(
            self.kind,
            self.encoder,
            self.max_prompt_tokens,
            self.max_response_tokens,
            self.assistant_turns,
            judging,
            self.row_judge(),
        )
        planted, report = stream_split(
            self.paths["train"], reader, self.workers, self.bad_rows, Processes(self.trainer)
        )
        planted.check(report.rows, self.compares, self.max_tokens)
        self._planted_for = judging
        self._say("train", report)
        return planted

    def _plant_tree(self, row: Row) -> tuple[list[Tree], Truncation]:
        return plant_tree(
            row, self.encoder, self.max_prompt_tokens, self.max_response_tokens, self.assistant_turns
        )

    def _refuse_without_comparisons(self, split: Split, planted: Planted, rows: int) -> None:
        """Stop where no row tells two responses apart; of a validation file, ties may be all there is."""
        told_apart = self._judging().rates or any(
            tree.labels or any(c.target != 0.5 for c in tree.comparisons) for tree in planted.trees
        )
        if self.compares and not (planted.trees if split != "train" else planted.trees and told_apart):
            raise ValueError(f"data.{_argument(split)}: none of {rows} rows tells two responses apart")

    def _settle(self, split: Split, read: RowSet, places: Iterable[int]) -> None:
        """Tokenize the rows of a split, count what is lost, and say it."""
        report = SplitReport(
            split,
            bad=len(read.bad),
            first_bad=str(read.bad[0]) if read.bad else "",
            duplicates=read.duplicates,
            first_duplicate=read.first_duplicate,
            notes=list(read.notes),
        )
        places = list(places)
        rows = self.judge(split, [read.rows[place] for place in places], report)
        planted = plant_rows(
            rows,
            [read.weights[place] for place in places],
            self._plant_tree,
            replace(self._judging(), compares=self.compares and split != "predict"),
            report,
        )
        self._refuse_without_comparisons(split, planted, len(rows))
        if self.max_tokens is not None:
            check_budget(planted.trees, self.max_tokens, planted.places)
        self._planted[split] = planted
        self._planted_for = self._judging()
        training = self._planted.get("train")
        known = training is not None and not isinstance(training, StreamedSplit)
        if split in ("val", "test") and self.paths[split] is not None and known:
            report.shared_prompts = shared_prompts(self._planted["train"].rows, planted.rows)
        self._say(split, report)

    def _say(self, split: Split, report: SplitReport) -> None:
        self.report[split] = report
        for line in report.lines():
            rank_zero_info(line)


def _argument(split: Split) -> str:
    return "path" if split == "train" else "val_path (or val_fraction)" if split == "val" else f"{split}_path"

"""After a fit, validation or test of a reward model: its evaluation as a page, as numbers, and as a short table."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor

from lit_rlhf import __version__
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.sources import Split
from lit_rlhf.data.split import responses_key, shared_prompts, split_rows
from lit_rlhf.metrics.baselines import TextComparison, bag_of_words
from lit_rlhf.metrics.evaluation import Evaluation, evaluate
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.records import Row
from lit_rlhf.reports.foreign_text import as_text
from lit_rlhf.reports.reward_numbers import cautions as cautions_of_numbers
from lit_rlhf.reports.reward_numbers import headline_table

if TYPE_CHECKING:
    from lit_rlhf.reports.reward_report import Subject

MOST_TRAINING_COMPARISONS = 10_000
"""About so many the bag of words learns from, of rows evenly spread: more change it little and take long."""
_DEVELOPMENT_SHARE = 0.2
_MANY_CUT = 0.05
"""Share of the responses."""
_BASELINE_CHARACTERS = 5_000
_NOT_SETTINGS = {"model", "optimizer", "scheduler", "tokenizer", "attention", "seed"}


class RewardReport(Callback):
    """Writes ``reward-report.html`` after `validate`, `test` and `fit`, for modules that have an `evaluation()`.

    `evaluation()` gives the :class:`~lit_rlhf.metrics.judged.Judged` of the last validation or test, or None,
    and then nothing is written. It is asked on every rank; rank 0 writes. A report that cannot be made costs a
    warning, never the run.

    Args:
        numbers: the JSON file of the run's scalars, which gets the evaluation as ``evaluation``.
        page: the page's file. Relative paths start at the trainer's `default_root_dir`.
    """

    def __init__(self, numbers: str | Path = "metrics.json", page: str | Path = "reward-report.html") -> None:
        self.numbers = Path(numbers)
        self.page = Path(page)
        self._judged_at = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._judged_at = trainer.global_step
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, "val")

    def _report(self, trainer: L.Trainer, module: L.LightningModule, split: Split) -> None:
        ask: Any = getattr(module, "evaluation", None)
        judged: Judged | None = ask() if callable(ask) else None
        if judged is None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        try:
            evaluation, cautions = self._write(trainer, module, judged, split, folder)
        except Exception as problem:
            # What was trained and measured is on disk: that it could not be drawn must not look like a failed run.
            rank_zero_warn(f"{self.page.name} was not written: {type(problem).__name__}: {problem}")
            return
        console = Console()
        console.print(headline_table(evaluation))
        for caution in (*cautions_of_numbers(evaluation), *cautions):
            console.print(f"note: {caution}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"report: {folder / self.page}", highlight=False, markup=False, soft_wrap=True)

    def _write(
        self, trainer: L.Trainer, module: L.LightningModule, judged: Judged, split: Split, folder: Path
    ) -> tuple[Evaluation, list[str]]:
        # Here, because it brings matplotlib, which a start need not wait for.
        from lit_rlhf.reports.reward_report import write_reward_report

        data: Any = getattr(trainer, "datamodule", None)
        rows: list[Row] = data.rows(split) if hasattr(data, "rows") else []
        cautions = []
        if trainer.state.fn == "fit" and trainer.global_step != self._judged_at:
            cautions.append(
                f"The evaluation is of step {self._judged_at:,}; the run went on to step {trainer.global_step:,}."
            )
        evaluation, more = evaluate_rows(judged, rows, _training_rows(data))
        cautions += [*more, *_caution_of_cut_responses(getattr(data, "report", {}).get(split))]
        subject = _subject(trainer, module, data, split, cautions)
        write_reward_report(folder / self.page, evaluation, judged, rows, subject)
        add_numbers(folder / self.numbers, evaluation)
        return evaluation, cautions


def evaluate_rows(
    judged: Judged, rows: Sequence[Row], training: Sequence[Row] | str
) -> tuple[Evaluation, list[str]]:
    """Evaluate what was judged, beside a bag of words; and what a reader has to know that no number shows.

    Args:
        judged: what people and the model said of the rows.
        rows: the data, to which `judged.row` points; empty where texts are not at hand.
        training: what the bag of words is fitted on, or why there is nothing.
    """
    cautions: list[str] = []
    baselines: dict[str, Tensor] = {}
    try:
        if isinstance(training, str):
            raise ValueError(training)
        if shared := shared_prompts(training, rows):
            cautions.append(
                f"{shared:,} of the prompts are in the training data too: new ones may be harder."
            )
        unseen = _without(training, rows)
        if left_out := len(training) - len(unseen):
            cautions.append(
                f"{left_out:,} of the {len(training):,} training rows are evaluated too, prompt and responses: the bag "
                "of words is fitted without them, but a model that was trained on them has seen them."
            )
        if training and not unseen:
            raise ValueError("no training row is left that is not evaluated")
        baselines["bag of words"] = _word_baseline(unseen, rows, judged)
    except ValueError as problem:
        cautions.append(f"There is no bag of words to compare with: {problem}.")
    # Without rows a comparison's row is still known by its number.
    places = range(max(len(rows), int(judged.row.max()) + 1 if len(judged.row) else 0))
    evaluation = evaluate(
        judged,
        prompts=[as_text(row.prompt) for row in rows] or [f"row {place}" for place in places],
        domains=[row.domain for row in rows] or [None for _ in places],
        votes=[row.votes for row in rows] or [[] for _ in places],
        baselines=baselines,
    )
    return evaluation, cautions


def _training_rows(data: Any) -> Sequence[Row] | str:
    """The data module's, or why it has none."""
    if not hasattr(data, "rows") or not getattr(data, "paths", None):
        return "the data module has no rows() to take texts from"
    if data.paths.get("train") is None:
        return "data.path, the training data, is not given"
    if getattr(data, "streaming", False):
        return "the training rows are streamed, and a bag of words is fitted on all of them"
    try:
        return data.rows("train")
    except (ValueError, OSError) as problem:
        return str(problem)


def _without(training: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The training rows whose prompt and responses are not among `rows`."""
    evaluated = {responses_key(row) for row in rows}
    return [row for row in training if responses_key(row) not in evaluated]


def _caution_of_cut_responses(report: SplitReport | None) -> list[str]:
    """Where enough of the split's responses were cut that their lengths mislead."""
    if report is None:
        return []
    # rows that were left out are counted among the cut responses only
    share = report.truncated_responses / max(report.responses, report.truncated_responses, 1)
    if share < _MANY_CUT:
        return []
    return [
        f"{share:.0%} of the responses were cut to max_response_tokens: “longer wins”, and all that is by length, sees "
        "what is left of them, and may take the longer of two for as long as the other."
    ]


def _word_baseline(training: Sequence[Row], rows: Sequence[Row], judged: Judged) -> Tensor:
    """What a bag of words fitted on the training rows says of each comparison, ``[C]``.

    Raises:
        ValueError: there are no texts, or no comparisons to learn from.
    """
    if not rows:
        raise ValueError("the texts that were judged are not at hand")
    comparisons = sum(len(row.comparisons) for row in training)
    training = training[:: math.ceil(comparisons / MOST_TRAINING_COMPARISONS) or 1]
    fit, development, _ = split_rows(training, _DEVELOPMENT_SHARE)
    places = (column.tolist() for column in (judged.row, judged.better, judged.worse))
    return bag_of_words(
        [pair for place in fit for pair in _comparisons(training[place])],
        [pair for place in development for pair in _comparisons(training[place])],
        [_texts(rows[row], better, worse) for row, better, worse in zip(*places, strict=True)],
    )


def _comparisons(row: Row) -> list[TextComparison]:
    return [_texts(row, each.better, each.worse, each.target) for each in row.comparisons]


def _texts(row: Row, better: int, worse: int, target: float = 1.0) -> TextComparison:
    first, second = (as_text(row.responses[place])[:_BASELINE_CHARACTERS] for place in (better, worse))
    return TextComparison(first, second, target)


def _subject(
    trainer: L.Trainer, module: L.LightningModule, data: Any, split: Split, cautions: list[str]
) -> Subject:
    """Model, weights and data in words."""
    from lit_rlhf.reports.reward_report import Subject

    model = module.hparams.get("model")
    name = model if isinstance(model, str) else type(module).__name__
    facts = [("model", name)]
    settings = _settings(module)
    if settings:
        facts.append(("settings", settings))
    fitted = trainer.state.fn == "fit"
    weights = f"step {trainer.global_step:,} of this run" if fitted else str(trainer.ckpt_path or "as given")
    facts.append(("weights", weights))
    paths = getattr(data, "paths", {})
    if paths.get(split) is not None:
        facts.append(("data", _name(paths[split])))
    elif split == "val" and paths.get("train") is not None:
        source = f"validation split of {_name(paths['train'])}, val_fraction {data.val_fraction:g}"
        facts.append(("data", source))
    report = getattr(data, "report", {}).get(split)
    if report is not None:
        facts.append(("what was read", "\n".join(line.strip() for line in report.lines())))
    when = time.strftime("%Y-%m-%d %H:%M")
    return Subject(name, facts, cautions, f"Written by lit-rlhf {__version__} on {when}.")


def _name(path: Any) -> str:
    """A data path in a line; rows that were given in its place are only counted."""
    if not isinstance(path, list):
        return str(path)
    entries = [entry.get("path") if isinstance(entry, dict) else entry for entry in path]
    return f"{len(path):,} rows, not from a file" if None in entries else ", ".join(map(str, entries))


def _settings(module: L.LightningModule) -> str:
    """The arguments that are not the class's defaults."""
    defaults = {name: each.default for name, each in inspect.signature(type(module)).parameters.items()}
    given = {
        name: value
        for name, value in module.hparams.items()
        if name not in _NOT_SETTINGS and name in defaults and value != defaults[name]
    }
    return ", ".join(f"{name} {value}" for name, value in sorted(given.items()))


def add_numbers(path: Path, evaluation: Evaluation) -> None:
    """Put the evaluation beside the scalars that are in the file."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    numbers = evaluation.to_dict()
    del numbers["worst"]  # places in a record that is not kept
    values["evaluation"] = _finite(numbers)
    write_beside_and_rename(path, json.dumps(values, indent=2) + "\n")


def _finite(value: Any) -> Any:
    """The same with null where a number is not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if hasattr(value, "_asdict"):
        return _finite(value._asdict())
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

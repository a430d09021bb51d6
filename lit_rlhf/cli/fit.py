"""``lit-rlhf fit | validate | test | predict``: LightningCLI with a run folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse.typing import PositiveFloat
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

import lit_rlhf
from lit_rlhf.callbacks import (
    ExportAtEnd,
    GracefulStopped,
    MetricsFile,
    SampleTable,
    Throughput,
    TrainingAlarms,
)
from lit_rlhf.cli.checkpoints import (
    AtomicCheckpointIO,
    LastCheckpoint,
    TorchCheckpointIO,
    clear_leftovers,
    with_room,
)
from lit_rlhf.cli.guard import run_guarded
from lit_rlhf.cli.parser import QuietParser
from lit_rlhf.cli.predictions import PredictionsFile
from lit_rlhf.cli.progress import ProgressLines
from lit_rlhf.cli.progress_bar import FitBar
from lit_rlhf.cli.ranks import check_ranks
from lit_rlhf.cli.reward_report import RewardReport
from lit_rlhf.cli.run_folder import (
    RUN_VARIABLE,
    SaveRunConfig,
    choose_run_folder,
    make_run_folder,
    refuse_overwriting,
    resolve_checkpoint,
    tensorboard,
    this_rank,
)
from lit_rlhf.models.deferred_weights import deferred_weights
from lit_rlhf.modules.iteration_phase import IterationPhase


class CommandLine(LightningCLI):
    """One of Lightning's commands over any module and data module, with our run folder around it."""

    def __init__(self, command: str, argv: Sequence[str]) -> None:
        """Parse `argv` (without the command) and run `command`."""
        self.command = command
        for name in lit_rlhf.__all__:  # short class names work for what is imported
            getattr(lit_rlhf, name)
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig if command == "fit" else None,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={"num_sanity_val_steps": 0, "log_every_n_steps": 10},
            seed_everything_default=0,
            parser_class=QuietParser,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "lit-rlhf"},
            args=[command, *("--help" if word == "--help-all" else word for word in argv)],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command that is run: a parser for each of the others would cost time and be thrown away."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``--out``, beside what LightningCLI has."""
        parser.add_argument(
            "--out", type=str | None, default=None, help="The run folder; default runs/<phase>-<time>."
        )
        if self.command == "fit":
            parser.add_argument(
                "--checkpoint_minutes",
                type=PositiveFloat | None,
                default=None,
                help="Save last.ckpt also inside an epoch or PPO iteration, every so many minutes.",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, without LightningCLI's warning about a process that has arguments of its own."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]  # always a list here

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would let a checkpoint's hyper-parameters override the config and flags."""

    def before_instantiate_classes(self) -> None:
        """Settle the run folder and the checkpoint before anything slow, and say where the run goes."""
        config = self.config[self.command]
        check_ranks(config.trainer)
        asked = config.out or config.trainer.default_root_dir
        phase = config.model.class_path.rsplit(".", 1)[-1].removesuffix("Module").lower()
        self.run_folder = choose_run_folder(asked, phase, self.command, config.ckpt_path)
        self.checkpoint = resolve_checkpoint(config.ckpt_path, self.run_folder, bool(asked), self.command)
        if self.command == "fit" and not config.trainer.fast_dev_run:
            refuse_overwriting(self.run_folder, self.checkpoint)
            if this_rank() == 0:
                make_run_folder(self.run_folder)
                clear_leftovers(self.run_folder)
        os.environ[RUN_VARIABLE] = str(self.run_folder)
        config.ckpt_path = self.checkpoint
        verb = "continuing" if self.command == "fit" else "reading"
        say(f"run folder: {self.run_folder}" + (f", {verb} {self.checkpoint}" if self.checkpoint else ""))

    def instantiate_classes(self) -> None:
        """The objects of the config; where ranks are to hold parts of the weights, none reads all of them."""
        strategy = self.config[self.command].trainer.strategy
        named = strategy if isinstance(strategy, str) else getattr(strategy, "class_path", "")
        spreads = named.rsplit(".", 1)[-1].lower() in ("fsdp2", "fsdp2strategy")
        with deferred_weights() if spreads else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer of the config, with the run folder, our callbacks beside the user's, and safe checkpoints."""
        settings = self._get(self.config_init, "trainer")
        given = settings.callbacks or []
        given = given if isinstance(given, list) else [given]
        for callback in given:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.run_folder / "checkpoints")
        changes: dict[str, Any] = {}
        if self.command != "fit":  # nothing is saved
            given = [callback for callback in given if not isinstance(callback, Checkpoint)]
            changes["enable_checkpointing"] = False
        logger = settings.logger
        if logger in (None, True):
            fits = self.command == "fit" and not settings.fast_dev_run
            logger = tensorboard(self.run_folder, self.checkpoint) if fits else False
        trainer = super().instantiate_trainer(
            default_root_dir=str(self.run_folder),
            callbacks=[
                *given,
                *self._progress(settings, given),
                *self._alarms(settings, given),
                *self._our_callbacks(settings),
            ],
            logger=logger,
            **changes,
        )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _progress(self, settings: Any, given: Sequence[Callback]) -> list[Callback]:
        """A fit's bar, or lines where it writes to a file or a pipe, if the user has not decided otherwise."""
        decided = settings.enable_progress_bar is False or any(isinstance(one, ProgressBar) for one in given)
        if decided or self.command != "fit":
            return []
        return [FitBar() if sys.stdout.isatty() else ProgressLines()]

    def _alarms(self, settings: Any, given: Sequence[Callback]) -> list[Callback]:
        """Alarms that warn, where the policy draws what it learns from and the user names none of his own."""
        decided = settings.fast_dev_run or any(isinstance(one, TrainingAlarms) for one in given)
        samples = self.command == "fit" and isinstance(self.model, IterationPhase)
        return [TrainingAlarms()] if samples and not decided else []

    def _our_callbacks(self, settings: Any) -> list[Callback]:
        if settings.fast_dev_run:
            return [PredictionsFile()] if self.command == "predict" else []
        if self.command == "predict":
            return [PredictionsFile()]
        if self.command != "fit":
            return [MetricsFile(f"{self.command}.json"), RewardReport(f"{self.command}.json")]
        ours: list[Callback] = [MetricsFile(), SampleTable(), Throughput(), ExportAtEnd(), RewardReport()]
        if settings.enable_checkpointing is not False:
            minutes = self._get(self.config_init, "checkpoint_minutes")
            ours.append(LastCheckpoint(self.run_folder, minutes))
        return ours

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they are in the file; in memory they would pile up
        return kwargs

    def after_fit(self) -> None:
        """Say what there is now."""
        if not self.config_init.fit.trainer.fast_dev_run:
            say(f"export: {self.run_folder / 'export'}")
            for callback in self.trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
                    say(self._best_weights(callback))
            if (self.run_folder / "tensorboard").is_dir():
                say(f"curves: tensorboard --logdir {self.run_folder / 'tensorboard'}")

    def _best_weights(self, callback: ModelCheckpoint) -> str:
        """One line that tells the last weights from the best, and how to have these."""
        best = Path(callback.best_model_path)
        target = self.run_folder / f"export-{best.stem}"
        return (
            f"{self.run_folder / 'export'} holds the last weights; for those with the best {callback.monitor} "
            f"({callback.best_model_score:.4g}): {shlex.join(['lit-rlhf', 'export', str(best), str(target)])}"
        )

    def after_predict(self) -> None:
        """Say where the predictions are."""
        say(f"predictions: {self.run_folder / 'predictions.jsonl'}")


def run(command: str, argv: Sequence[str]) -> None:
    """Run one of the trainer's commands.

    Raises:
        SystemExit: 2 for a mistake in the arguments, 1 for one in files or data, 130 after Ctrl-C.
    """
    try:
        run_guarded(command, lambda: with_room(lambda: CommandLine(command, argv)))
    except GracefulStopped as stopped:
        say(f"\nstopped; everything up to this step is in {stopped.checkpoint}")
        say(f"continue with: {continue_command(command, argv, stopped.checkpoint.parent.parent)}")
        # The other ranks leave quietly, or Lightning's watch over them would kill this one before it has spoken.
        raise SystemExit(130 if this_rank() == 0 else 0) from None


def continue_command(command: str, argv: Sequence[str], run_folder: Path) -> str:
    """The command line that goes on where this one was stopped.

    >>> continue_command("fit", ["--config", "a.yaml", "--ckpt_path=old.ckpt"], Path("runs/x"))
    'lit-rlhf fit --config a.yaml --out runs/x --ckpt_path last'
    """
    kept: list[str] = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word in ("--out", "--ckpt_path"):
            skip = True
        elif not word.startswith(("--out=", "--ckpt_path=")):
            kept.append(word)
    return shlex.join(["lit-rlhf", command, *kept, "--out", str(run_folder), "--ckpt_path", "last"])


@rank_zero_only
def say(text: str) -> None:
    """A line of ours, on rank 0."""
    print(text, flush=True)


def main_fit(argv: Sequence[str]) -> None:
    """``lit-rlhf fit``"""
    run("fit", argv)


def main_validate(argv: Sequence[str]) -> None:
    """``lit-rlhf validate``"""
    run("validate", argv)


def main_test(argv: Sequence[str]) -> None:
    """``lit-rlhf test``"""
    run("test", argv)


def main_predict(argv: Sequence[str]) -> None:
    """``lit-rlhf predict``"""
    run("predict", argv)

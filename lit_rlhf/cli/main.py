"""The front door: answers help, versions and typing mistakes at once, and opens the room that is asked for.

Nothing here imports torch or lightning; a command's file is imported when the command runs.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from lit_rlhf import __version__
from lit_rlhf.cli.given_files import check_files
from lit_rlhf.cli.refusal import did_you_mean, refuse

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "the whole loop on a small made-up language: SFT, reward model, PPO, DPO",
        "lit_rlhf.cli.demo:main",
    ),
    "init": ("a small random model and its tokenizer from your text", "lit_rlhf.cli.init:main"),
    "ls": ("list the configs that come with lit-rlhf", "lit_rlhf.cli.configs:list_main"),
    "cp": ("copy one of them to a file of yours", "lit_rlhf.cli.configs:copy_main"),
    "cat": ("print one of them", "lit_rlhf.cli.configs:cat_main"),
    "check": (
        "look over a config, its data, and what has to be true of the model at the start; nothing is trained",
        "lit_rlhf.cli.check:main",
    ),
    "plan": ("memory a rank before anything is loaded, and what would make it fit", "lit_rlhf.cli.plan:main"),
    "fit": ("train", "lit_rlhf.cli.fit:main_fit"),
    "validate": ("the validation loop, once", "lit_rlhf.cli.fit:main_validate"),
    "test": ("the validation loop over a test file", "lit_rlhf.cli.fit:main_test"),
    "predict": ("scores of a reward model, samples of a policy, as JSONL", "lit_rlhf.cli.fit:main_predict"),
    "sample": (
        "a file of prompts with responses that a policy draws, or the best of several by a reward model",
        "lit_rlhf.cli.sample:main",
    ),
    "chat": ("talk with a policy, its words as they are drawn", "lit_rlhf.cli.chat:main"),
    "score": (
        "a file of responses with a reward model's scores, and how well it agrees with people",
        "lit_rlhf.cli.score:main",
    ),
    "label": (
        "people compare responses in the browser: serve, import, export, agreement, status",
        "lit_rlhf.cli.label:main",
    ),
    "loop": (
        "rounds of sampling, labelling, reward model and PPO or DPO, each from the last",
        "lit_rlhf.cli.loop:main",
    ),
    "serve": ("a reward behind HTTP, for one or many PPO runs", "lit_rlhf.cli.serve:main"),
    "strength": (
        "how sure several reward models are of each pair, and the doubtful labels mended",
        "lit_rlhf.cli.strength:main",
    ),
    "compare": (
        "several methods from one start on the same data and budget, over seeds, on one page",
        "lit_rlhf.cli.compare:main",
    ),
    "report": (
        "runs of PPO on one page: score, gold and KL, and where gold was lost",
        "lit_rlhf.cli.report:main",
    ),
    "export": ("a checkpoint as a Hugging Face folder", "lit_rlhf.cli.export:main"),
    "env": ("versions and devices, for a bug report", "lit_rlhf.cli.env:main"),
}
"""Each command with its line of help and where it lives."""

TRAINER_COMMANDS = ("check", "plan", "fit", "validate", "test", "predict")
"""The commands that take a config and its flags."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``lit-rlhf`` with `argv` (the process's own arguments by default).

    Raises:
        SystemExit: With code 2 for a mistake in the arguments, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return
    if arguments[0] in ("-V", "--version", "version"):
        print(f"lit-rlhf {__version__}")
        return
    command, arguments = split_command(arguments)
    if command in TRAINER_COMMANDS:
        if "-h" in arguments or "--help" in arguments:
            print(trainer_help(command))
            return
        check_files(arguments, command)
    module_name, function_name = COMMANDS[command][1].split(":")
    import_from_here()
    try:
        getattr(import_module(module_name), function_name)(arguments)
    except KeyboardInterrupt:
        lost = "; nothing had been saved since the last checkpoint" if command in TRAINER_COMMANDS else ""
        print(f"\ninterrupted{lost}", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader (head, less) has gone; the interpreter must not complain on its way out either.
        sys.stdout = None
        raise SystemExit(141) from None


def import_from_here() -> None:
    """Let a config name code in the current folder, as `python -m lit_rlhf` does and an installed script does not."""
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command and the arguments without it; options may stand before the command.

    >>> split_command(["--config", "dpo.yaml", "fit", "--model.beta", "0.2"])
    ('fit', ['--config', 'dpo.yaml', '--model.beta', '0.2'])
    """
    if not arguments[0].startswith("-"):
        if arguments[0] not in COMMANDS:
            unknown_command(arguments[0])
        return arguments[0], list(arguments[1:])
    for place, word in enumerate(arguments):
        # A word behind an option is that option's value, unless it is a command: `--config fit` is nobody's file.
        if word in TRAINER_COMMANDS and not Path(word).is_file():
            return word, [*arguments[:place], *arguments[place + 1 :]]
    bare = [
        word
        for before, word in itertools.pairwise(arguments)
        if not word.startswith("-") and not (before.startswith("-") and "=" not in before)
    ]
    if bare:
        unknown_command(bare[0])
    refuse(
        f"no command was given, only options ({arguments[0]} …).",
        f"Commands that take them: {', '.join(TRAINER_COMMANDS)}; e.g. `lit-rlhf fit {' '.join(arguments[:2])}`",
        "help: lit-rlhf --help",
    )


def unknown_command(word: str) -> NoReturn:
    """Refuse `word`, with the nearest command."""
    hint = did_you_mean(word, list(COMMANDS), cutoff=0.5)
    if word in ("sft", "reward", "rm", "dpo", "ppo", "train", "pretrain"):
        config = {"rm": "reward", "train": "sft"}.get(word, word)
        hint = f"There is no command per phase: use `lit-rlhf fit --config configs/{config}.yaml`."
    refuse(f"unknown command '{word}'. {hint}".rstrip(), "help: lit-rlhf --help")


def help_text() -> str:
    """What ``lit-rlhf --help`` prints."""
    lines = [
        "lit-rlhf: reinforcement learning from human feedback as Lightning modules",
        "",
        "usage: lit-rlhf COMMAND …",
        "",
        *(f"  {name:<10}{line}" for name, (line, _) in COMMANDS.items()),
        "",
        "first steps:",
        "  lit-rlhf demo",
        "  lit-rlhf ls",
        "  lit-rlhf cp sft sft.yaml",
        "  lit-rlhf check --config sft.yaml --model.model MODEL --data.path FILE.jsonl",
        "  lit-rlhf fit   --config sft.yaml --model.model MODEL --data.path FILE.jsonl --out runs/sft",
        "",
        "`lit-rlhf COMMAND --help` says more. `lit-rlhf --version`: " + __version__,
    ]
    return "\n".join(lines)


def trainer_help(command: str) -> str:
    """One screen about a command that takes a config; the parser's own help is hundreds of lines."""
    lines = [
        f"usage: lit-rlhf {command} --config FILE [--config FILE] [--model.X V] [--data.X V] [--trainer.X V]",
        "",
        f"{COMMANDS[command][0]}.",
        "",
        "  --config FILE       a YAML file (trusted: it can run any code); later files and flags win",
        "  --model CLASS       SFTModule, RewardModule, DPOModule, PPOModule, OnlineDPOModule, ExpertIterationModule,",
        "                      or a dotted path of yours",
        "  --model.X V         an argument of it, e.g. --model.model FOLDER, --model.optimizer.lr 1e-4",
        "  --data CLASS        DemonstrationDataModule, PairDataModule, RankingDataModule, PromptDataModule",
        "  --data.X V          an argument of it, e.g. --data.path FILE.jsonl, --data.batch_size 16",
        "  --trainer.X V       an argument of lightning.Trainer, e.g. --trainer.max_epochs 3",
        "  --seed_everything N the seed",
    ]
    if command not in ("check", "plan"):
        lines += [
            "  --out DIR           the run folder (default runs/PHASE-TIME): "
            + ("checkpoints, TensorBoard, config, metrics, export" if command == "fit" else "what is written"),
            "  --ckpt_path FILE    " + ("continue from a checkpoint; `last` is the run folder's newest one"
             if command == "fit" else "weights to load; `last` is the run folder's newest checkpoint"),
        ]  # fmt: skip
    if command == "check":
        lines.append("  --data_only true    the data alone: the model is not loaded")
    if command == "plan":
        lines += [
            "  --memory GIB        of a device, or its name, such as H100: whether it fits (else exit code 1), and",
            "                      what would make it fit",
            "  --json FILE         the plan in bytes, for programs",
            "  of a model only its config.json is read; the data is not",
        ]
    lines += [
        "  --print_config      print the config with every default filled in, and stop",
        "",
        "all arguments of a class:",
        f"  lit-rlhf {command} --model.help DPOModule",
        f"  lit-rlhf {command} --data.help PairDataModule",
        f"  lit-rlhf {command} --help-all",
    ]
    return "\n".join(lines)

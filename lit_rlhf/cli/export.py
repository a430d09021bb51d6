"""``lit-rlhf export``: the Hugging Face folder of a checkpoint."""

from __future__ import annotations

import argparse
import difflib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import lit_rlhf
from lit_rlhf.cli.refusal import near_files, refuse

PHASES = (
    *("SFTModule", "RewardModule", "PPOModule", "DPOModule"),
    *("OnlineDPOModule", "ExpertIterationModule"),
)


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf export CKPT DIR``"""
    parser = argparse.ArgumentParser(
        "lit-rlhf export",
        description="Write the weights of a checkpoint as a Hugging Face folder, the same as a finished fit's export/.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="e.g. runs/sft/checkpoints/last.ckpt")
    parser.add_argument("directory", metavar="DIR", help="the folder to write; new or empty")
    parser.add_argument(
        "--model", help="the folder that the run started from, if it is no longer where it was"
    )
    parser.add_argument("--module", help="the module's class, for a checkpoint not made by `lit-rlhf fit`")
    parser.add_argument(
        "--combine",
        choices=("mean", "min", "mean_minus_std", "gate"),
        help="of a reward model with components: how their scores become one, if not as it was trained",
    )
    parser.add_argument("--k", type=float, help="standard deviations that mean_minus_std takes off")
    parser.add_argument(
        "--few-shot",
        metavar="FILE",
        help="of a reward model with components: fit the weights of their mean on the judged pairs of this file; of "
        "votes the side that more than half of them take counts as the better one",
    )
    arguments = parser.parse_args(argv)
    checkpoint, directory = Path(arguments.checkpoint), Path(arguments.directory)
    if not checkpoint.exists():
        refuse(f"{checkpoint}: no such file.", *near_files(str(checkpoint)))
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        refuse(f"{directory} is not empty.", "Give a new folder.")
    if arguments.few_shot and not Path(arguments.few_shot).exists():
        refuse(f"--few-shot {arguments.few_shot}: no such file.", *near_files(arguments.few_shot))
    from lit_rlhf.cli.guard import silence_adverts

    silence_adverts()
    with whole_file(checkpoint) as file:
        module = load_module(file, arguments.module, arguments.model)
    if arguments.combine or arguments.k is not None or arguments.few_shot:
        combine_components(module, arguments)
    said = f"exported {type(module).__name__} of {checkpoint} to {directory}"
    if getattr(module, "adapter", None) is not None:
        beside = directory.with_name(f"{directory.name}-adapter")
        if beside.exists():
            refuse(f"{beside} is there already: the LoRA adapter goes there.", "Give another folder.")
        said += f", merged; the adapter alone to {beside}"
    module.export(directory)
    print(said)


@contextmanager
def whole_file(checkpoint: Path) -> Iterator[Path]:
    """The checkpoint as one file: that of a sharded run is put together beside it for a while, without optimizers."""
    if not checkpoint.is_dir():
        yield checkpoint
        return
    import torch

    from lit_rlhf.strategies.sharded_checkpoint import read_sharded_checkpoint

    try:
        content = read_sharded_checkpoint(checkpoint, with_optimizers=False)
    except FileNotFoundError as error:
        refuse(str(error))
    with tempfile.TemporaryDirectory(prefix=f".{checkpoint.name}-", dir=checkpoint.parent) as folder:
        file = Path(folder) / checkpoint.name
        torch.save(content, file)
        del content
        yield file


def combine_components(module: Any, arguments: argparse.Namespace) -> None:
    """Do to a reward module's components what the arguments ask for, and say what was fitted."""
    from lit_rlhf.cli.export_components import fit_few_shot, recombine

    try:
        recombine(module, arguments.combine, arguments.k)
        lines = fit_few_shot(module, arguments.few_shot) if arguments.few_shot else []
    except ValueError as error:  # such as a row of the file that cannot be read
        refuse(str(error))
    print("\n".join(lines) + "\n" * bool(lines), end="")


def load_module(checkpoint: Path, class_name: str | None, model: str | None) -> Any:
    """The module that wrote `checkpoint`, with its weights, on the CPU.

    Args:
        checkpoint: the file.
        class_name: its class, short or dotted; None = what the checkpoint says.
        model: in place of the checkpoint's own `model` argument.
    """
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    if "state_dict" not in content:
        refuse(f"{checkpoint} is no Lightning checkpoint: it has no state_dict.")
    arguments = dict(content.get("hyper_parameters", {}))
    recorded = arguments.pop("_class_path", None)
    arguments.pop("_instantiator", None)
    del content
    if not (class_name or recorded):
        refuse(
            f"{checkpoint} does not say which module wrote it: it was not made by `lit-rlhf fit`.",
            f"Give --module, one of {', '.join(PHASES)}",
        )
    given = model or arguments.get("model")
    changes = {"model": model} if model else {}
    module_class = find_class(class_name or recorded)
    try:
        return module_class.load_from_checkpoint(checkpoint, map_location="cpu", **changes)
    except ValueError as error:  # such as another model under a LoRA checkpoint's adapters
        refuse(f"{checkpoint}: {error}")
    except OSError as error:  # what is no folder is looked for on the hub
        refuse_missing_model(checkpoint, given, bool(model), error)
    except RuntimeError as error:
        differ = [line.strip() for line in str(error).splitlines() if "state_dict for" not in line]
        if not differ or "state_dict" not in str(error):
            raise
        refuse(
            f"{checkpoint}: its weights do not fit the model {given}: {differ[0]}",
            *([f"… and {len(differ) - 1} more differences."] if len(differ) > 1 else []),
            "Give --model: a folder of the architecture and the vocabulary that it was trained from.",
        )


def refuse_missing_model(checkpoint: Path, given: Any, is_option: bool, error: OSError) -> NoReturn:
    """Refuse a model that cannot be opened, be it one that was asked for or the checkpoint's own."""
    from lit_rlhf.cli.guard import hub_message

    said = hub_message(error) or str(error)
    if is_option:
        refuse(f"--model {given}: {said}")
    refuse(
        f"{checkpoint} was trained from the model {given}, which is not there: {said}",
        "Give --model: its new place, or another folder of the same architecture and tokenizer.",
    )


def find_class(name: str | Any) -> Any:
    """One of our modules by its short name, or any class by its dotted path."""
    if name in lit_rlhf.__all__:
        return getattr(lit_rlhf, name)
    module_name, _, class_name = str(name).rpartition(".")
    try:
        return getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError):
        near = difflib.get_close_matches(str(name).rsplit(".", 1)[-1], lit_rlhf.__all__, n=1)
        refuse(f"no module class is called '{name}'.", *([f"Did you mean '{near[0]}'?"] if near else []))

"""The files that a command line names, looked for before anything heavy is loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lit_rlhf.cli.refusal import near_files, refuse

SPECIAL_CHECKPOINTS = ("last", "best", "hpc")
"""Words that `--ckpt_path` takes in place of a file."""

DATA_OPTION = re.compile(r"--data\.(init_args\.)?(val_|test_|predict_)?path")
"""The options that name data."""

DATA_SUFFIXES = (".jsonl", ".json", ".gz", ".parquet", ".arrow", ".csv")


def check_files(arguments: Sequence[str], command: str) -> None:
    """Refuse a config, checkpoint or data file that is not there, before anything heavy is loaded."""
    for option, value in option_values(arguments):
        if option in ("-c", "--config"):
            if value.startswith(("http://", "https://")):
                refuse(
                    f"--config {value}: a config is never read over the network, because it can run any code.",
                    "Download it, read it, and give its path.",
                )
            if value.lstrip().startswith("{"):
                continue  # the config itself, as jsonargparse allows
            if not Path(value).is_file():
                missing_config(value, command)
            check_yaml(value)
        elif "://" in value or value.startswith("[") or Path(value).exists():
            continue
        elif option == "--ckpt_path" and value not in (*SPECIAL_CHECKPOINTS, "null", ""):
            missing_file("--ckpt_path", value, command)
        elif DATA_OPTION.fullmatch(option) and value.endswith(DATA_SUFFIXES):
            missing_file(option, value, command)


def check_out(value: str) -> None:
    """Refuse a file of rows to write that is there already, or is called something else than .jsonl."""
    out = Path(value)
    if out.suffix != ".jsonl":
        refuse(f"--out {out}: expected a name that ends in .jsonl.")
    if out.exists():
        refuse(f"--out {out}: is there already.", "Give another name, or remove it.")


def check_rows(option: str, value: str) -> None:
    """Refuse a file of rows to read that is not there."""
    written_so = value.startswith((".", "/", "~")) or value.endswith((".jsonl", ".json", ".gz", ".csv"))
    if written_so and not Path(value).expanduser().exists():
        refuse(f"{option} {value}: no such file.", *near_files(value))


def check_model_folder(option: str, value: str) -> None:
    """Refuse a checkpoint where a model is meant."""
    if value.endswith(".ckpt"):
        refuse(
            f"{option} {value}: expected a Hugging Face folder, found a checkpoint, which only resumes its run.",
            f"`lit-rlhf export {value} DIR` makes a folder of it; a finished fit has one in <run>/export.",
        )


def check_yaml(value: str) -> None:
    """Refuse a config that is no YAML mapping, naming the line."""
    import yaml

    try:
        content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        refuse(f"--config {value}{line}: not YAML: {error.problem}.")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        refuse(f"--config {value}: not a YAML text file: {error}.")
    if not isinstance(content, dict):
        refuse(
            f"--config {value}: expected keys such as `model:` and `data:`, found {type(content).__name__}."
        )


def option_values(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The options with their values, written ``--option value`` or ``--option=value``."""
    pairs: list[tuple[str, str]] = []
    for place, word in enumerate(arguments):
        if not word.startswith("-"):
            continue
        option, equals, value = word.partition("=")
        if equals:
            pairs.append((option, value))
        elif place + 1 < len(arguments):
            pairs.append((option, arguments[place + 1]))
    return pairs


def missing_config(value: str, command: str) -> NoReturn:
    """Refuse a config that is not there; names of shipped ones are recognised."""
    from lit_rlhf.cli.configs import shipped

    hints = near_files(value)
    name = Path(value).name.removesuffix(".yaml")
    names = list(shipped())
    near = name if name in names else next(iter(difflib.get_close_matches(name, names, n=1)), None)
    if near:
        hints.append(f"`lit-rlhf cp {near} {near}.yaml` writes the shipped config '{near}' to a file.")
    refuse(f"--config {value}: no such file.", *hints, f"help: lit-rlhf {command} --help")


def missing_file(option: str, value: str, command: str) -> NoReturn:
    """Refuse a file that is not there, with the near names in its folder."""
    refuse(f"{option} {value}: no such file.", *near_files(value), f"help: lit-rlhf {command} --help")

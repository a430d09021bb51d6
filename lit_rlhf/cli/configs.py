"""``lit-rlhf ls | cat | cp``: the configs that come with the package."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import lit_rlhf


def folder() -> Path:
    """Where the shipped configs lie: in the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: If neither is there.
    """
    package = Path(lit_rlhf.__file__).parent
    for place in (package / "configs", package.parent / "configs"):
        if (place / "sft.yaml").is_file():
            return place
    raise FileNotFoundError(
        f"the shipped configs are missing: looked for sft.yaml in {package}/configs; reinstall"
    )


def shipped() -> dict[str, Path]:
    """The configs by name (``sft``, ``dpo``, …), in alphabetical order."""
    place = folder()
    files = sorted(place.rglob("*.yaml"))
    return {file.relative_to(place).with_suffix("").as_posix(): file for file in files}


def find(name: str) -> Path:
    """The file of the config `name`, with or without ``.yaml`` and ``configs/``."""
    configs = shipped()
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    if plain not in configs:
        near = difflib.get_close_matches(plain, configs, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        print(f"error: no config is called '{name}'.{hint}\nhelp: lit-rlhf ls", file=sys.stderr)
        raise SystemExit(2)
    return configs[plain]


def summary(file: Path) -> str:
    """The config's second comment line, which says what it is for."""
    comments = [line.lstrip("# ").rstrip() for line in file.read_text().splitlines() if line.startswith("#")]
    return comments[1] if len(comments) > 1 else ""


def list_main(argv: Sequence[str]) -> None:
    """``lit-rlhf ls``"""
    parser = argparse.ArgumentParser("lit-rlhf ls", description="List the configs that come with lit-rlhf.")
    parser.parse_args(argv)
    width = max(map(len, shipped())) + 2
    for name, file in shipped().items():
        print(f"{name:<{width}}{summary(file)}")
    print("\n`lit-rlhf cat NAME` prints one, `lit-rlhf cp NAME FILE` makes it yours to edit.")


def cat_main(argv: Sequence[str]) -> None:
    """``lit-rlhf cat NAME``"""
    parser = argparse.ArgumentParser("lit-rlhf cat", description="Print one of the shipped configs.")
    parser.add_argument("name", help="as `lit-rlhf ls` lists it")
    print(find(parser.parse_args(argv).name).read_text(), end="")


def copy_main(argv: Sequence[str]) -> None:
    """``lit-rlhf cp NAME FILE``"""
    parser = argparse.ArgumentParser(
        "lit-rlhf cp", description="Copy one of the shipped configs to a file of yours."
    )
    parser.add_argument("name", help="as `lit-rlhf ls` lists it")
    parser.add_argument("file", help="where to; a folder takes NAME.yaml")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    arguments = parser.parse_args(argv)
    source, target = find(arguments.name), Path(arguments.file)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not arguments.force:
        print(
            f"error: {target} is there already.\nGive another name, or --force to overwrite it.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        beside.write_text(source.read_text())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{target}: edit it, then `lit-rlhf check --config {target}`")

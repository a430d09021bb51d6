"""``lit-rlhf env``: versions and devices, for a bug report."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from lit_rlhf import __version__

PACKAGES = (
    "torch", "lightning", "transformers", "tokenizers", "datasets", "torchmetrics", "jsonargparse",
    "tensorboard", "peft", "rich", "numpy",
)  # fmt: skip


def lines() -> list[str]:
    """One ``name: value`` a line."""
    import torch

    found = [
        f"lit-rlhf: {__version__}",
        f"python: {sys.version.split()[0]}",
        f"platform: {platform.platform()}",
    ]
    for package in PACKAGES:
        try:
            found.append(f"{package}: {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package}: not installed")
    found.append(f"threads: {torch.get_num_threads()}")
    if torch.cuda.is_available():
        found.append(f"cuda: {torch.version.cuda}")
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found.append(f"gpu {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        found.append("gpu: none that torch can use")
    return found


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf env``"""
    argparse.ArgumentParser("lit-rlhf env", description="Versions and devices, for a bug report.").parse_args(
        argv
    )
    print("\n".join(lines()))

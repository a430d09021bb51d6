"""``lit-rlhf demo``: the whole loop on a small world, in minutes, with nothing to download."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lit_rlhf.cli.demo.presets import PRESETS


def main(argv: Sequence[str]) -> None:
    """Parse, say what will happen, then import what is slow and run.

    Raises:
        SystemExit: 2 for a mistake in the arguments, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="lit-rlhf demo",
        description="Pretrain a small model on a small language, fine-tune it, learn a reward from noisy "
        "comparisons, and align it by best-of-n, DPO and PPO, with and without the KL leash.",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default="quick", help="quick: under five minutes; full: the marks"
    )
    parser.add_argument("--out", type=Path, default=Path("lit-rlhf-demo"), help="where everything is written")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and samples")
    arguments = parser.parse_args(list(argv))
    preset = PRESETS[arguments.preset]
    print(
        f"lit-rlhf demo, preset {arguments.preset}, seed {arguments.seed}: {preset.expected} on two idle cores.\n"
        f"Everything is written into {arguments.out}; a second run continues what was interrupted.",
        flush=True,
    )
    # The models are so small that a second thread costs more than it brings.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.perf_counter()

    from lit_rlhf.callbacks import GracefulStopped
    from lit_rlhf.cli.demo.loop import Demo, DemoMismatch

    try:
        Demo(arguments.out, arguments.preset, arguments.seed, started).run()
    except DemoMismatch as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (GracefulStopped, KeyboardInterrupt):
        command = f"lit-rlhf demo --preset {arguments.preset} --out {arguments.out} --seed {arguments.seed}"
        print(f"\nstopped; continue with: {command}", flush=True)
        raise SystemExit(130) from None

"""All phases on one GPU: memory against ``lit-rlhf plan``, speed, checkpoint and resume.

``python -m benchmarks.gpu.phases --work DIR --out FILE.json``; again, until it says that nothing is left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.cells import FULL, QUICK, Amounts, Cell, cells
from benchmarks.gpu.folders import SHAPES
from benchmarks.scale.compute import Tree, forward_flops
from benchmarks.scale.results import JSON, machine, write
from benchmarks.speed.flops import peak_flops

ROOT = Path(__file__).parents[2]
MINUTES = 9.0
LIMIT_SECONDS = 540.0
"""Of one process; a cell has up to three."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Run the cells that `--out` lacks, as many as there is time for."""
    arguments = parser().parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        raise SystemExit("--device cpu: expected --quick with it; the full size is for a GPU.")
    if arguments.device == "cuda":
        from benchmarks.gpu.__main__ import require_cuda

        require_cuda()
    wanted = [cell for cell in cells(arguments.quick) if not arguments.only or cell.name in arguments.only]
    rows: list[JSON] = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    done = {row["conditions"]["cell"] for row in rows}
    missing = [cell for cell in wanted if cell.name not in done]
    started, longest = time.monotonic(), 0.0
    peak = peak_flops(arguments.device, bf16=True) if missing else 0.0
    for number, cell in enumerate(missing):
        passed = time.monotonic() - started
        if number and passed + longest > 60 * arguments.minutes:
            break
        rows += run_cell(cell, arguments.work, QUICK if arguments.quick else FULL, arguments.device, peak)
        write(arguments.out, rows)
        took = time.monotonic() - started - passed
        longest = max(longest, took)
        print(f"{cell.name}: {took:.0f} s; {len(missing) - number - 1} left", flush=True)
    left = len(wanted) - len({row["conditions"]["cell"] for row in rows} & {cell.name for cell in wanted})
    print(table(rows))
    print("nothing is left." if not left else f"{left} left: run the same command again.")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu.phases", description=__doc__)
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        help="the rows, as JSON; a second start goes on with what is missing",
    )
    add("--work", type=Path, required=True, help="a folder for models, data and runs; 80 GB of room")
    add("--minutes", type=float, default=MINUTES, help="begin nothing that would go beyond (%(default)s)")
    add("--quick", action="store_true", help="tiny models: does it run at all")
    add("--only", action="append", metavar="CELL", help="this one alone; may be repeated")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the code, with --quick")
    return parser


def run_cell(cell: Cell, work: Path, amounts: Amounts, device: str, peak: float) -> list[JSON]:
    """Plan, fit, and resume from the middle; the rows.

    Raises:
        RuntimeError: a process failed though the plan says that it fits; the message ends with what it printed last.
    """
    shared = cell.arguments(work, amounts, device)
    folder = work / "runs" / cell.name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    conditions: JSON = {"cell": cell.name, **machine(amounts is QUICK), "arguments": " ".join(shared)}
    memory = device_gib(device)
    plan = run_plan(shared, memory, folder)
    conditions["plan"] = {
        "fits": plan["fits"],
        "peak_bytes": plan["peak"],
        "assumptions": plan["assumptions"],
    }
    if not plan["fits"]:
        return [
            {
                **_row(cell, "memory", "plan"),
                "theirs": mb(tensors(plan)),
                "unit": "MB",
                "conditions": conditions,
            }
        ]
    half = cell.steps(amounts) // 2
    checkpoint = folder / "middle.ckpt"
    whole = fit(shared, folder / "whole", save_at=half, checkpoint=checkpoint)
    size = _bytes_under(checkpoint)
    resumed = fit([*shared, f"--ckpt_path={checkpoint}"], folder / "resumed")
    shutil.rmtree(folder)
    conditions |= {
        "device": whole["device"],
        "checkpoint_mb": mb(size),
        "reserved_bytes": whole["reserved_bytes"],
    }
    return [
        memory_row(cell, plan, whole, conditions),
        *speed_rows(cell, whole, peak, conditions),
        resume_row(cell, whole, resumed, half, conditions),
    ]


def run_plan(shared: Sequence[str], memory: float, folder: Path) -> JSON:
    """What ``lit-rlhf plan`` says of the same arguments."""
    file = folder / "plan.json"
    _run([*_command("plan"), *shared, f"--memory={memory:.2f}", f"--json={file}"], allowed=(0, 1), made=file)
    plan: JSON = json.loads(file.read_text())
    return plan


def fit(shared: Sequence[str], run: Path, save_at: int = 0, checkpoint: Path | None = None) -> JSON:
    """A fit of the command line with :class:`benchmarks.gpu.watch.Watch`; what that saw."""
    file = run.with_suffix(".json")
    watch = [
        "--trainer.callbacks+=benchmarks.gpu.watch.Watch",
        f"--trainer.callbacks.path={file}",
        f"--trainer.callbacks.save_at={save_at}",
        *([] if checkpoint is None else [f"--trainer.callbacks.checkpoint={checkpoint}"]),
    ]
    _run([*_command("fit"), *shared, *watch, f"--out={run}"], allowed=(0,), made=file)
    seen: JSON = json.loads(file.read_text())
    return seen


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "lit_rlhf", name]


def _run(command: Sequence[str], allowed: Sequence[int], made: Path) -> None:
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )
    if done.returncode not in allowed or not made.exists():
        last = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise RuntimeError(f"exit code {done.returncode} of {' '.join(command)}:\n{last}")


def memory_row(cell: Cell, plan: JSON, seen: JSON, conditions: JSON) -> JSON:
    """The most that torch allocated against the tensors of the plan's highest moment; on a CPU nothing counts it."""
    found = seen["peak_bytes"]
    planned = tensors(plan)
    row = {**_row(cell, "memory", "plan"), "theirs": mb(planned), "unit": "MB", "conditions": conditions}
    if found is not None:
        ratio = round(planned / found, 4)
        row |= {"ours": mb(found), "ratio": ratio, "spread": [ratio, ratio]}
    return row


def tensors(plan: JSON) -> float:
    """Bytes of all tensors at the highest moment, without context and fragments."""
    return float(max(moment["tensors"] for moment in plan["moments"].values()))


def speed_rows(cell: Cell, seen: JSON, peak: float, conditions: JSON) -> list[JSON]:
    """Useful operations of the updates against the machine's peak (MFU), and tokens a second; PPO's rollouts too."""
    timed = seen["updates"][seen["warm"] :]
    seconds = sum(update["seconds"] for update in timed)
    flops = sum(useful_flops(cell, update["trees"]) for update in timed)
    trained = sum(prompt + sum(responses) for update in timed for prompt, responses in update["trees"])
    share = round(flops / seconds / peak, 4)
    rows = [
        {
            **_row(cell, "updates, peak share", "gemm peak"),
            **{"ours": round(flops / seconds / 1e9, 2), "theirs": round(peak / 1e9, 2), "ratio": share},
            **{"unit": "GFLOP/s", "spread": [share, share], "conditions": conditions},
        },
        {
            **_row(cell, "updates", "the clock"),
            **{"ours": round(trained / seconds, 2), "unit": "tokens/s"},
            "conditions": {**conditions, "updates": len(timed), "seconds": seconds},
        },
    ]
    if cell.phase == "ppo":
        drawn = (
            sum(sum(responses) for update in timed for _, responses in update["trees"]) / 2
        )  # in two epochs
        in_all = seen["seconds_in_all"]
        rows.append(
            {
                **_row(cell, "iterations", "the clock"),
                **{"ours": round(drawn / in_all, 2), "unit": "response tokens/s"},
                "conditions": {**conditions, "seconds": in_all},
            }
        )
    return rows


def useful_flops(cell: Cell, trees: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Of one update: each distinct token once, without what activation checkpointing computes again."""
    shape = SHAPES[cell.size]
    passes = 2 if cell.lora else 3
    networks = [(passes, cell.phase != "reward")]  # how often, and whether the head predicts
    if cell.phase == "dpo":
        networks.append((1, True))
    if cell.phase == "ppo" and not cell.lora:
        networks.append((3, False))
    flops = 0.0
    for prompt, responses in trees:
        for times, head in networks:
            alone = forward_flops(shape, Tree(prompt, 0, 0), head)
            behind = sum(forward_flops(shape, Tree(prompt, each), head) - alone for each in responses)
            flops += times * (alone + behind)
    return flops


def resume_row(cell: Cell, whole: JSON, resumed: JSON, half: int, conditions: JSON) -> JSON:
    """The last loss of the fit left alone, and of the one that went on from its middle.

    Raises:
        RuntimeError: that did not begin where the checkpoint was saved, or did not end where the other did.
    """
    steps = resumed["first_step"], resumed["updates"][-1]["step"]
    if steps != (half, whole["updates"][-1]["step"]):
        raise RuntimeError(
            f"{cell.name}: expected to go on from update {half} to {whole['updates'][-1]['step']}, found {steps}"
        )
    left_alone = {update["step"]: update["loss"] for update in whole["updates"]}
    apart = [abs(update["loss"] - left_alone[update["step"]]) for update in resumed["updates"]]
    return {
        **_row(cell, "resume", "the fit left alone"),
        **{
            "ours": resumed["updates"][-1]["loss"],
            "theirs": whole["updates"][-1]["loss"],
            "unit": "last loss",
        },
        "conditions": {**conditions, "furthest_apart": max(apart), "from_update": half},
    }


def _row(cell: Cell, work: str, against: str) -> JSON:
    return {
        **{
            "work": f"{cell.name}: {work}",
            "size": cell.size,
            "against": against,
            "ours": None,
            "theirs": None,
        },
        **{"ratio": None, "unit": "", "repeats": 1, "spread": None},
    }


def mb(count: float) -> float:
    return round(count / 2**20, 1)


def device_gib(device: str) -> float:
    """Memory of the GPU; of a CPU whatever makes everything fit."""
    if device == "cpu":
        return 1024.0
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) / 2**30


def _bytes_under(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def table(rows: Sequence[JSON]) -> str:
    """The rows as text."""
    lines = []
    for row in rows:
        numbers = " against ".join(f"{row[side]:g}" for side in ("ours", "theirs") if row[side] is not None)
        planned = "" if row["conditions"]["plan"]["fits"] else ", does not fit by plan: not run"
        lines.append(f"{row['work']}: {numbers} {row['unit']} ({row['against']}){planned}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

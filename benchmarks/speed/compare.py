"""Runs contests in turns, each process alone, and writes what is finished at once."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.conditions import conditions, load
from benchmarks.speed.contest import Contest, Key, result_row
from benchmarks.speed.job import JSON, TRL_PPO_VERSION, TRL_VERSION, Job, Measured, read_report
from lit_rlhf.callbacks import write_beside_and_rename

ROOT = Path(__file__).parents[2]
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
"""Where ``make bench-envs`` puts the interpreter with TRL."""
TRL_PPO_PYTHON = Path(os.environ.get("TRL_PPO_PYTHON", ROOT / ".venv-trl-ppo" / "bin" / "python"))
"""The same with the last TRL that has PPO; the environment variable names another."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
Run = Callable[[Job], Measured]


def find_trl_python() -> Path:
    """The interpreter of the peers' environment, or this one where it has the right TRL (the extra `bench`)."""
    if not TRL_PYTHON.exists() and installed("trl") == TRL_VERSION:
        return Path(sys.executable)
    return TRL_PYTHON


def installed(package: str) -> str | None:
    """The version that this interpreter has."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    repeats: int
    quick: bool


def run_process(job: Job, trl_pythons: Mapping[str, Path]) -> Measured:
    """Run a job in a process of its own.

    Args:
        job: what to run.
        trl_pythons: by TRL's version, the interpreter of an environment that has it.

    Raises:
        FileNotFoundError: there is no interpreter with TRL.
        RuntimeError: the process failed; the message ends with what it printed last.
    """
    python = sys.executable
    if job.program == "trl":
        trl_python = trl_pythons[job.trl_version]
        if not trl_python.exists():
            option = "--trl-ppo-python" if job.trl_version == TRL_PPO_VERSION else "--trl-python"
            raise FileNotFoundError(
                f"{trl_python}: expected the interpreter of an environment with trl {job.trl_version}, found none. "
                f"Run `make bench-envs`, or name one with {option}."
            )
        python = str(trl_python)
    command = [python, "-m", job.module, job.to_json()]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(job.threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    measured = read_report(done.stdout)
    if done.returncode or measured is None:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise RuntimeError(f"{job.program} ended with exit code {done.returncode} on {job}:\n{last}")
    found = measured.versions.get("trl")
    if job.program == "trl" and found != job.trl_version:
        raise RuntimeError(f"{python}: expected trl {job.trl_version}, found {found}. Run `make bench-envs`.")
    return measured


class Progress:
    """Says what was done, and about how long the rest will take.

    Args:
        contests: all that will run.
        repeats: of each.
    """

    def __init__(self, contests: Sequence[Contest], repeats: int) -> None:
        self._left = {(contest.label, side): repeats for contest in contests for side in contest.sides}
        self._seconds: dict[tuple[str, str], float] = {}

    def finished(self, contest: Contest, side: str, repeat: int, seconds: float, measured: Measured) -> None:
        """A process is over after so many wall seconds."""
        self._left[contest.label, side] -= 1
        self._seconds[contest.label, side] = seconds
        print(
            f"{contest.label}, repeat {repeat + 1}, {side}: {measured.tokens_per_second:.0f} tokens/s, "
            f"{measured.ms_per_step:.1f} ms/step, {measured.peak_mb:.0f} MB, in {seconds:.0f} s; "
            f"about {self.seconds_left() / 60:.0f} min left",
            flush=True,
        )

    def seconds_left(self) -> float:
        """What is left, each process as long as its last one; those not seen yet as long as the average."""
        usual = sum(self._seconds.values()) / max(1, len(self._seconds))
        return sum(count * self._seconds.get(key, usual) for key, count in self._left.items())


def run_contest(contest: Contest, plan: Plan, run: Run, progress: Progress) -> list[JSON]:
    """The contest's rows. The order of the sides turns round with every repeat, so that no drift favours one."""
    runs: dict[str, list[Measured]] = {side: [] for side in contest.sides}
    loads = []
    for repeat in range(plan.repeats):
        loads.append(load())
        order = list(contest.sides)
        for side in order if repeat % 2 == 0 else reversed(order):
            start = time.perf_counter()
            measured = run(contest.sides[side].with_seed(repeat))
            runs[side].append(measured)
            progress.finished(contest, side, repeat, time.perf_counter() - start, measured)
        contest.check({side: done[-1] for side, done in runs.items()})
    rows = []
    for line in contest.lines:
        said = conditions(contest, line, runs, loads, plan.quick)
        rows.append(result_row(line, contest.sides[line.ours].size, runs, said))
    return rows


def run_contests(contests: Sequence[Contest], plan: Plan, out: Path, run: Run) -> list[JSON]:
    """Run what `out` does not hold yet, writing it anew after each contest; returns the contests' rows."""
    rows = finished_rows(out, plan)
    missing = [contest for contest in contests if not all(key in rows for key in contest.keys)]
    progress = Progress(missing, plan.repeats)
    for contest in missing:
        rows.update({key_of(row): row for row in run_contest(contest, plan, run, progress)})
        write(out, rows.values())
    return [rows[key] for contest in contests for key in contest.keys]


def finished_rows(out: Path, plan: Plan) -> dict[Key, JSON]:
    """The rows that `out` holds from an earlier start.

    Raises:
        ValueError: they were measured under another plan.
    """
    if not out.exists():
        return {}
    rows = {key_of(row): row for row in json.loads(out.read_text())}
    for (work, against, size), row in rows.items():
        found = row["repeats"], row["conditions"]["quick"]
        if found != (plan.repeats, plan.quick):
            raise ValueError(
                f"{out}: holds {work!r} against {against!r}, size {size}, with {found[0]} "
                f"repeats{' (--quick)' if found[1] else ''}, "
                f"and {plan.repeats}{' (--quick)' if plan.quick else ''} were asked for. Give another --out."
            )
    return rows


def key_of(row: JSON) -> Key:
    return row["work"], row["against"], row["size"]


def write(out: Path, rows: Iterable[JSON]) -> None:
    """Write the rows so that a stop leaves the old file or the new one."""
    write_beside_and_rename(out, json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n")


def table(rows: Sequence[JSON]) -> str:
    """The rows as aligned text."""
    cells = [["work", "size", "against", "ours", "theirs", "unit", "ratio", "spread"]]
    for row in rows:
        low, high = row["spread"]
        numbers = [f"{row['ours']:g}", f"{row['theirs']:g}", row["unit"], f"{row['ratio']:.2f}"]
        cells.append([row["work"], row["size"], row["against"], *numbers, f"{low:.2f} to {high:.2f}"])
    widths = [max(len(cell[column]) for cell in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip()
        for cell in cells
    )


def arguments_of(name: str, description: str) -> argparse.ArgumentParser:
    """The command line that all benchmarks of this kind have."""
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=description)
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        help="the rows, as JSON; a second start goes on with what is missing",
    )
    add("--quick", action="store_true", help="a small model and 2 repeats: does it run at all")
    add("--only", action="append", metavar="WORK", help="this work alone; may be repeated")
    add("--repeats", type=int, help="default: 5, with --quick 2")
    add("--trl-python", type=Path, default=find_trl_python(), help="interpreter with trl (%(default)s)")
    add(
        "--trl-ppo-python",
        type=Path,
        default=TRL_PPO_PYTHON,
        help=f"interpreter with trl {TRL_PPO_VERSION} (%(default)s)",
    )
    return parser


def compare(contests: Sequence[Contest], arguments: argparse.Namespace) -> None:
    """Run the contests that were asked for and print their table."""
    plan = Plan(arguments.repeats or (2 if arguments.quick else 5), arguments.quick)
    trl_pythons = {
        TRL_VERSION: arguments.trl_python.absolute(),
        TRL_PPO_VERSION: arguments.trl_ppo_python.absolute(),
    }
    rows = run_contests(
        choose(contests, arguments.only), plan, arguments.out, lambda job: run_process(job, trl_pythons)
    )
    print(table(rows))


def main(name: str, contests: Callable[[str], list[Contest]], description: str) -> None:
    """The command of one benchmark.

    Args:
        name: of the module, for the usage line.
        contests: makes the contests for a model size, the largest that a benchmark is to have.
        description: what it measures.
    """
    arguments = arguments_of(name, description).parse_args()
    compare(contests("A" if arguments.quick else "B"), arguments)


def choose(contests: Sequence[Contest], only: Sequence[str] | None) -> list[Contest]:
    """The contests that yield a row of the works asked for.

    Raises:
        SystemExit: there is no such work.
    """
    works = [line.work for contest in contests for line in contest.lines]
    unknown = sorted(set(only or ()) - set(works))
    if unknown:
        raise SystemExit(
            f"--only: expected one of {', '.join(dict.fromkeys(works))}; found {', '.join(unknown)}"
        )
    return [contest for contest in contests if not only or any(line.work in only for line in contest.lines)]

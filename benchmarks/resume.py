"""Kill -9, continue, compare: ``python -m benchmarks.resume --kills 200 --out FILE.json``.

Each trial is a PPO fit that is killed once or twice, continued with ``--ckpt_path last`` (or begun again, where it
came to no checkpoint) and compared with the same fit left alone: exported weights and the last checkpoint bit for
bit, and TensorBoard's scalars and texts as a reader sees them, step for step. Numbers that measure time are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import struct
import tempfile
import time
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.kills import COUNTERS, Ended, Kill, Work, run
from benchmarks.speed.conditions import commit, processor

MEASURES_TIME = ("time/", "perf/")
"""How the names of logged numbers begin that differ from run to run."""

BASE = [
    "fit", "--model", "PPOModule", "--model.model", "model", "--model.reward", "benchmarks.resume.short_and_varied",
    "--data", "PromptDataModule", "--data.path", "prompts.jsonl", "--data.val_path", "prompts.jsonl",
    "--data.batch_size", "6", "--model.minibatch_size", "4", "--model.epochs", "2", "--model.max_new_tokens", "6",
    "--model.optimizer", "AdamW", "--model.optimizer.lr", "0.003",
    "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2", "--trainer.log_every_n_steps", "1",
    "--trainer.gradient_clip_val", "1.0", "--trainer.enable_model_summary", "false", "--trainer.accelerator", "cpu",
    "--out", "run",
]  # fmt: skip
"""The fit: 4 iterations of 6 responses, 2 epochs of 2 minibatches each, a validation after every other."""

VARIANTS: dict[str, list[str]] = {
    "checkpoints at the ends of iterations": [],
    "checkpoints after every update, all state": [
        "--checkpoint_minutes", "0.00001", "--trainer.accumulate_grad_batches", "2", "--data.batch_size", "8",
        "--trainer.check_val_every_n_epoch", "1", "--model.kl_target", "0.5", "--model.kl_horizon", "20",
        "--model.reference", "{decay: 0.9}", "--model.shaping", "{scale: std}", "--model.critic", "shared",
        "--model.target_kl", "0.3", "--model.scheduler", "StepLR", "--model.scheduler.step_size", "3",
        "--model.pretraining", "{path: texts.jsonl, batch_size: 4}",
    ],
}  # fmt: skip
"""What is added to it: nothing, or every part of PPO that has a state of its own."""

TWO_RANKS = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
ONE_RANK = ["--trainer.devices", "1"]


def short_and_varied(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The reward: distinct words less a quarter of all words."""
    words = [completion.split() for completion in completions]
    return [len(set(said)) - 0.25 * len(said) for said in words]


@dataclass(frozen=True)
class Outcome:
    """What a finished run left behind, as far as two runs can have it in common."""

    weights: dict[str, str]
    """Checksum of each exported file, and of each tensor of the last checkpoint."""
    series: dict[str, list[tuple[int, str]]]
    """``(step, value)`` of each scalar and text in TensorBoard."""
    metrics: dict[str, Any]
    """``metrics.json``."""

    def differences(self, other: Outcome) -> list[str]:
        """What is not the same, by name; empty where the two runs are one."""
        found = []
        for kind in ("weights", "series", "metrics"):
            ours, theirs = getattr(self, kind), getattr(other, kind)
            found += [
                f"{kind}: {name}: {ours.get(name)} and {theirs.get(name)}"
                for name in sorted({*ours, *theirs})
                if ours.get(name) != theirs.get(name)
            ]
        return found


def outcome(folder: Path) -> Outcome:
    """Of the run folder `folder`."""
    import torch

    exported = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "export").rglob("*"))
        if file.is_file()
    }
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {
        name: saved[name]
        for name in ("state_dict", "optimizer_states", "lr_schedulers", "ppo", "global_step")
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    return Outcome(
        exported | dict(_checksums("last.ckpt", kept)),
        series(folder / "tensorboard"),
        {name: value for name, value in metrics.items() if not name.startswith(MEASURES_TIME)},
    )


def _checksums(name: str, value: Any) -> Iterator[tuple[str, str]]:
    import torch

    if isinstance(value, dict):
        for key, item in value.items():
            if not str(key).startswith(MEASURES_TIME):
                yield from _checksums(f"{name}/{key}", item)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _checksums(f"{name}/{place}", item)
    elif isinstance(value, torch.Tensor):
        content = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield name, f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"
    else:
        yield name, repr(value)


def series(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Every scalar and text of a TensorBoard folder, as its server has them after dropping what was superseded."""
    import logging

    import tensorboard.backend.event_processing.event_accumulator as plain  # type: ignore[import-untyped]
    import tensorboard.backend.event_processing.plugin_event_accumulator as served  # type: ignore[import-untyped]

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports what it drops
    events = served.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if not tag.startswith((*MEASURES_TIME, "_hparams_")):
            found[tag] = [
                (event.step, hashlib.sha256(event.tensor_proto.SerializeToString()).hexdigest()[:12])
                for event in events.Tensors(tag)
            ]
    # What scripts read with has a rule of its own for dropping.
    by_scripts = plain.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    by_scripts.Reload()
    for tag in by_scripts.Tags()["scalars"]:
        if not tag.startswith(MEASURES_TIME):
            found[f"{tag} (EventAccumulator)"] = [
                (event.step, struct.pack("<f", event.value).hex()) for event in by_scripts.Scalars(tag)
            ]
    return found


@dataclass
class Trial:
    """One run that was killed, and what came of it."""

    kills: list[Kill]
    hit: list[Work] = field(default_factory=list)
    """What the run was doing at each kill; fewer than `kills` where it was done before."""
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_equal(self) -> bool:
        return not self.differences


def prepare(folder: Path, model: Path | None = None) -> None:
    """Write what the fit reads: a small model (or the given one's folder), prompts and texts."""
    from lit_rlhf.world.build import prompt_rows, text_rows, write_model

    if model is None:
        write_model(folder / "model", hidden=32)
    else:
        (folder / "model").symlink_to(model, target_is_directory=True)
    for name, rows in (("prompts", prompt_rows), ("texts", text_rows)):
        lines = [json.dumps(row) + "\n" for row in rows(random.Random(3), 10)]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def import_everything() -> None:
    """What a fit imports, once, for all processes that are forked from this one; one thread each."""
    import torch

    import lit_rlhf
    import lit_rlhf.cli.fit

    for name in lit_rlhf.__all__:
        getattr(lit_rlhf, name)
    torch.set_num_threads(1)


def uninterrupted(folder: Path, flags: Sequence[str], ranks: int = 1) -> tuple[Outcome, Ended]:
    """The fit left alone; what it left, and what it counted on rank 0.

    Raises:
        RuntimeError: it failed.
    """
    ended = finish(folder, [*BASE, *flags], ranks)
    return outcome(folder / "run"), ended


def finish(folder: Path, argv: Sequence[str], ranks: int) -> Ended:
    """Run to the end; raises RuntimeError where it fails."""
    ended = run(argv, folder, ranks=ranks)
    for one in ended:
        if one.code != 0:
            raise RuntimeError(f"{' '.join(argv)} ended with code {one.code}:\n{one.output}")
    return ended[0]


def begun(folder: Path) -> list[str]:
    """The flags that continue the run in `folder`; none where it came to no checkpoint."""
    checkpoints = folder / "run" / "checkpoints"
    found = any((checkpoints / name).exists() for name in ("last.ckpt", "previous.ckpt"))
    return ["--ckpt_path", "last"] if found else []


def trial(
    folder: Path,
    flags: Sequence[str],
    expected: Outcome,
    kills: Sequence[Kill],
    ranks: int = 1,
    first_rank: int = 0,
) -> Trial:
    """Kill, continue, and so on; then finish and compare. The first kill hits `first_rank`, the next the next."""
    made = Trial(list(kills))
    started = time.monotonic()
    shutil.rmtree(folder / "run", ignore_errors=True)
    try:
        for number, kill in enumerate(kills):
            killed = (first_rank + number) % ranks
            ended = run([*BASE, *flags, *begun(folder)], folder, kill, ranks, killed)[killed]
            if ended.code == -9:
                made.hit.append(ended.doing)
            elif ended.code != 0:
                raise RuntimeError(f"the run to be killed ended with code {ended.code}:\n{ended.output}")
        finish(folder, [*BASE, *flags, *begun(folder)], ranks)
        made.differences = outcome(folder / "run").differences(expected)
    except (RuntimeError, TimeoutError, OSError) as error:
        made.differences = [f"{type(error).__name__}: {error}"]
    made.seconds = time.monotonic() - started
    return made


def draw_kill(generator: random.Random, counted: Ended) -> Kill:
    """A moment: any instant as often as not, else any one of what is counted.

    Args:
        generator: draws.
        counted: of the run left alone: how much there is of each, and how long it takes.
    """
    if generator.random() < 0.4:
        return Kill(seconds=generator.uniform(0.0, counted.seconds))
    counter = generator.choice([counter for counter in COUNTERS if counted.counts[counter] > 0])
    return Kill(counter, generator.randint(1, counted.counts[counter]))


def draw_kills(generator: random.Random, counted: Ended) -> list[Kill]:
    """One kill, or in a quarter of the trials two: the second while the run goes on from the first."""
    return [draw_kill(generator, counted) for _ in range(1 + (generator.random() < 0.25))]


def measure(kills: int, ranks: int, seed: int, folder: Path) -> dict[str, Any]:
    """A row of results: `kills` kills, shared among the variants.

    The trials of a run of kills that hit nothing, because the fit was done before, are not counted.
    """
    generator = random.Random(seed)
    flags = TWO_RANKS if ranks == 2 else ONE_RANK
    trials: list[Trial] = []
    done = Tally[str]()
    for place, (name, extra) in enumerate(VARIANTS.items()):
        here = folder / f"{place}-{ranks}"
        here.mkdir()
        prepare(here)
        expected, counted = uninterrupted(here, [*flags, *extra], ranks)
        goal = (kills - sum(done.values())) // (len(VARIANTS) - place)
        while done[name] < goal:
            drawn = draw_kills(generator, counted)
            # files and logs are rank 0's alone
            other = ranks > 1 and drawn[0].counter in (None, "rollout", "update", "validation")
            first_rank = generator.randrange(ranks) if other else 0
            one = trial(here, [*flags, *extra], expected, drawn, ranks, first_rank)
            if not one.hit:
                continue
            trials.append(one)
            done[name] += len(one.hit)
            state = "bit-equal" if one.is_equal else "DIFFERENT: " + "\n  ".join(one.differences[:10])
            print(f"{sum(done.values())}/{kills} killed in {', '.join(one.hit)}: {state}", flush=True)
    equal = sum(len(one.hit) for one in trials if one.is_equal)
    total = sum(done.values())
    return {
        "work": "bit-equal",
        "size": "1 process" if ranks == 1 else f"{ranks} processes",
        "against": "uninterrupted",
        "ours": equal,
        "theirs": total,
        "ratio": equal / total if total else None,
        "unit": "kills",
        "repeats": len(trials),
        "spread": [min(one.is_equal for one in trials), max(one.is_equal for one in trials)]
        if trials
        else [],
        "conditions": {
            "killed_while": dict(Tally(work for one in trials for work in one.hit)),
            "killed_twice": sum(len(one.hit) > 1 for one in trials),
            "variants": {name: {"flags": VARIANTS[name], "kills": count} for name, count in done.items()},
            "command": ["lit-rlhf", *BASE, *flags],
            "compared": "exported files, tensors of last.ckpt, TensorBoard's scalars and texts, metrics.json",
            "left_out": list(MEASURES_TIME),
            "different": [
                {"kills": [vars(kill) for kill in one.kills], "what": one.differences[:20]}
                for one in trials
                if not one.is_equal
            ],
            "seconds_a_trial": round(sum(one.seconds for one in trials) / max(1, len(trials)), 2),
            "seed": seed,
            "commit": commit(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("lit-rlhf", "torch", "lightning", "transformers")},
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resume", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--kills", type=int, default=200, help="in one process; a tenth as many in two (default 200)"
    )
    parser.add_argument("--quick", action="store_true", help="6 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(argv)
    kills = 6 if asked.quick else asked.kills
    os.environ["OMP_NUM_THREADS"] = "1"
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(count, ranks, asked.seed, Path(folder))
            for ranks, count in ((1, kills), (2, max(2, kills // 10)))
        ]
    for row in rows:
        hits = ", ".join(f"{work} {count}" for work, count in row["conditions"]["killed_while"].items())
        print(f"{row['size']}: {row['ours']} of {row['theirs']} bit-equal (killed in: {hits})")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.loop --out FILE.json``: three rounds of labels against one, at equal labels and updates.

In the demo world, with a simulated annotator. Both arms start from one fine-tuned policy a seed, ask for as many
labels, and train for as many updates in all: one round trains on everything; three rounds train each policy on all
labels so far, from the policy before (the KL is to the fine-tuned policy in both). Every arm is a `lit-rlhf loop` with
its folder, its commands run in this process; gold and KL are the loop's own, on prompts that train nothing. A stopped
run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

from benchmarks.loop_rows import print_table, row_of

GOLD = "lit_rlhf.world.gold.gold"
TEMPERATURE = 1.0
"""Of the annotator's Gumbel noise, in units of the gold reward."""
ANNOTATOR = f"the gold reward with Gumbel noise of scale {TEMPERATURE:g}"
RESPONSE_TOKENS = 20


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    labels: int
    """In all, of each arm."""
    evaluation: int
    """Held-out prompts, a response each."""
    texts: int
    demonstrations: int
    updates: int
    """Of DPO, 16 labels each, in all, of each arm."""
    iterations: int
    """Of PPO, 128 responses each, in all, of each arm."""


SIZES = {"full": Size(2400, 1024, 16_000, 6_000, 300, 60), "quick": Size(90, 64, 640, 320, 6, 3)}
ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """One way to train, at one price of KL."""

    method: str
    coefficient: float
    """DPO's β, or PPO's price of a nat."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.coefficient:g}"


SETTINGS = (Setting("dpo", 0.1), Setting("dpo", 0.3), Setting("dpo", 0.6), Setting("ppo", 0.2))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small for a second thread
    arguments = parse(argv)
    from lit_rlhf.callbacks import write_beside_and_rename

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    size = SIZES["quick" if arguments.quick else "full"]
    work = arguments.work or arguments.out.with_name(f"{arguments.out.stem}-work")
    settings = [setting for setting in SETTINGS if not arguments.only or setting.name in arguments.only]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results: dict[str, dict[int, dict[str, Any]]] = {setting.name: {} for setting in settings}
    for seed in seeds:
        for setting in settings:
            results[setting.name][seed] = {
                arm: run_arm(setting, arm, seed, size, work / f"seed-{seed}") for arm in ("one", "three")
            }
        rows = [row_of(setting.name, results, size.labels, ANNOTATOR) for setting in settings]
        write_beside_and_rename(arguments.out, json.dumps(rows, indent=1) + "\n")
    print_table(rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser("python -m benchmarks.loop", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="F.json", help="the rows")
    add("--work", type=Path, metavar="DIR", help="the loops' folders (F-work)")
    add("--seeds", type=int, default=5, help="how many (%(default)s)")
    add("--first-seed", type=int, default=20, help="settings were chosen on seeds below it (%(default)s)")
    add("--only", nargs="+", metavar="SETTING", help=f"of: {', '.join(setting.name for setting in SETTINGS)}")
    add("--quick", action="store_true", help="few labels and untrained models, to see that everything runs")
    return parser.parse_args(argv)


# --- what is run


def run_arm(setting: Setting, arm: str, seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """One loop: its rounds' numbers and CPU seconds, from its folder where it is done."""
    from lit_rlhf.callbacks import write_beside_and_rename
    from lit_rlhf.cli.loop.course import Course
    from lit_rlhf.cli.steps.step import Steps
    from lit_rlhf.reports.loop import draw_loop

    out = folder / f"{setting.method}-{setting.coefficient:g}-{arm}"
    spent_file = folder / f"{out.name}.seconds"
    start = prepare(folder, seed, size)
    if not spent_file.exists():
        began = time.process_time()
        Course(
            loop_of(setting, arm, seed, size, start), out, Steps(out, run_here, lambda line: None), draw_loop
        ).run()
        write_beside_and_rename(spent_file, f"{time.process_time() - began:.1f}\n")
    found = json.loads((out / "results.json").read_text())
    last = found["rounds"][-1]
    print(
        f"seed {seed}, {setting.name}, {arm}: gold {last['gold']['mean']:.3f} at {last['kl']['mean']:.2f} nats, "
        f"{spent_file.read_text().strip()} s",
        flush=True,
    )
    return {
        "start": found["start"]["gold"]["mean"],
        "gold": [numbers["gold"]["mean"] for numbers in found["rounds"]],
        "kl": [numbers["kl"]["mean"] for numbers in found["rounds"]],
        "grammar": [
            grammar_of(out / f"round-{numbers['round']}" / "responses.jsonl") for numbers in found["rounds"]
        ],
        "labels": last["labels_so_far"],
        "accuracy_held_out": [
            (numbers["accuracy_held_out"] or {}).get("mean") for numbers in found["rounds"]
        ],
        "accuracy_before": [(numbers["accuracy_before"] or {}).get("mean") for numbers in found["rounds"]],
        "seconds": float(spent_file.read_text()),
    }


def prepare(folder: Path, seed: int, size: Size) -> Path:
    """The seed's fine-tuned policy and prompts, made once."""
    from lit_rlhf.cli.demo import phases
    from lit_rlhf.world.build import prompt_rows, write_data, write_model, write_rows

    export = folder / "sft" / "export"
    data = {
        name: folder / "data" / f"{name}.jsonl"
        for kind in ("texts", "demonstrations")
        for name in (kind, f"validation_{kind}")
    }
    if not (folder / "data" / "evaluation.jsonl").exists():
        if not (folder / "model").exists():
            write_model(folder / "model", seed=seed)
        write_data(folder / "data", seed, texts=size.texts, demonstrations=size.demonstrations)
        write_rows(folder / "data" / "asked.jsonl", prompt_rows(Random(f"asked {seed}"), size.labels))
        write_rows(folder / "data" / "evaluation.jsonl", prompt_rows(Random("evaluation"), size.evaluation))
    if not export.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            phases.pretrain(folder / "pretrain", folder / "model", data, size.texts)
            phases.fine_tune(folder / "sft", folder / "pretrain" / "export", data, size.demonstrations, seed)
    return folder


def loop_of(setting: Setting, arm: str, seed: int, size: Size, start: Path) -> Any:
    """An arm's settings: in how many rounds the labels are asked; the updates are shared out evenly to the rounds."""
    from lit_rlhf.cli.loop.settings import Evaluation, Fit, Loop, PolicyFit, Program

    rounds = ROUNDS if arm == "three" else 1
    quiet = {"trainer.enable_progress_bar": False, "trainer.enable_model_summary": False, "trainer.accelerator": "cpu",
             "trainer.log_every_n_steps": 1, "seed_everything": seed}  # fmt: skip
    reward, updates = None, size.updates // rounds
    if setting.method == "dpo":
        policy = {"model.beta": setting.coefficient, "model.reference_storage": "precomputed", "data.batch_size": 16,
                  "trainer.max_epochs": 1000, "trainer.max_steps": updates}  # fmt: skip
    else:
        iterations = size.iterations // rounds
        updates = iterations * 2 * 2  # passes over a rollout, minibatches of one
        reward = Fit("reward", {**quiet, "model.optimizer.lr": 2.0e-3, "trainer.max_epochs": 3})
        policy = {
            "model.kl_coef": setting.coefficient, "model.critic_learning_rate": 1.0e-3, "model.value_coef": 0.5,
            "data.batch_size": 128, "data.val_fraction": 0, "trainer.limit_val_batches": 0,
            "trainer.max_epochs": iterations, "model.scheduler": "torch.optim.lr_scheduler.LinearLR",
        }  # fmt: skip
    # at a rate that does not fall, where a policy of this size ends is mostly chance
    falling = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": updates}
    policy |= {"model.optimizer.lr": 5.0e-4, "model.max_new_tokens": RESPONSE_TOKENS}
    policy |= {f"model.scheduler.init_args.{name}": value for name, value in falling.items()}
    return Loop(
        model=str(start / "sft" / "export"),
        prompts=str(start / "data" / "asked.jsonl"),
        policy=PolicyFit(setting.method, {**quiet, **policy}, start="previous"),
        annotators=(Program("ann", GOLD, temperature=TEMPERATURE),),
        reward=reward,
        rounds=rounds,
        prompts_per_round=size.labels // rounds,
        sampling={"max-new-tokens": RESPONSE_TOKENS},
        held_out=0.0 if setting.method == "dpo" else 0.05,
        evaluation=Evaluation(str(start / "data" / "evaluation.jsonl")),
        gold=GOLD,
        seed=seed,
    )


def run_here(argv: Sequence[str]) -> int:
    """A step's command in this process, what it says kept back unless it fails."""
    from lit_rlhf.cli.main import main as lit_rlhf

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if argv[0] == "-m":
                import_module(argv[1]).main(argv[2:])
            else:
                lit_rlhf(list(argv))
    except SystemExit as stop:
        if stop.code:
            print(said.getvalue())
            return stop.code if isinstance(stop.code, int) else 1
    return 0


def grammar_of(responses: Path) -> float:
    """Share of responses that are a finished sentence of the language."""
    from lit_rlhf.world.grammar import grammatical

    rows = [json.loads(line) for line in responses.read_text().splitlines()]
    return mean(float(row["finished"][0] and grammatical(row["responses"][0].split())) for row in rows)


if __name__ == "__main__":
    main()

"""The numbers of the real-text runs, read from their folders."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.command_line import Runner
from benchmarks.pair_logprobs import preferred_is_likelier
from benchmarks.prepare import read
from benchmarks.slot_coverage import coverage
from benchmarks.steps import PHASES, PRETRAIN_WINDOWS
from lit_rlhf.metrics import bootstrap
from lit_rlhf.metrics.baselines import TextComparison, bag_of_words, longer_wins

READ_BY = (
    *("pretrain", "sft", "sft-after", "reward-ukp", "reward-ukp-scores", "reward-hh", "reward-hh-scores"),
    *("ppo", "dpo", "dpo-after"),
)
"""Steps whose account of what was read and cut is shown."""

Row = dict[str, Any]
PACKAGES = ("lit-rlhf", "torch", "lightning", "transformers", "tokenizers")


def measure(data: Path, runner: Runner) -> dict[str, Any]:
    """All numbers of the results; the runs must be done."""
    return {
        "conditions": conditions(runner),
        "pretrain": pretrain(runner),
        "sft": sft(runner.out),
        "reward": {
            "pairs_ukp_convarg": reward_ukp(data, runner.out),
            "pairs_hh_harmless": reward_hh(data, runner.out),
        },
        "ppo": ppo(data, runner.out),
        "dpo": dpo(data, runner.out),
        "data": {name: data_lines(runner, name) for name in READ_BY},
    }


def conditions(runner: Runner) -> dict[str, Any]:
    """Versions, threads, and what each command cost."""
    records = [runner.record(step.name) for steps in PHASES.values() for step in steps]
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "machine": f"CPU, {platform.machine()}",
        "threads": runner.threads,
        "seed": 0,
        "steps": [
            {
                "name": record.name,
                "command": record.command,
                "cpu_seconds": round(record.cpu_seconds),
                "wall_seconds": round(record.wall_seconds),
            }
            for record in records
            if record
        ],
    }


def pretrain(runner: Runner) -> dict[str, Any]:
    """Size of the model, and its perplexity on held-out text."""
    found = re.search(r"Llama with ([\d,]+) random parameters \((.*)\)", runner.log("model"))
    read_in = re.search(
        r"train: \d+ rows in (\d+) windows, .* of (\d+) response tokens", runner.log("pretrain")
    )
    assert found is not None and read_in is not None
    return {
        "parameters": int(found[1].replace(",", "")),
        "shape": found[2],
        "tokens_seen": round(PRETRAIN_WINDOWS * int(read_in[2]) / int(read_in[1])),
        "val_perplexity": curve(runner.out / "pretrain", "val/perplexity"),
    }


def sft(out: Path) -> dict[str, Any]:
    """Perplexity of the given validation file, by the pretrained and by the fine-tuned model."""
    return {
        "perplexity_before": metrics(out / "sft-before" / "test.json")["val/perplexity"],
        "perplexity_after": metrics(out / "sft-after" / "test.json")["val/perplexity"],
        "development_perplexity": curve(out / "sft", "val/perplexity"),
    }


def reward_ukp(data: Path, out: Path) -> dict[str, Any]:
    """The debate arguments: the development pairs are those that stopped the training."""
    training, development = (read(out / "files" / f"ukp_{part}.jsonl") for part in ("train", "dev"))
    return reward(out, "ukp", training, development, read(data / "pairs_ukp_convarg" / "valid.jsonl"))


def reward_hh(data: Path, out: Path) -> dict[str, Any]:
    """The harmless dialogues: the last tenth of the training file chooses the bag of words' regularisation."""
    rows = read(data / "pairs_hh_harmless" / "train.jsonl")
    cut = len(rows) * 9 // 10
    return reward(out, "hh", rows[:cut], rows[cut:], read(data / "pairs_hh_harmless" / "valid.jsonl"))


def reward(
    out: Path, name: str, training: Sequence[Row], development: Sequence[Row], held_out: Sequence[Row]
) -> dict[str, Any]:
    """Held-out accuracy of the reward model and of what it has to beat, pair by pair on the same pairs."""
    scored = read(out / f"reward-{name}-scores" / "predictions.jsonl")
    assert [row["id"] for row in scored] == [row["id"] for row in held_out]
    right = [_ahead(*row["reward_scores"]) for row in scored]
    read_as_text = [_texts(rows) for rows in (training, development, held_out)]
    longer = [_ahead(margin, 0.0) for margin in longer_wins(read_as_text[2]).tolist()]
    words = [_ahead(margin, 0.0) for margin in bag_of_words(*read_as_text).tolist()]
    prompts = [row["prompt"] for row in held_out]
    return {
        "pairs": len(held_out),
        "accuracy": asdict(bootstrap(right, prompts)),
        "longer_wins": asdict(bootstrap(longer, prompts)),
        "bag_of_words": asdict(bootstrap(words, prompts)),
        "minus_longer_wins": asdict(bootstrap(_differences(right, longer), prompts)),
        "minus_bag_of_words": asdict(bootstrap(_differences(right, words), prompts)),
        "development_accuracy": curve(out / f"reward-{name}", "val/rewards/accuracies"),
    }


def ppo(data: Path, out: Path) -> dict[str, Any]:
    """Slot coverage of samples to held-out prompts before and after, and how far the policy went."""
    rows = read(out / "files" / "prompts_sampled.jsonl")
    before, after = (read(out / f"{phase}-samples" / "predictions.jsonl") for phase in ("sft", "ppo"))
    scores = [
        [_score(row, sample) for row, sample in zip(rows, samples, strict=True)]
        for samples in (before, after)
    ]
    gains = _differences(scores[1], scores[0])
    prompts = [row["prompt"] for row in rows]
    gold = {row["prompt"]: row["gold"] for row in rows}
    people = [
        coverage(demo["response"], gold[demo["prompt"]]) or 0.0
        for demo in read(data / "demos_e2e" / "valid.jsonl")
        if demo["prompt"] in gold
    ]
    groups = {
        "all": range(len(rows)),
        "unseen_in_sft": [place for place, row in enumerate(rows) if not row["seen_in_sft"]],
    }
    last = metrics(out / "ppo" / "metrics.json")
    return {
        name: {
            "prompts": len({prompts[place] for place in places}),
            "samples": len(places),
            "before": asdict(_bootstrap_of(scores[0], prompts, places)),
            "after": asdict(_bootstrap_of(scores[1], prompts, places)),
            "gain": asdict(_bootstrap_of(gains, prompts, places)),
        }
        for name, places in groups.items()
    } | {
        "finished_before": sum(sample["finished"][0] for sample in before) / len(before),
        "finished_after": sum(sample["finished"][0] for sample in after) / len(after),
        "kl_after": last["val/objective/kl"],
        "entropy": curve(out / "ppo", "objective/entropy", every=10),
        "val_scores": curve(out / "ppo", "val/objective/scores"),
        "val_kl": curve(out / "ppo", "val/objective/kl"),
        "human_coverage": sum(people) / len(people),
        "samples": _samples(rows, before, after),
    }


def dpo(data: Path, out: Path) -> dict[str, Any]:
    """Accuracy on the given validation file, of the implicit reward and of the policy's own probabilities."""
    pairs = read(data / "pairs_blimp" / "valid.jsonl")
    prompts = [pair["prompt"] for pair in pairs]
    before = preferred_is_likelier(out / "pretrain" / "export", pairs)
    after = preferred_is_likelier(out / "dpo-best", pairs)
    tested = metrics(out / "dpo-after" / "test.json")
    phenomena = sorted({pair["phenomenon"] for pair in pairs})
    return {
        "pairs": len(pairs),
        "implicit_reward_accuracy": tested["val/rewards/accuracies"],
        "loss": tested["val/loss"],
        "rewards_chosen": tested["val/rewards/chosen"],
        "rewards_rejected": tested["val/rewards/rejected"],
        "likelier_before": asdict(bootstrap(before, prompts)),
        "likelier_after": asdict(bootstrap(after, prompts)),
        "gain": asdict(bootstrap(_differences(after, before), prompts)),
        "by_phenomenon": {
            name: [
                sum(right[place] for place in places) / len(places)
                for places in [[place for place, pair in enumerate(pairs) if pair["phenomenon"] == name]]
                for right in (before, after)
            ]
            for name in phenomena
        },
        "longer_wins": sum(_ahead(margin, 0.0) for margin in longer_wins(_texts(pairs)).tolist())
        / len(pairs),
        "development_accuracy": curve(out / "dpo", "val/rewards/accuracies"),
    }


def data_lines(runner: Runner, name: str) -> list[str]:
    """What the data module said it read and cut, without the place of the files."""
    kept = []
    for line in runner.log(name).splitlines():
        if (
            re.match(r"(train|val|test|predict): \d+ rows|  \d+ \w+|  validation split", line)
            and line not in kept
        ):
            kept.append(re.sub(r" \(first: .*\)", "", line))
    return kept


def metrics(file: Path) -> dict[str, float]:
    """The values that a command left behind."""
    found: dict[str, float] = json.loads(file.read_text())
    return found


def curve(run: Path, name: str, every: int = 1) -> list[tuple[int, float]]:
    """``(optimizer updates, value)`` of a logged scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(name)[::every]]


def _samples(rows: Sequence[Row], before: Sequence[Row], after: Sequence[Row]) -> list[dict[str, Any]]:
    unseen = [place for place, row in enumerate(rows) if not row["seen_in_sft"]]
    places = unseen[::11][:5]
    return [
        {
            "prompt": rows[place]["prompt"],
            "sft": before[place]["responses"][0].strip(),
            "sft_coverage": _score(rows[place], before[place]),
            "ppo": after[place]["responses"][0].strip(),
            "ppo_coverage": _score(rows[place], after[place]),
        }
        for place in places
    ]


def _score(row: Row, sample: Row) -> float:
    assert sample["id"] == row["id"]
    return coverage(sample["responses"][0], row["gold"]) or 0.0


def _bootstrap_of(values: Sequence[float], prompts: Sequence[str], places: Sequence[int]) -> Any:
    return bootstrap([values[place] for place in places], [prompts[place] for place in places])


def _texts(pairs: Sequence[Row]) -> list[TextComparison]:
    return [TextComparison(pair["chosen"], pair["rejected"]) for pair in pairs]


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _ahead(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)

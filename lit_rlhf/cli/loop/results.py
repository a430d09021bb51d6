"""What came of a loop so far, read from its folder: the numbers of ``results.json`` and of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.cli.loop.labels import wins_by_scores, wins_of_duels
from lit_rlhf.cli.loop.settings import Loop
from lit_rlhf.cli.steps.configs import flag_value
from lit_rlhf.cli.steps.rows import read_jsonl
from lit_rlhf.metrics.intervals import bootstrap

Numbers = dict[str, Any]


def collect(loop: Loop, out: Path) -> Numbers:
    """Everything that the folder holds by now.

    Args:
        loop: the settings.
        out: the loop's folder.

    Returns:
        ``settings`` (names with words), ``start`` and ``rounds``; an interval is ``{mean, low, high, unit, count}``,
        and a number that is not there is None.
    """
    rounds = [round_numbers(loop, out / f"round-{number}", number) for number in range(1, loop.rounds + 1)]
    rounds = [numbers for numbers in rounds if numbers["judgements"] is not None]
    total = 0
    for numbers in rounds:
        total += numbers["labels"] or 0
        numbers["labels_so_far"] = total
    add_reward_wins(out, rounds)
    return {"settings": settings_in_words(loop), "start": measures(out / "start"), "rounds": rounds}


def round_numbers(loop: Loop, here: Path, number: int) -> Numbers:
    """One round's numbers; those that are not there yet are None."""
    found: Numbers = {"round": number, "judgements": judgements_in(here / "labels.db")}
    found["labels"] = count_rows(here / "labels.jsonl")
    found["train"], found["held_out"] = count_rows(here / "train.jsonl"), count_rows(here / "held_out.jsonl")
    found["agreement"], found["alpha"] = agreement_in(here / "agreement.json")
    found["accuracy_before"] = accuracy_in(here / "before" / "metrics.json")
    found["accuracy_held_out"] = accuracy_in(here / "reward" / "metrics.json")
    found |= measures(here)
    found["wins_by_annotators"] = duel_wins(loop, here)
    found["seconds"] = sum(
        json.loads(mark.read_text(encoding="utf-8"))["seconds"]
        for mark in (here / "steps").glob("*.done.json")
    )
    return found


def measures(here: Path) -> Numbers:
    """Gold and KL of a folder's responses, with intervals; and how long and whether they end."""
    names = ("gold", "kl", "finished", "characters")
    file = here / "measures.json"
    if not file.exists():
        return dict.fromkeys(names)
    said = json.loads(file.read_text(encoding="utf-8"))
    prompts = [json.dumps(row["prompt"], sort_keys=True) for row in read_jsonl(here / "responses.jsonl")]
    return {
        name: interval(said[name], prompts) if isinstance(said.get(name), list) else said.get(name)
        for name in names
    }


def interval(values: Sequence[float], prompts: Sequence[str]) -> Numbers:
    """A mean with its 95 % interval."""
    found = bootstrap(values, prompts)
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "unit": found.unit,
        "count": len(values),
    }


def accuracy_in(file: Path) -> Numbers | None:
    """A reward model's accuracy, as a fit's last validation or `lit-rlhf score` wrote it; None where there is none."""
    if not file.exists():
        return None
    said = json.loads(file.read_text(encoding="utf-8")).get("evaluation")
    if said is None or said["accuracy"] is None:
        return None
    return {**said["accuracy"], "count": said["strict"], "log_loss": (said["log_loss"] or {}).get("mean")}


def agreement_in(file: Path) -> tuple[Numbers | None, Numbers | None]:
    """The share of agreeing pairs of annotators, and Krippendorff's α; None where nothing was judged twice."""
    if not file.exists():
        return None, None
    modes = json.loads(file.read_text(encoding="utf-8"))["modes"]
    said = {measure["name"]: measure for mode in modes[:1] for measure in mode["agreement"]}
    alpha = next((name for name in said if name.startswith("alpha")), "alpha")
    found = [said.get(name) for name in ("same", alpha)]
    same, coefficient = (
        None
        if one is None or one["value"] is None
        else {"mean": one["value"], "low": one["low"], "high": one["high"], "count": one["count"]}
        for one in found
    )
    return same, coefficient


def judgements_in(db: Path) -> int | None:
    """Judgements in a labelling file."""
    from lit_rlhf.cli.loop.people import progress_of

    if not db.exists():
        return None
    progress, _ = progress_of(db)
    return sum(progress.by_annotator.values())


def count_rows(file: Path) -> int | None:
    """Rows of a file of ours."""
    return len(read_jsonl(file)) if file.exists() else None


def duel_wins(loop: Loop, here: Path) -> Numbers | None:
    """How often annotators prefer the round's response to that of the loop's model; identical ones are ties."""
    labels = here / "duel_labels.jsonl"
    if loop.evaluation is None or not labels.exists():
        return None
    wins = wins_of_duels(labels)
    prompts = [json.dumps(row["prompt"], sort_keys=True) + str(row.get("id")) for row in read_jsonl(labels)]
    asked = min(loop.evaluation.judged, len(read_jsonl(here / "responses.jsonl")))
    same = asked - len(read_jsonl(here / "duels.jsonl"))
    values = [*wins, *([0.5] * same)]
    return interval(values, [*prompts, *(f"identical {place}" for place in range(same))]) if values else None


def add_reward_wins(out: Path, rounds: Sequence[Numbers]) -> None:
    """How often each round's response beats that of the loop's model by the newest reward model, ties half."""
    for numbers in rounds:
        numbers["wins_by_reward"] = None
    scored = [n["round"] for n in rounds if (out / f"round-{n['round']}" / "scored_responses.jsonl").exists()]
    if not scored:
        return
    newest = scored[-1]
    rows = read_jsonl(out / f"round-{newest}" / "scored_responses.jsonl")
    prompts = [json.dumps(row["prompt"], sort_keys=True) for row in rows[: len(rows) // (newest + 1)]]
    for numbers, wins in zip(rounds, wins_by_scores(rows, newest + 1)):
        kept = [(win, prompt) for win, prompt in zip(wins, prompts, strict=True) if win is not None]
        if kept:
            numbers["wins_by_reward"] = interval([win for win, _ in kept], [prompt for _, prompt in kept])


def settings_in_words(loop: Loop) -> list[tuple[str, str]]:
    """What the loop was told, for the reader of the page."""
    annotators = (
        "people" if isinstance(loop.annotators, str) else ", ".join(map(program_in_words, loop.annotators))
    )
    policy = loop.policy
    where = "the loop's model" if policy.start == "first" else "the round before"
    said: list[tuple[str, str]] = [
        ("model", loop.model),
        (
            "rounds",
            f"{loop.rounds}, {loop.prompts_per_round:,} prompts each, {loop.responses} responses to a prompt",
        ),
        ("annotators", f"{annotators}; {loop.overlap} for each item"),
        (
            "policy",
            f"each round starts from {where}, the KL is to the loop's model; {policy.config}{flags(policy.set)}",
        ),
    ]
    if loop.reward is not None:
        config = f"{loop.reward.config}{flags(loop.reward.set)}"
        said.append(("reward model", f"on the labels of all rounds so far; {config}"))
    if loop.evaluation is not None:
        said.append(("evaluation prompts", loop.evaluation.prompts))
    if loop.gold is not None:
        said.append(("gold", loop.gold))
    return [*said, ("seed", str(loop.seed))]


def program_in_words(program: Any) -> str:
    """A program with its noise, as it was stated."""
    noise = [
        f"{name.replace('_', ' ')} {value:g}"
        for name in ("temperature", "flips", "tie_width")
        if (value := getattr(program, name)) is not None
    ]
    return f"{program.name} ({program.annotator}{''.join(', ' + part for part in noise)})"


def flags(values: Mapping[str, Any]) -> str:
    """`` with model.beta 0.2, …``, or nothing."""
    return (
        f" with {', '.join(f'{name} {flag_value(value)}' for name, value in values.items())}"
        if values
        else ""
    )

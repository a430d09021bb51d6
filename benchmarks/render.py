"""The numbers of the real-text runs as a page to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]


def render(results: Numbers) -> str:
    """Markdown; everything in it comes out of `results`."""
    parts = [
        heading(results),
        pretrain_and_sft(results),
        reward(results["reward"]),
        ppo(results["ppo"]),
        dpo(results["dpo"]),
        read_and_cut(results["data"]),
        commands(results["conditions"]),
    ]
    return "\n".join(parts)


def heading(results: Numbers) -> str:
    """What was run on what."""
    conditions, start = results["conditions"], results["pretrain"]
    versions = ", ".join(
        f"{name} {conditions[name]}"
        for name in ("lit-rlhf", "python", "torch", "lightning", "transformers", "tokenizers")
    )
    cpu = sum(step["cpu_seconds"] for step in conditions["steps"])
    return f"""# All four phases on real text

Written by `python -m benchmarks.real_text`; every number here is also in `real_text.json`.

- model: Llama with {start["parameters"]:,} parameters ({start["shape"]}), made by `lit-rlhf init`
- machine: {conditions["machine"]}, {conditions["threads"]} thread a process, shared with other work; \
{cpu} CPU seconds in all, per command in the table at the end
- {versions}
- seed {conditions["seed"]}, one run each: the intervals are of the held-out rows, not of training again
- 95 % intervals: percentile bootstrap with 2,000 resamples, by prompt, or by row where there are under 20 prompts
- fits but pretraining and PPO stop when the validation loss has not improved three times in a row, or at the epochs \
of the command; the weights of the lowest validation loss count. The files named `valid.jsonl` and the prompts held \
out of PPO decide nothing; settings that were tried and given up stand in `../log.md`
"""


def pretrain_and_sft(results: Numbers) -> str:
    """Two perplexities that fall."""
    start, sft = results["pretrain"], results["sft"]
    lines = [
        "## Pretraining and SFT",
        "",
        f"Pretraining on about {start['tokens_seen']:,} tokens, perplexity of 2 % of the texts after n "
        f"updates: {curve(start['val_perplexity'], 1)}. (Endings "
        "of one dialogue can stand on both sides of this split.)",
        "",
        "| `demos_e2e/valid.jsonl` | perplexity per token |",
        "| --- | --- |",
        f"| pretrained | {sft['perplexity_before']:.2f} |",
        f"| after SFT | {sft['perplexity_after']:.2f} |",
        "",
        f"Perplexity of the development prompts while training: {curve(sft['development_perplexity'], 2)}. "
        "Samples stand under PPO.",
        "",
    ]
    return "\n".join(lines)


def reward(results: Numbers) -> str:
    """Accuracies beside what they have to beat."""
    lines = [
        "## Reward models",
        "",
        'Accuracy on the held-out pairs of `valid.jsonl`, ties counting ½. "Shorter wins" has 1 minus the number of '
        '"longer wins". Minus: the difference on the same pairs.',
        "",
        "| data | pairs | interval by | reward model | longer wins | bag of words | minus longer | minus words |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        accuracy = found["accuracy"]
        cells = [
            name,
            found["pairs"],
            f"{accuracy['unit']} ({accuracy['count']})",
            interval(accuracy),
            interval(found["longer_wins"]),
            interval(found["bag_of_words"]),
            interval(found["minus_longer_wins"], sign=True),
            interval(found["minus_bag_of_words"], sign=True),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += [
        "",
        "The four debates of `pairs_ukp_convarg` are too few to resample, and arguments recur in many pairs: its "
        "intervals are too narrow.",
        "",
        "Accuracy on the development pairs while training:",
        "",
    ]
    lines += [f"- {name}: {curve(found['development_accuracy'], 3)}" for name, found in results.items()]
    return "\n".join([*lines, ""])


def ppo(found: Numbers) -> str:
    """Reward before and after, KL, and the same prompts' samples side by side."""
    lines = [
        "## PPO",
        "",
        "Slot coverage (`benchmarks/slot_coverage.py`, 0 to 1) of four samples to each held-out prompt, drawn at "
        "temperature 1 with the same noise before and after. Texts that people wrote for held-out prompts get "
        f"{found['human_coverage']:.3f}.",
        "",
        "| held-out prompts | count | SFT | PPO | gain |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, label in (("all", "all"), ("unseen_in_sft", "of these, not seen in SFT either")):
        group = found[name]
        lines.append(
            f"| {label} | {group['prompts']} | {interval(group['before'])} | {interval(group['after'])} "
            f"| {interval(group['gain'], sign=True)} |"
        )
    lines += [
        "",
        f"- KL(policy‖SFT) on the held-out prompts after training: {found['kl_after']:.2f} nats a response",
        f"- ended with EOS in 64 tokens: {found['finished_before']:.3f} before, {found['finished_after']:.3f} after",
        f"- mean score of the held-out prompts while training (updates: score): {curve(found['val_scores'], 3)}",
        f"- KL of the same: {curve(found['val_kl'], 2)}",
        f"- entropy per token, nats: {curve(found['entropy'], 2)}",
        "",
        "Five prompts that neither SFT nor PPO has seen, one sample each:",
        "",
        "| prompt | SFT | PPO |",
        "| --- | --- | --- |",
    ]
    for sample in found["samples"]:
        cells = [
            sample["prompt"].removeprefix("MR: ").removesuffix("\nText:"),
            f"{sample['sft']} ({sample['sft_coverage']:.2f})",
            f"{sample['ppo']} ({sample['ppo_coverage']:.2f})",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def dpo(found: Numbers) -> str:
    """Preference accuracies."""
    lines = [
        "## DPO",
        "",
        f"`pairs_blimp/valid.jsonl`, {found['pairs']} pairs under one prompt, so intervals are by row.",
        "",
        "| accuracy | before | after | gain |",
        "| --- | --- | --- | --- |",
        f"| implicit reward, β·log(π/π_ref) | none: 0 for every response | {found['implicit_reward_accuracy']:.3f} | |",
        f"| the policy gives the preferred sentence more probability | {interval(found['likelier_before'])} "
        f"| {interval(found['likelier_after'])} | {interval(found['gain'], sign=True)} |",
        "",
        f"The longer sentence wins: {found['longer_wins']:.3f}. Implicit-reward accuracy of the development pairs "
        f"while training: {curve(found['development_accuracy'], 3)}.",
        "",
        f"Both sides lost probability: the mean implicit reward is {found['rewards_chosen']:.2f} of the preferred and "
        f"{found['rewards_rejected']:.2f} of the other sentences, in units of β = 0.1 a nat.",
        "",
        "| phenomenon | more probability, before | after |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {before:.3f} | {after:.3f} |" for name, (before, after) in found["by_phenomenon"].items()
    ]
    return "\n".join([*lines, ""])


def read_and_cut(data: Mapping[str, Sequence[str]]) -> str:
    """What each data module read and cut."""
    lines = ["## What was read, and cut", "", "```"]
    for name, said in data.items():
        lines += [f"{name}:", *(f"  {line}" for line in said)]
    return "\n".join([*lines, "```", ""])


def commands(conditions: Numbers) -> str:
    """Every command with what it cost."""
    lines = [
        "## Commands",
        "",
        "In this order, each in a process of its own, from the checkout; `lit-rlhf` is `python -m lit_rlhf` here, "
        "so that the reward function is found. `$OUT/files` is what `benchmarks/prepare.py` writes.",
        "",
        "```sh",
    ]
    lines += [step["command"] for step in conditions["steps"]]
    lines += ["```", "", "| step | CPU seconds | wall seconds |", "| --- | --- | --- |"]
    lines += [
        f"| {step['name']} | {step['cpu_seconds']} | {step['wall_seconds']} |" for step in conditions["steps"]
    ]
    return "\n".join([*lines, ""])


def interval(found: Numbers, sign: bool = False) -> str:
    """``mean [low, high]``."""
    form = "+.3f" if sign else ".3f"
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def curve(points: Sequence[Sequence[float]], digits: int) -> str:
    """``updates: value`` after one another."""
    return ", ".join(f"{step + 1}: {value:.{digits}f}" for step, value in points)

"""The results as one page."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.scale.collectives import Purpose
from benchmarks.scale.compute import ADAPTED, TRAINED
from benchmarks.scale.efficiency import (
    EPOCHS,
    GPUS,
    LORA,
    MICRO_TOKENS,
    MINIBATCHES,
    ROWS_AT_ONCE,
    STRONG_TOKENS,
)
from benchmarks.scale.figures import gpus_of
from benchmarks.scale.hardware import BASE, MACHINES, MICRO, RING_FAR, RING_NEAR, TREE_FAR, TREE_NEAR
from benchmarks.scale.results import CONVENTION, JSON
from benchmarks.speed.page import cells

TITLE = "# What scale costs"
PURPOSES: tuple[Purpose, ...] = ("weights", "gradients", "objects", "bookkeeping")


def page(rows: Sequence[JSON], pictures: Sequence[str] = ()) -> str:
    """Counted, predicted and measured, each where there are rows."""
    lines = [TITLE]
    for kind, section in (
        ("counted", communication),
        ("predicted, not measured", predictions),
        ("measured", growth),
    ):
        chosen = [row for row in rows if row["conditions"]["kind"] == kind]
        if chosen:
            lines += ["", *section(chosen)]
    for name in pictures:
        lines += ["", f"![{name.removesuffix('.png').replace('_', ' ')}]({name})"]
    return "\n".join(lines) + "\n"


def communication(rows: Sequence[JSON]) -> list[str]:
    """What ranks sent, beside paper."""
    lines = [
        "## Communication, counted",
        "",
        "Every collective of the real module in Lightning's trainer on processes of one machine (gloo, fp32 unless "
        f"stated), seen by a dispatch mode. Counted as {CONVENTION}. A step is one update. Paper knows shapes and "
        "settings alone.",
        "",
        table_head(
            "work", "strategy", "ranks", "counted", "on paper", "ratio", "calls", "on paper", "by purpose, MB"
        ),
    ]
    for row in rows:
        found = row["conditions"]
        lines.append(
            cells(
                [
                    row["work"],
                    found["strategy"],
                    str(found["ranks"]),
                    bytes_of(row["ours"]),
                    bytes_of(row["theirs"]),
                    f"{row['ratio']:.4f}",
                    f"{calls(found['counted']):g}",
                    f"{calls(found['on_paper']):g}",
                    purposes(found["counted"]),
                ]
            )
        )
    worst = max(rows, key=lambda row: abs(row["ratio"] - 1))
    lines += [
        "",
        f"Furthest from paper: {worst['work']}, {worst['conditions']['strategy']}, {worst['conditions']['ranks']} "
        f"ranks: {worst['ratio']:.4f}. Random Llama, size {rows[0]['size'].partition(',')[0]}. By purpose: payloads, "
        "not what is sent of them.",
        *where(rows),
    ]
    return lines


def calls(tallies: JSON) -> float:
    return sum(each["calls"] for each in tallies.values())


def purposes(tallies: JSON) -> str:
    """Payloads in MB, by what they are for."""
    sums = {
        purpose: sum(
            each["payload_bytes"] for name, each in tallies.items() if name.endswith(f"of {purpose}")
        )
        for purpose in PURPOSES
    }
    return ", ".join(f"{name} {amount / 1e6:.3g}" for name, amount in sums.items() if amount)


def bytes_of(number: float) -> str:
    return f"{number / 1e6:.4g} MB" if number >= 1e5 else f"{number:g} B"


def predictions(rows: Sequence[JSON]) -> list[str]:
    """Efficiencies of an 8B policy."""
    lines = [
        "## An 8B policy on a cluster: predicted, not measured",
        "",
        "Share of what as many GPUs would do that cost one another nothing: from no overlap of sending and computing "
        "to all of it. Nothing here was run; each number stands on the volumes above and on what is assumed below.",
    ]
    for scaling in ("weak", "strong"):
        chosen = [row for row in rows if row["work"].endswith(f"{scaling} scaling")]
        fixed = (
            f"{MICRO_TOKENS} tokens a GPU" if scaling == "weak" else f"{STRONG_TOKENS} tokens over all GPUs"
        )
        lines += ["", f"### {scaling.capitalize()} scaling: {fixed} an update", ""]
        lines.append(table_head("phase", "how", "on", *(f"{gpus} GPUs" for gpus in GPUS)))
        for phase, against in dict.fromkeys(
            (row["work"].partition(" ")[0], row["against"]) for row in chosen
        ):
            setup, _, machine = against.rpartition(" on ")
            found = {
                gpus_of(row): row["spread"]
                for row in chosen
                if row["against"] == against and row["work"].startswith(phase)
            }
            lines.append(cells([phase, setup, machine, *(share_of(found[gpus]) for gpus in GPUS)]))
    return [*lines, "", *decoding(rows), "", "Assumed:", "", *assumptions()]


def share_of(spread: Sequence[float]) -> str:
    low, high = spread
    return f"{low:.2f} to {high:.2f}" if f"{low:.2f}" != f"{high:.2f}" else f"{low:.2f}"


def decoding(rows: Sequence[JSON]) -> list[str]:
    """The large item of PPO."""
    lines = ["A step of decoding gathers every layer under `fsdp2`, for one new token of each response:", ""]
    lines.append(table_head("how", "on", "GPUs", "sent by a GPU a step", "sending", "computing and reading"))
    for row in rows:
        if row["work"] != "ppo efficiency, weak scaling":
            continue
        part = row["conditions"]["parts"]["decoding step"]
        setup, _, machine = row["against"].rpartition(" on ")
        lines.append(
            cells(
                [
                    *(setup, machine, str(gpus_of(row)), bytes_of(part["bytes_sent_by_a_gpu"])),
                    f"{1e3 * part['sending_seconds']:.1f} ms",
                    f"{1e3 * part['computing_seconds']:.1f} ms",
                ]
            )
        )
    return lines


def assumptions() -> list[str]:
    """In words and numbers."""
    one = MACHINES[0]
    return [
        *(
            f"- {each.name}: {each.flops / 1e12:g} TFLOP/s dense bf16, {each.memory_rate / 1e12:g} TB/s of memory, "
            f"{each.link_rate / 1e9:g} GB/s each way to the other {each.gpus_a_node - 1} of its node, "
            f"{each.network_rate * 8 / 1e9:g} Gb/s of network a GPU"
            for each in MACHINES
        ),
        f"- matrices reach {one.flops_share:.0%} of the peak, decoding {one.memory_share:.0%} of the memory's rate, "
        f"collectives {one.bus_share:.0%} of the slowest link; between nodes {one.gpus_a_node} rings share the cards "
        f"of a node, {one.gpus_a_node * one.network_rate / 1e9:g} GB/s together",
        f"- a collective takes {BASE / MICRO:g} µs and, in a ring, {RING_NEAR / MICRO:g} µs a hop within a node and "
        f"{RING_FAR / MICRO:g} between nodes, an all-reduce a tree's {TREE_NEAR / MICRO:g} and {TREE_FAR / MICRO:g} "
        "(NCCL's own tuning model, protocol Simple)",
        f"- activation checkpointing: {TRAINED} forwards' worth of a trained network, {ADAPTED} with adapters (rank "
        f"{LORA}); the optimizer's own time, loading, logging, pickling, copies of gathered weights and imbalance of "
        "lengths are left out; whether it fits in memory is `lit-rlhf plan`'s to say",
        "- bf16-true gathers 2 bytes a weight and reduces 2 a gradient; bf16-mixed gathers layers in bf16 and "
        "embeddings and head in fp32, and reduces 4 bytes a gradient",
        "- SFT: 512 tokens of prompt, 1536 of response. Reward and DPO: a prompt of 1024 and two responses of 512, "
        "the prompt once. A micro-batch on a GPU has at most as many tokens as an update of weak scaling",
        f"- PPO: prompts of 512, all responses of 512; a critic, a reference and a reward model of 8B (with adapters "
        f"the critic is a head on the policy); {MINIBATCHES} minibatches, each gone through {EPOCHS} times; a GPU "
        f"decodes {ROWS_AT_ONCE} responses at once at most; in bf16 the policy looks at all it has drawn",
    ]


def growth(rows: Sequence[JSON]) -> list[str]:
    """Exponents."""
    lines = [
        "## Cost as work grows, measured",
        "",
        "One thread, fp32, each point a process of its own, medians of its repeats. The exponent is the slope of a "
        "line through all points on logarithmic scales, ± its standard error; what every step costs, however small, "
        "makes it less than that of the two largest points. Memory is the most held above that of a step on next "
        "to nothing.",
        "",
        table_head(
            "work", "what grows", "from", "to", "exponent", "of the two largest", "expected", "least", "most"
        ),
    ]
    for row in rows:
        found = row["conditions"]
        points = found["points"]
        lines.append(
            cells(
                [
                    row["work"],
                    found["grows"],
                    *(f"{points[place][0]:g}" for place in (0, -1)),
                    f"{row['ours']:.2f} ± {row['spread'][1] - row['ours']:.2f}",
                    f"{found['exponent_of_the_two_largest']:.2f}",
                    found["expected"],
                    *(f"{points[place][1]:.3g} {found['unit_of_points']}" for place in (0, -1)),
                ]
            )
        )
    return [*lines, *where(rows)]


def where(rows: Sequence[JSON]) -> list[str]:
    """Machine, versions and load."""
    found = [row["conditions"] for row in rows]
    loads = [each["load"] for each in found]
    versions = ", ".join(f"{name} {version}" for name, version in found[0]["versions"].items())
    dates = ", ".join(sorted({f"{each['date']}, commit {each['commit']}" for each in found}))
    return [
        "",
        f"{found[0]['processor']}, {found[0]['cores']} cores, load {min(loads)} to {max(loads)}; {versions}; {dates}."
        + (" With --quick: not results to keep." if found[0]["quick"] else ""),
    ]


def table_head(*names: str) -> str:
    return cells(names) + "\n" + cells(["---"] * len(names))

"""Pictures of scale: predicted efficiencies, and measured lines with their exponents."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from math import log10
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.scale.results import JSON

COLOURS = {
    "fsdp2, bf16-true": "#1f77b4",
    "fsdp2, bf16-mixed": "#9467bd",
    "fsdp2, bf16-true, reshard_after_forward false": "#2ca02c",
    "fsdp2, bf16-true, whole_while_sampling": "#d62728",
    "ddp, bf16-true, LoRA": "#ff7f0e",
}
MACHINE = "H100 SXM"
"""That is drawn; the page has the others too."""


def draw_efficiency(path: Path, rows: Sequence[JSON]) -> None:
    """By phase and scaling: the range from no overlap to all of it, at each number of GPUs."""
    rows = [row for row in rows if row["against"].endswith(MACHINE)]
    phases = list(dict.fromkeys(row["work"].partition(" ")[0] for row in rows))
    figure = Figure(figsize=(3.4 * len(phases), 6.4), layout="constrained")
    panels = figure.subplots(2, len(phases), sharey=True, squeeze=False)
    for line, scaling in zip(panels, ("weak", "strong"), strict=True):
        for panel, phase in zip(line, phases, strict=True):
            _draw_phase(
                panel, [row for row in rows if row["work"] == f"{phase} efficiency, {scaling} scaling"]
            )
            panel.set_title(f"{phase}, {scaling} scaling")
    for line in panels:
        line[0].set_ylabel("share of ideal")
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(
        f"Llama 8B on {MACHINE}: predicted, not measured. Bars from no overlap of sending and computing to full overlap"
    )
    _save(figure, path)


def _draw_phase(panel: Axes, rows: Sequence[JSON]) -> None:
    counts = sorted({gpus_of(row) for row in rows})
    for number, (setup, colour) in enumerate(COLOURS.items()):
        found = {gpus_of(row): row["spread"] for row in rows if row["against"] == f"{setup} on {MACHINE}"}
        for gpus, (low, high) in found.items():
            where = counts.index(gpus) + 0.16 * (number - 2)
            label = setup if gpus == counts[0] else None
            panel.bar(where, max(high - low, 0.006), 0.14, low, color=colour, label=label)
    panel.set_xticks(range(len(counts)), [f"{gpus} GPUs" for gpus in counts])
    panel.set_ylim(0, 1.03)
    panel.grid(axis="y", alpha=0.3)


def gpus_of(row: JSON) -> int:
    """Of a prediction's size."""
    found = re.search(r"(\d+) GPUs", row["size"])
    assert found is not None
    return int(found[1])


def draw_growth(path: Path, rows: Sequence[JSON]) -> None:
    """By axis, time above memory: the points and the line through them, on logarithmic scales."""
    axes = list(dict.fromkeys(row["work"].partition(":")[0] for row in rows))
    figure = Figure(figsize=(2.9 * len(axes), 5.6), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    for line, quantity in zip(panels, ("time", "memory"), strict=True):
        for panel, axis in zip(line, axes, strict=True):
            (row,) = (row for row in rows if row["work"] == f"{axis}: {quantity}")
            _draw_line(panel, row)
            panel.set_title(
                f"{axis}: {quantity}\n{row['ours']:.2f} ± {(row['spread'][1] - row['ours']):.2f}", fontsize=10
            )
            panel.set_xlabel(row["size"] if len(row["size"]) < 30 else "tokens", fontsize=9)
        line[0].set_ylabel(
            f"{quantity}, " + ("CPU s a step" if quantity == "time" else "MB above the least step")
        )
    _save(figure, path)


def _draw_line(panel: Axes, row: JSON) -> None:
    numbers, values = zip(*row["conditions"]["points"], strict=True)
    panel.loglog(numbers, values, "o", color="#1f77b4", markersize=4)
    middle = [sum(map(log10, each)) / len(each) for each in (numbers, values)]
    line = [10 ** (middle[1] + row["ours"] * (log10(number) - middle[0])) for number in numbers]
    panel.loglog(numbers, line, "-", color="#555555", linewidth=1)
    panel.grid(alpha=0.3)
    for axis, ends in ((panel.xaxis, numbers), (panel.yaxis, values)):
        axis.set_major_locator(FixedLocator([min(ends), max(ends)]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_minor_locator(NullLocator())


def _save(figure: Figure, path: Path) -> None:
    beside = path.with_name(f".{path.name}.writing")
    FigureCanvasAgg(figure).print_png(beside, metadata={"Software": None})
    os.replace(beside, path)

"""What ``lit-rlhf plan`` prints and writes: a table of what a rank holds, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_rlhf.cli.plan.moments import CONTEXT, FRAGMENTATION, GIB, Moment, Run, host_bytes, margin, moments
from lit_rlhf.cli.refusal import refuse

DEVICES = {
    "T4": 14,
    "A10": 22,
    "L4": 22,
    "RTX4090": 23,
    "A100-40": 39,
    "L40S": 44,
    "A100": 79,
    "H100": 79,
    "H200": 139,
    "B200": 178,
}
"""GiB that the driver gives of a device, rounded down; less than the GB of its name."""


@dataclass(frozen=True)
class Unit:
    """What bytes are counted in."""

    name: str
    size: int

    def write(self, count: int) -> str:
        """So many bytes, or a dash for none."""
        return f"{count / self.size:.2f}" if count else "-"


GIBIBYTE = Unit("GiB", GIB)


@dataclass(frozen=True)
class Plan:
    """What a run needs of each rank's device."""

    run: Run
    moments: tuple[Moment, ...]
    memory: int | None
    """Bytes of the device; None = not said."""

    @property
    def highest(self) -> Moment:
        """The moment that needs most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        """Bytes that it needs, what is beside the tensors included."""
        return needed(self.highest, self.run)

    @property
    def fits(self) -> bool:
        """Whether the device holds it; True where none was named."""
        return self.memory is None or self.peak <= self.memory


def plan_of(run: Run, memory: int | None) -> Plan:
    """The plan of a run on devices of so many bytes."""
    return Plan(run, tuple(moments(run)), memory)


def needed(moment: Moment, run: Run) -> int:
    """Bytes of a moment with what is beside the tensors."""
    return moment.total + margin(moment.total, run.cuda)


def device_bytes(asked: str | None) -> int | None:
    """Bytes of a device, from its GiB or its name.

    >>> device_bytes("80"), device_bytes("h100"), device_bytes(None)
    (85899345920, 84825604096, None)

    Raises:
        SystemExit: it is neither.
    """
    if asked is None:
        return None
    known = {name.lower(): gib for name, gib in DEVICES.items()}
    try:
        gib = known.get(asked.lower().replace(" ", "")) or float(asked)
    except ValueError:
        gib = 0
    if not 0 < gib < float("inf"):
        refuse(f"--memory {asked}: expected GiB of a device, or one of {', '.join(DEVICES)}.")
    return round(gib * GIB)


def lines(plan: Plan) -> list[str]:
    """The table of what a rank holds at each moment, with the sums under it."""
    unit = _unit(plan)
    names = list(dict.fromkeys(name for moment in plan.moments for name in moment.held))
    rows = [[name, *(unit.write(moment.held.get(name, 0)) for moment in plan.moments)] for name in names]
    rows.append(["tensors", *(unit.write(moment.total) for moment in plan.moments)])
    if plan.run.cuda:
        beside = f"context {CONTEXT // GIB} GiB, fragments {FRAGMENTATION:.0%}"
        rows.append([beside, *(unit.write(margin(moment.total, True)) for moment in plan.moments)])
        rows.append(["in all", *(unit.write(needed(moment, plan.run)) for moment in plan.moments)])
    head = [f"{unit.name} a rank", *(moment.name for moment in plan.moments)]
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    table = [_line(row, widths) for row in (head, *rows)]
    rule = "-" * len(table[0])
    return [table[0], rule, *table[1 : len(names) + 1], rule, *table[len(names) + 1 :]]


def verdict(plan: Plan) -> list[str]:
    """How much is needed, when, and whether it fits."""
    unit, host = _unit(plan), host_bytes(plan.run)
    peak = f"peak: {unit.write(plan.peak)} {unit.name} a rank, at the moment of {plan.highest.name}"
    beside = [f"in the memory of the CPU: {unit.write(host)} {unit.name} a rank"] if host else []
    if plan.memory is None:
        return [f"{peak} (--memory 80, or a name such as H100, says whether that fits)", *beside]
    left, whole = plan.memory - plan.peak, GIBIBYTE.write(plan.memory)
    if left >= 0:
        return [f"{peak}: fits into {whole} GiB, {GIBIBYTE.write(left)} left", *beside]
    return [f"{peak}: does not fit into {whole} GiB, {GIBIBYTE.write(-left)} too much", *beside]


def heading(plan: Plan, precision: Any) -> list[str]:
    """What is planned: the ranks, and every network with its parameters."""
    spread = plan.run.spread
    ranks = f"{spread.ranks} rank" + ("s" if spread.ranks > 1 else "")
    split = f", {spread.tensor_parallel} a layer" if spread.tensor_parallel > 1 else ""
    counted = "CUDA GPUs" if plan.run.cuda else "CPUs"
    found = [f"{plan.run.phase}: {ranks} ({spread.kind}{split}) on {counted}, {precision or '32-true'}"]
    for network in plan.run.networks:
        trained = f"{_count(network.trained_parameters)} trained" if network.trained else "frozen"
        found.append(f"  {network.name}: {_count(network.parameters)} parameters, {trained}")
    return found


def as_json(plan: Plan, notes: Sequence[str], options: Sequence[tuple[Sequence[str], int]]) -> dict[str, Any]:
    """The plan in bytes, for programs."""
    return {
        "phase": plan.run.phase,
        "strategy": plan.run.spread.kind,
        "ranks": plan.run.spread.ranks,
        "networks": {
            network.name: {"parameters": network.parameters, "trained": network.trained_parameters}
            for network in plan.run.networks
        },
        "moments": {
            moment.name: {"held": moment.held, "tensors": moment.total, "in_all": needed(moment, plan.run)}
            for moment in plan.moments
        },
        "peak": plan.peak,
        "host": host_bytes(plan.run),
        "memory": plan.memory,
        "fits": plan.fits,
        "assumptions": list(notes),
        "options": [{"flags": list(flags), "peak": peak} for flags, peak in options],
    }


def _unit(plan: Plan) -> Unit:
    return GIBIBYTE if plan.peak >= GIB else Unit("MiB", 2**20)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
    return "  ".join(cells).rstrip()


def _count(number: int) -> str:
    """
    >>> _count(8_030_261_248), _count(11_272_192), _count(1_693_312)
    ('8.03 B', '11.3 M', '1.7 M')
    """
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"

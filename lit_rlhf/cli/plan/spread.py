"""From the trainer's arguments to how a run is spread over ranks, and in which precision."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.models.memory import Widths
from lit_rlhf.models.memory_ranks import Kind, Spread


def read_spread(trainer: Any, notes: list[str]) -> Spread:
    """How the ranks share the work, as ``trainer.strategy``, ``devices`` and ``num_nodes`` say.

    Args:
        trainer: its arguments.
        notes: gets a sentence about what is not given.
    """
    ranks = number_of_devices(trainer.devices, notes) * int(trainer.num_nodes)
    strategy = trainer.strategy
    spread = _named(strategy, ranks, notes) if isinstance(strategy, str) else _built(strategy, ranks, notes)
    # what autocast makes of fp16 is cast anew at each use
    narrow = spread.kind != "fsdp2" or str(trainer.precision) not in ("16", "16-mixed")
    return replace(spread, gathers_narrow=narrow)


def _built(strategy: Any, ranks: int, notes: list[str]) -> Spread:
    name = strategy.class_path.rsplit(".", 1)[-1]
    settings: Any = strategy.get("init_args") or {}
    if name == "FSDP2Strategy":
        split = int(settings.get("tensor_parallel_size") or 1)
        data = settings.get("data_parallel_size") or max(1, ranks // split)
        if int(data) * split != ranks:
            refuse(
                f"trainer.strategy: data_parallel_size {data} times tensor_parallel_size {split} is "
                f"{int(data) * split}, but there are {ranks} ranks (trainer.devices times trainer.num_nodes)."
            )
        return Spread(
            "fsdp2",
            data_parallel=int(data),
            tensor_parallel=split,
            offload=bool(settings.get("cpu_offload")),
            reshards=settings.get("reshard_after_forward") is not False,
            whole_while_sampling=bool(settings.get("whole_while_sampling")),
        )
    if name == "DeepSpeedStrategy":
        stage = int(settings.get("stage") or 2)
        return Spread(
            _deepspeed(stage),
            data_parallel=ranks,
            offload=bool(settings.get("offload_parameters")),
            offload_optimizer=bool(settings.get("offload_optimizer")),
        )
    if name == "FSDPStrategy":
        return Spread(
            "fsdp1",
            data_parallel=ranks,
            offload=bool(settings.get("cpu_offload")),
            wraps_layers=settings.get("auto_wrap_policy") is not None,
        )
    if name == "DDPStrategy":
        return Spread("ddp", data_parallel=ranks)
    if name == "SingleDeviceStrategy":
        return Spread()
    notes.append(f"the strategy {name} is not known: counted as ddp")
    return Spread("ddp", data_parallel=ranks)


def _named(strategy: str, ranks: int, notes: list[str]) -> Spread:
    if strategy == "auto" or strategy.startswith("ddp"):
        return Spread("ddp", data_parallel=ranks) if ranks > 1 or strategy != "auto" else Spread()
    if strategy in ("fsdp2", "fsdp2strategy", "FSDP2Strategy"):
        return Spread("fsdp2", data_parallel=ranks)
    if strategy.startswith("fsdp"):
        return Spread("fsdp1", ranks, offload="offload" in strategy, wraps_layers=False)
    if strategy.startswith("deepspeed"):
        stage = re.search(r"stage_(\d)", strategy)
        return Spread(
            _deepspeed(int(stage[1]) if stage else 2),
            data_parallel=ranks,
            offload="stage_3_offload" in strategy,
            offload_optimizer="offload" in strategy,
        )
    notes.append(f"the strategy {strategy} is not known: counted as ddp")
    return Spread("ddp", data_parallel=ranks)


def _deepspeed(stage: int) -> Kind:
    stages: dict[int, Kind] = {0: "ddp", 1: "deepspeed_1", 2: "deepspeed_2", 3: "deepspeed_3"}
    return stages[stage]


def number_of_devices(asked: Any, notes: list[str]) -> int:
    """Devices of a node, from what ``trainer.devices`` may be: a number, a list, or ``auto``."""
    if isinstance(asked, str) and re.fullmatch(r"\[?\s*\d+(\s*,\s*\d+)*\s*,?\s*\]?", asked) and "," in asked:
        asked = [part for part in re.split(r"[\[\],\s]+", asked) if part]
    if isinstance(asked, list | tuple):
        return len(asked)
    try:
        number = int(asked)
    except (TypeError, ValueError):
        number = -1
    if number > 0:
        return number
    notes.append(f"trainer.devices is {asked}: counted as one; give --trainer.devices N")
    return 1


def read_widths(precision: Any) -> tuple[Widths, Widths]:
    """Bytes of an element in the networks that the phase makes, and in reward models, which stay in fp32.

    Raises:
        SystemExit: a precision that Lightning does not have.
    """
    name = "32-true" if precision is None else str(precision)
    whole, half, mixed, double = Widths(4, 4), Widths(2, 2), Widths(4, 2), Widths(8, 8)
    known = {
        **dict.fromkeys(("32", "32-true"), (whole, whole)),
        **dict.fromkeys(
            ("bf16-true", "16-true", "transformer-engine", "transformer-engine-float16"), (half, whole)
        ),
        **dict.fromkeys(("bf16", "16", "bf16-mixed", "16-mixed"), (mixed, mixed)),
        **dict.fromkeys(("64", "64-true"), (double, whole)),
    }
    if name not in known:
        refuse(f"--trainer.precision {name}: expected one of {', '.join(known)}.")
    return known[name]

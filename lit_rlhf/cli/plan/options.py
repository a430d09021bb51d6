"""What would make a run fit: changes of its arguments, each planned anew, and the fewest that do it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lit_rlhf.cli.plan.report import plan_of
from lit_rlhf.cli.plan.rows import SAMPLING
from lit_rlhf.cli.plan.settings import Settings

MOST_CHANGES = 4
"""Changes that are tried together."""
MOST_SHOWN = 5
MOST_NODES = 32


@dataclass(frozen=True)
class Change:
    """Arguments that are given another value."""

    values: tuple[tuple[str, Any], ...]
    """Pairs of a dotted key and its value."""

    @property
    def flags(self) -> list[str]:
        """As they are written on the command line."""
        return [f"--{key} {_written(value)}" for key, value in self.values]


def fitting(config: Any, memory: int) -> list[tuple[list[str], int]]:
    """The smallest sets of changes under which the run fits, as flags with the bytes that are then needed.

    Sets on the ranks that there are come first, then those with more.

    Args:
        config: what ``fit`` parsed; a run that does not fit as it is.
        memory: bytes of the device.
    """
    changes, more = list(possible(config)), list(more_ranks(config))
    found = _smallest(config, changes, memory)
    for change in more:  # the fewest that do
        with_them = _smallest(config, changes, memory, (change,), most=1)
        if with_them:
            return found + with_them[:1]
    return found


def _smallest(
    config: Any, changes: list[Change], memory: int, always: tuple[Change, ...] = (), most: int = MOST_CHANGES
) -> list[tuple[list[str], int]]:
    for count in range(len(always) == 0, most + 1):
        found: dict[frozenset[str], tuple[list[str], int]] = {}
        for some in itertools.combinations(changes, count):
            together = (*always, *some)
            keys = [key for change in together for key, _ in change.values]
            # of changes of one kind the least, which comes first
            if len(set(keys)) < len(keys) or frozenset(keys) in found:
                continue
            peak = peak_with(config, together)
            if peak is not None and peak <= memory:
                found[frozenset(keys)] = ([flag for change in together for flag in change.flags], peak)
        if found:
            return list(found.values())[:MOST_SHOWN]
    return []


def peak_with(config: Any, changes: Iterable[Change]) -> int | None:
    """Bytes that the changed run needs; None where its arguments contradict one another."""
    changed = config.clone()
    for key, value in (pair for change in changes for pair in change.values):
        place, _, name = key.partition(".")
        inner = getattr(changed, place)
        (inner if place == "trainer" else inner.init_args)[name] = value
    arguments = changed.model.init_args
    if arguments.get("reference_storage") == "adapter_off" and arguments.get("lora") is None:
        return None
    return plan_of(Settings(changed).run(), None).peak


def possible(config: Any) -> Iterator[Change]:
    """What may be changed on the ranks that there are, what changes least of the run first."""
    settings = Settings(config)
    model, data = settings.model, settings.data
    yield from _smaller_steps(settings)
    execution = model.get("execution")
    if "execution" in model and not (execution or {}).get("activation_checkpointing"):
        yield Change((("model.execution", {"activation_checkpointing": True}),))
    if settings.phase in SAMPLING and model.get("max_cached_tokens") is None:
        longest = int(data.get("max_prompt_tokens") or 0) + model.get("max_new_tokens")
        yield Change((("model.max_cached_tokens", 16 * longest),))
    if settings.widths.weights == 4:
        if not settings.widths.mixed:
            yield Change((("trainer.precision", "bf16-mixed"),))
        yield Change((("trainer.precision", "bf16-true"),))
    holds_reference = settings.has_reference and model.get("reference_storage") == "frozen"
    if settings.phase == "dpo" and holds_reference and model.get("loss") != "kto":
        yield Change((("model.reference_storage", "precomputed"),))
    ranks = settings.spread.ranks
    if ranks > 1 and settings.spread.kind != "fsdp2":
        yield Change((("trainer.strategy", "fsdp2"),))
    if model.get("lora") is None and settings.spread.tensor_parallel == 1:
        yield Change((("model.lora", {"r": 16, "target_modules": "all-linear"}),))
    if settings.phase in ("dpo", *SAMPLING) and holds_reference:
        yield Change((("model.reference_storage", "adapter_off"),))
    if settings.phase == "ppo" and model.get("critic") != "shared" and model.get("advantage") == "gae":
        yield Change((("model.critic", "shared"),))


def more_ranks(config: Any) -> Iterator[Change]:
    """FSDP2 over more ranks: of one node up to eight, then of more nodes."""
    trainer = config.trainer
    nodes, ranks = int(trainer.num_nodes), Settings(config).spread.ranks
    devices = ranks // nodes
    # where it is fsdp2 already, its fields stay
    strategy = () if Settings(config).spread.kind == "fsdp2" else (("trainer.strategy", "fsdp2"),)
    for more in (2, 4, 8):
        if nodes == 1 and more > devices:
            yield Change((*strategy, ("trainer.devices", more)))
    more = nodes * 2
    while more <= MOST_NODES:
        yield Change((*strategy, ("trainer.devices", max(8, devices)), ("trainer.num_nodes", more)))
        more *= 2


def _smaller_steps(settings: Settings) -> Iterator[Change]:
    """The same update from smaller parts, by accumulation."""
    steps, data, ranks = (
        settings.trainer.accumulate_grad_batches,
        settings.data,
        settings.spread.data_parallel,
    )
    for factor in (2, 4, 8, 16):
        more = ("trainer.accumulate_grad_batches", steps * factor)
        if settings.phase in SAMPLING:
            if settings.model.get("minibatch_size") % (ranks * steps * factor) == 0:
                yield Change((more,))
        elif data.get("max_tokens") is not None:
            if data.get("max_tokens") // factor >= settings.rows.longest:
                yield Change((("data.max_tokens", data.get("max_tokens") // factor), more))
        elif data.get("batch_size") % (ranks * factor) == 0:
            yield Change((("data.batch_size", data.get("batch_size") // factor), more))


def _written(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(
            f"{name}: {str(entry).lower() if isinstance(entry, bool) else entry}"
            for name, entry in value.items()
        )
        return f"'{{{inside}}}'"
    return str(value)

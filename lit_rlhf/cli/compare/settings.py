"""What a comparison is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Comparison:
    """Several configs of `lit-rlhf fit`, trained from one start on the same data and budget."""

    configs: tuple[str, ...]
    """Files, or names of shipped ones."""
    out: Path
    """The folder."""
    model: str | None
    """Where every policy starts, over the configs'; None = what they all name."""
    data: str | None
    """Comparisons to learn from, for configs whose data are comparisons; None = what these all name."""
    val: str | None
    """Held-out comparisons."""
    prompts: str | None
    """Prompts to learn from, for configs whose data are prompts; None = what these all name."""
    reward: str | None
    """For modules that take one, and for measuring; None = what the modules all name."""
    evaluation: str | None
    """Prompts that every policy answers; they train nothing."""
    gold: str | None
    """Dotted path of the function that judges these answers."""
    seeds: tuple[int, ...]
    """Each method is trained once with each."""
    seconds: float | None
    """The budget of a fit, or `updates`."""
    clock: Literal["cpu", "wall"]
    """Which seconds."""
    updates: int | None
    """The budget in optimizer steps."""
    samples: int
    """Evaluation prompts that are answered, from the first."""
    max_new_tokens: int
    """Of an answer."""

    @property
    def budget(self) -> dict[str, Any]:
        """The budget, as ``results.json`` has it."""
        if self.updates is not None:
            return {"updates": self.updates}
        return {"seconds": self.seconds, **({"clock": "wall"} if self.clock == "wall" else {})}

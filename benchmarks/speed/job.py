"""What one measured process does: a whole training run of a few steps, said in one line of JSON.

Both sides read this file, each in an environment of its own, so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

Phase = Literal["dpo", "reward", "sft"]
Program = Literal["ours", "trl", "raw"]
JSON: TypeAlias = dict[str, Any]

TRL_VERSION = "1.16.0"
MARK = "MEASURED "
"""What the one line of output that counts begins with."""


@dataclass(frozen=True)
class Job:
    """One process's work.

    Args:
        phase: what is trained.
        program: whose training loop: this package's modules in a Lightning trainer, TRL's, or a bare loop of torch.
        size: of the random Llama, a key of :data:`benchmarks.speed.rows.SIZES`.
        prompt: mean prompt tokens of comparisons.
        response: mean response tokens of comparisons.
        responses: K, responses of a prompt.
        lengths: of demonstrations: mean and largest number of tokens, prompt and response together.
        batch: prompts (comparisons) or demonstrations of a step.
        attention: ours: ``auto`` (trees where it can) or ``padded``.
        as_pairs: ours: every comparison as a tree of its own, so that a response is computed K - 1 times.
        max_tokens: ours in SFT: tokens of a packed step.
        packed: TRL in SFT: packs rows of the largest length.
        warm: steps before the clock starts.
        steps: timed steps.
        seed: of the rows and the weights.
        log_every: steps between two logged ones.
        jitter: lengths of comparisons vary by this share up and down.
        device: ``cpu``, or ``cuda``.
        bf16: forward and backward under bf16 autocast; weights and optimizer stay fp32.
        threads: of torch.
        with_peak: measure the machine's matrix-multiplication peak behind the timed steps.
    """

    phase: Phase
    program: Program
    size: str
    prompt: int = 0
    response: int = 0
    responses: int = 2
    lengths: tuple[int, int] = (160, 512)
    batch: int = 2
    attention: Literal["auto", "trees", "padded"] = "auto"
    as_pairs: bool = False
    max_tokens: int | None = None
    packed: bool = False
    warm: int = 1
    steps: int = 3
    seed: int = 0
    log_every: int = 10
    jitter: float = 0.3
    device: str = "cpu"
    bf16: bool = False
    threads: int = 1
    with_peak: bool = False

    def with_seed(self, seed: int) -> Job:
        return replace(self, seed=seed)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_arguments(cls) -> Job:
        """The job that the process was started with."""
        given = json.loads(sys.argv[1])
        return cls(**{**given, "lengths": tuple(given["lengths"])})


@dataclass
class Measured:
    """What a process found out."""

    seconds: float
    """Of the timed steps: CPU seconds of the process; wall seconds on a GPU."""
    steps: int
    """Timed steps."""
    tokens: int
    """Real tokens of the timed steps: every response with its prompt, as padded rows have them, without padding."""
    slots: int
    """What was computed for them: tokens of the flat row, or rows times their width."""
    peak_mb: float
    """Most memory held, above what the process held when everything was imported; on a GPU, most allocated."""
    first_loss: float
    versions: dict[str, str]
    facts: JSON = field(default_factory=dict)
    """What else is worth telling: optimizer, attention, useful FLOP/s and the peak."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def ms_per_step(self) -> float:
        return 1e3 * self.seconds / self.steps

    def report_line(self) -> str:
        """The line that :func:`read_report` finds."""
        return MARK + json.dumps(asdict(self))

    def report(self) -> None:
        """Print that line."""
        print(self.report_line(), flush=True)


def read_report(output: str) -> Measured | None:
    """What a process printed last; None if it came to no result."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            return Measured(**json.loads(line.removeprefix(MARK)))
    return None

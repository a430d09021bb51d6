"""What one measured process does: a whole training run of a few steps, said in one line of JSON.

Both sides read this file, each in an environment of its own, so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

Phase = Literal["dpo", "reward", "sft", "ppo", "grpo", "rollout"]
Program = Literal["ours", "trl", "raw", "generate"]
Critic = Literal["separate", "shared"]
JSON: TypeAlias = dict[str, Any]

TRL_VERSION = "1.16.0"
TRL_PPO_VERSION = "1.12.0"
"""The last release with PPO."""
RUNNERS = {
    ("ours", "ppo"): "run_ours_ppo",
    ("ours", "grpo"): "run_ours_ppo",
    ("trl", "ppo"): "run_trl_ppo",
    ("trl", "grpo"): "run_trl_grpo",
    ("ours", "rollout"): "run_rollout",
    ("generate", "rollout"): "run_rollout",
}
"""By program and phase; the others are run by ``run_PROGRAM``."""
MARK = "MEASURED "
"""What the one line of output that counts begins with."""


@dataclass(frozen=True)
class Job:
    """One process's work.

    Args:
        phase: what is trained.
        program: whose training loop: this package's modules in a Lightning trainer, TRL's, or a bare loop of torch; in
            rollouts our sampler or transformers' `generate`.
        size: of the random Llama, a key of :data:`benchmarks.speed.rows.SIZES`.
        prompt: mean prompt tokens.
        response: mean response tokens of comparisons.
        responses: K, responses of a prompt.
        lengths: mean and largest number of tokens: of demonstrations with their prompts, of sampled responses without
            (where both are the same, all responses have that length).
        batch: prompts (comparisons) or demonstrations of a step; prompts of an iteration.
        microbatch: PPO: responses of one forward and backward.
        epochs: PPO: passes over a rollout, one update each.
        greedy: rollouts: the most likely token at every step, so that both sides come to the same.
        critic: PPO, ours: a network of its own, or a head on the policy's trunk.
        attention: ours: ``auto`` (trees where it can) or ``padded``.
        as_pairs: ours: every comparison as a tree of its own, so that a response is computed K - 1 times.
        max_tokens: ours in SFT: tokens of a packed step.
        packed: TRL in SFT: packs rows of the largest length.
        warm: steps before the clock starts.
        steps: timed steps.
        seed: of the rows and the weights.
        log_every: steps between two logged ones.
        jitter: lengths of comparisons and of a rollout's prompts vary by this share up and down.
        clip: most norm of a gradient; None = not clipped.
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
    microbatch: int = 4
    epochs: int = 4
    greedy: bool = False
    critic: Critic = "separate"
    attention: Literal["auto", "trees", "padded"] = "auto"
    as_pairs: bool = False
    max_tokens: int | None = None
    packed: bool = False
    warm: int = 1
    steps: int = 3
    seed: int = 0
    log_every: int = 10
    jitter: float = 0.3
    clip: float | None = 1.0
    device: str = "cpu"
    bf16: bool = False
    threads: int = 1
    with_peak: bool = False

    def with_seed(self, seed: int) -> Job:
        return replace(self, seed=seed)

    @property
    def module(self) -> str:
        """What ``python -m`` runs."""
        return f"benchmarks.speed.{RUNNERS.get((self.program, self.phase), f'run_{self.program}')}"

    @property
    def trl_version(self) -> str:
        """The peer's, where TRL runs it."""
        return TRL_PPO_VERSION if self.phase == "ppo" else TRL_VERSION

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
    """Real tokens of the timed steps, without padding: every response with its prompt, as padded rows have them; where
    responses are sampled, theirs alone."""
    slots: int
    """What was computed for them: tokens of the flat row, or rows times their width."""
    peak_mb: float
    """Most memory held, above what the process held when everything was imported; on a GPU, most allocated."""
    first_loss: float | None
    """None where the sides train on responses of their own."""
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

"""What a cluster would make of an 8B policy: predicted from volumes on paper and named hardware, not measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.scale import networks, volume
from benchmarks.scale.collectives import Tallies, Tally, sent
from benchmarks.scale.compute import ADAPTED, TRAINED, Tree, decode_step_seconds, forward_seconds
from benchmarks.scale.hardware import MACHINES, Hardware, seconds
from benchmarks.scale.networks import SHAPE_8B
from benchmarks.scale.runs import PHASES, Phase

Scaling = Literal["weak", "strong"]
GPUS = (8, 64, 512)
LORA = 16
TREES: dict[Phase, Tree] = {
    "sft": Tree(512, 1536),
    "reward": Tree(1024, 512, 2),
    "dpo": Tree(1024, 512, 2),
    "ppo": Tree(512, 512),
}
MICRO_TOKENS = 16384
"""Of a micro-batch on a GPU at most."""
STRONG_TOKENS = 2**20
"""Of an update over all GPUs, where that is fixed."""
MINIBATCHES, EPOCHS = 4, 2
"""PPO: updates of a pass over a rollout, and passes."""
ROWS_AT_ONCE = 128
"""Responses that a GPU decodes together at most: 17 GB of keys and values at 1024 tokens."""


@dataclass(frozen=True)
class Setup:
    """How the policy is trained.

    Args:
        name: in words.
        settings: how it is spread; the number of ranks is put in.
        lora: rank of the adapters that are trained; None = all weights.
    """

    name: str
    settings: volume.Settings
    lora: int | None = None


SETUPS = (
    Setup("fsdp2, bf16-true", volume.Settings("fsdp2", 1, width=2, gradient_width=2)),
    Setup("fsdp2, bf16-mixed", volume.Settings("fsdp2", 1, width=2, root_width=4, gradient_width=4)),
    Setup(
        "fsdp2, bf16-true, reshard_after_forward false",
        volume.Settings("fsdp2", 1, reshard_after_forward=False, width=2, gradient_width=2),
    ),
    Setup(
        "fsdp2, bf16-true, whole_while_sampling",
        volume.Settings("fsdp2", 1, width=2, gradient_width=2, whole_while_sampling=True),
    ),
    Setup("ddp, bf16-true, LoRA", volume.Settings("ddp", 1, width=2, gradient_width=2), LORA),
)


@dataclass(frozen=True)
class Part:
    """Of a step or an iteration: what is computed, and sent."""

    computing: float
    """Seconds."""
    tallies: Tallies
    sending: float
    """Seconds, by nothing hidden."""
    steps: float = 1
    """How many of them."""


@dataclass(frozen=True)
class Prediction:
    """Of an update, or of an iteration of PPO."""

    work: Phase
    scaling: Scaling
    gpus: int
    setup: Setup
    machine: Hardware
    parts: dict[str, Part]
    alone: float
    """Seconds on one GPU that has memory for all of it: its share of the work where that grows with the GPUs, all of
    the work where it is fixed."""

    @property
    def ideal(self) -> float:
        """Seconds that so many GPUs would need if they cost one another nothing."""
        return self.alone if self.scaling == "weak" else self.alone / self.gpus

    @property
    def apart(self) -> float:
        """Seconds where nothing is sent while something is computed."""
        return sum(part.steps * (part.computing + part.sending) for part in self.parts.values())

    @property
    def overlapped(self) -> float:
        """Seconds where all that can be is sent while something is computed."""
        return sum(part.steps * max(part.computing, part.sending) for part in self.parts.values())

    @property
    def efficiency(self) -> tuple[float, float]:
        """Without overlap, and with all of it."""
        return self.ideal / self.apart, self.ideal / self.overlapped


def predictions() -> Iterator[Prediction]:
    """Every phase, setup, machine, scaling and number of GPUs."""
    for phase in PHASES:
        for setup in setups_of(phase):
            for machine in MACHINES:
                for scaling in ("weak", "strong"):
                    for gpus in GPUS:
                        yield predict(phase, setup, machine, scaling, gpus)


def setups_of(phase: Phase) -> list[Setup]:
    """Those that differ in what the phase does."""
    return [setup for setup in SETUPS if phase == "ppo" or not setup.settings.whole_while_sampling]


def predict(phase: Phase, setup: Setup, machine: Hardware, scaling: Scaling, gpus: int) -> Prediction:
    """One of them."""
    alone = Work(phase, setup, machine, 1, rows_of(phase, scaling, 1))
    work = Work(phase, setup, machine, gpus, rows_of(phase, scaling, gpus))
    return Prediction(phase, scaling, gpus, setup, machine, work.parts(), alone.computing())


def rows_of(phase: Phase, scaling: Scaling, gpus: int) -> int:
    """Trees of an update on each GPU."""
    tokens = MICRO_TOKENS if scaling == "weak" else STRONG_TOKENS // gpus
    return tokens // TREES[phase].tokens


@dataclass(frozen=True)
class Work:
    """What one GPU of so many has to do for an update, or for an iteration of PPO."""

    phase: Phase
    setup: Setup
    machine: Hardware
    gpus: int
    rows: int

    @property
    def tree(self) -> Tree:
        return TREES[self.phase]

    @property
    def micro_batches(self) -> int:
        return -(-self.rows * self.tree.tokens // MICRO_TOKENS)

    @property
    def settings(self) -> volume.Settings:
        return replace(self.setup.settings, ranks=self.gpus, accumulate=self.micro_batches)

    @property
    def passes(self) -> int:
        return TRAINED if self.setup.lora is None else ADAPTED

    def computing(self) -> float:
        """Seconds of all parts without the others."""
        return sum(part.steps * part.computing for part in self.parts().values())

    def parts(self) -> dict[str, Part]:
        """By name."""
        return self._iteration() if self.phase == "ppo" else {"update": self._update()}

    def _forward(self, head: bool = True) -> float:
        return forward_seconds(SHAPE_8B, self.tree, self.machine, head)

    def _part(self, computing: float, tallies: Tallies, steps: float = 1) -> Part:
        return Part(computing, tallies, seconds(tallies, self.gpus, self.machine), steps)

    def _update(self) -> Part:
        lora = self.setup.lora
        scores = self.phase == "reward"
        network = networks.scorer(SHAPE_8B, lora) if scores else networks.policy(SHAPE_8B, lora)
        frozen = networks.policy(SHAPE_8B) if self.phase == "dpo" else None
        passes = self.passes + (frozen is not None)
        computing = self.rows * passes * self._forward(head=not scores)
        return self._part(computing, volume.steady_update(self.settings, network, frozen))

    def _models(self) -> volume.Models:
        lora, plain = self.setup.lora, networks.policy(SHAPE_8B)
        policy = networks.policy(SHAPE_8B, lora)
        scorer = networks.scorer(SHAPE_8B)
        network = (
            networks.shared_actor_critic(policy, SHAPE_8B) if lora else networks.actor_critic(policy, scorer)
        )
        return volume.Models(network, len(policy.layers), plain, scorer)

    def _iteration(self) -> dict[str, Part]:
        """The rollout's decoding and looks, and the updates; in bf16 the policy looks at all it has drawn."""
        models, tree, rows = self._models(), self.tree, self.rows * MINIBATCHES
        waves = -(-rows // ROWS_AT_ONCE)
        batches = self.micro_batches * MINIBATCHES
        rollout = volume.Rollout(
            waves * tree.response, rows, -(-rows // batches), tree.prompt, tree.response, looks_again=batches
        )
        updates = MINIBATCHES * EPOCHS
        collected, update = volume.steady_iteration(self.settings, models, rollout, updates)
        longer = replace(rollout, forwards=rollout.forwards + 1)
        one_more, _ = volume.steady_iteration(self.settings, models, longer, updates)
        step = less(one_more, collected)
        at_once = min(rows, ROWS_AT_ONCE)
        step_seconds = decode_step_seconds(SHAPE_8B, at_once, tree.prompt + tree.response / 2, self.machine)
        own_critic = models.has_critic_layers
        scored = self._forward(head=False)
        looks = rows * (2 * self._forward() + scored * (1 + own_critic) + self._prefill())
        steps = waves * (tree.response - 1)
        rest = less(collected, {key: tally.times(steps) for key, tally in step.items()})
        trained = self.passes * (self._forward() + own_critic * scored)
        return {
            "decoding step": self._part(step_seconds, step, steps),
            "looks": self._part(looks, rest),
            "update": self._part(self.rows * trained, update, updates),
        }

    def _prefill(self) -> float:
        return forward_seconds(SHAPE_8B, Tree(self.tree.prompt, 0), self.machine)


def less(more: Tallies, tallies: Tallies) -> Tallies:
    """What the first has more than the second."""
    apart = {key: tally + tallies.get(key, Tally()).times(-1) for key, tally in more.items()}
    return {key: tally for key, tally in apart.items() if tally != Tally()}


def row(prediction: Prediction) -> dict[str, Any]:
    """As the results have it; `ours` is the efficiency without overlap, `spread` that and the one with all of it."""
    low, high = (float(f"{share:.4g}") for share in prediction.efficiency)
    return {
        "work": f"{prediction.work} efficiency, {prediction.scaling} scaling",
        "size": f"8B, {prediction.gpus} GPUs",
        "against": f"{prediction.setup.name} on {prediction.machine.name}",
        "ours": low,
        "theirs": 1.0,
        "ratio": low,
        "unit": "share of what as many GPUs alone would do",
        "repeats": 0,
        "spread": [low, high],
        "conditions": {"kind": "predicted, not measured", **conditions(prediction)},
    }


def conditions(prediction: Prediction) -> dict[str, Any]:
    """Every assumption, and what came out on the way."""
    work = Work(
        prediction.work,
        prediction.setup,
        prediction.machine,
        prediction.gpus,
        rows_of(prediction.work, prediction.scaling, prediction.gpus),
    )
    tree = TREES[prediction.work]
    found = {
        "hardware": prediction.machine.assumptions(),
        "shape": dict(SHAPE_8B),
        "bytes_a_weight_gathered": {
            "layers": prediction.setup.settings.width,
            "rest": prediction.setup.settings.root_width or prediction.setup.settings.width,
        },
        "bytes_a_gradient_reduced": prediction.setup.settings.gradient_width,
        "lora_rank": prediction.setup.lora,
        "activation_checkpointing": True,
        "tree": {"prompt": tree.prompt, "responses": tree.responses, "response": tree.response},
        "trees_of_an_update_on_a_gpu": work.rows,
        "micro_batches": work.micro_batches,
        "seconds_ideal": _rounded(prediction.ideal),
        "seconds": {"apart": _rounded(prediction.apart), "overlapped": _rounded(prediction.overlapped)},
        "parts": {
            name: {
                "times": part.steps,
                "computing_seconds": _rounded(part.computing),
                "sending_seconds": _rounded(part.sending),
                "bytes_sent_by_a_gpu": _rounded(sent(part.tallies, prediction.gpus)),
            }
            for name, part in prediction.parts.items()
        },
    }
    if prediction.work == "ppo":
        found["rollout"] = {
            "responses_on_a_gpu": work.rows * MINIBATCHES,
            "decoded_at_once": min(work.rows * MINIBATCHES, ROWS_AT_ONCE),
            "lengths": "all responses as long as the longest",
            "minibatches": MINIBATCHES,
            "epochs": EPOCHS,
        }
    return found


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")

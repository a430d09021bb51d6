"""What a loop is told: the fields of its config, each with the sentence that ``lit-rlhf loop --help`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Program:
    """A program that judges in people's place; its noise is its own, and is stated in the page."""

    name: str
    """Under which its judgements are kept."""
    annotator: str
    """What judges, as `lit-rlhf label annotate --annotator` takes it: a function's dotted path, a reward model's
    folder, or the address of a reward server or a language model."""
    temperature: float | None = None
    """Scale of the noise on what it gives each response; 0 = none."""
    flips: float | None = None
    """Share of its judgements that are written down the wrong way round."""
    tie_width: float | None = None
    """Differences up to this are a tie."""
    seed: int | None = None
    """Of its noise; null = drawn from the loop's seed, its place in the list and the round."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further flags of `lit-rlhf label annotate`, without their dashes."""


@dataclass(frozen=True)
class People:
    """How people are waited for."""

    wait: bool = True
    """Wait until every item is judged; false leaves with a message, and the same command goes on."""
    seconds: float = 10.0
    """Between two looks at the file while waiting."""
    serve: Mapping[str, Any] = field(default_factory=dict)
    """Further flags of the `lit-rlhf label serve` that is printed, without their dashes, such as {port: 9000,
    guidelines: guide.md}."""


@dataclass(frozen=True)
class Export:
    """What judgements are made into; see `lit-rlhf label export --help`."""

    rows: Literal["auto", "pairs", "rankings", "votes"] = "auto"
    """Kind of rows; auto = pairs of two responses, rankings of more."""
    votes: Literal["each", "majority", "min-agree"] = "each"
    """What several annotators' judgements of one item become: a row each, the majority's, or one where enough agree."""
    min_agree: int | None = None
    """Annotators who must agree, with `votes: min-agree`."""
    ties: Literal["keep", "drop"] = "keep"
    """Whether ties are rows."""


@dataclass(frozen=True)
class Fit:
    """A training phase."""

    config: str
    """A config of `lit-rlhf fit`, such as configs/reward.yaml; the name of a shipped one will do."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Flags that win over the config, by their dotted names, such as {model.beta: 0.2, trainer.max_epochs: 2}."""


@dataclass(frozen=True)
class PolicyFit(Fit):
    """The phase that makes a round's policy."""

    start: Literal["first", "previous"] = "first"
    """Which policy a round's training starts from: the loop's `model`, or the round's before. The KL reference is the
    loop's `model` either way."""
    labels: Literal["all", "new"] = "all"
    """Whether DPO learns from the labels of all rounds so far, or of its own; reward models always learn from all."""


@dataclass(frozen=True)
class Evaluation:
    """How each round's policy is looked at; its prompts train nothing."""

    prompts: str
    """File of prompts, each answered once by every policy with the same seed."""
    judged: int = 0
    """Of how many prompts annotators compare the round's response with that of the loop's `model`; 0 = none."""


@dataclass(frozen=True)
class Loop:
    """Rounds of sampling, labelling and training."""

    model: str
    """The policy that is sampled first: a folder in Hugging Face layout or a hub name. Every KL is to it."""
    prompts: str | tuple[str, ...]
    """Files of prompts; a round takes the next ones, so no row is asked twice."""
    policy: PolicyFit
    """The phase that makes the policies: PPO (or GRPO, RLOO), or DPO."""
    annotators: Literal["people"] | tuple[Program, ...] = "people"
    """`people` at the page of `lit-rlhf label serve`, or a list of programs."""
    reward: Fit | None = field(default_factory=lambda: Fit("configs/reward.yaml"))
    """The reward model, trained anew in each round on the labels of all rounds so far; null with DPO alone."""
    rounds: int = 3
    """How many; more can be asked for later."""
    prompts_per_round: int = 200
    """Rows of `prompts` that a round takes."""
    responses: int = 2
    """Different responses to a prompt, from 2 to 9, that annotators compare."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Flags of `lit-rlhf sample`, such as {temperature: 1.0, max-new-tokens: 64}."""
    overlap: int = 1
    """Annotators that judge each item; with programs 1 (they share the items out evenly) or all of them."""
    people: People = field(default_factory=People)
    """How people are waited for."""
    export: Export = field(default_factory=Export)
    """What judgements are made into."""
    held_out: float = 0.1
    """Share of a round's prompts (of its rows, where there are fewer than 20 different prompts) whose labels train
    nothing and measure the reward model."""
    evaluation: Evaluation | None = None
    """How policies are looked at; null = they are not."""
    gold: str | None = None
    """Dotted path of f(prompts, completions, **columns) -> list of numbers, where the truth is known; it trains
    nothing."""
    seed: int = 0
    """Of everything that is drawn; each round draws anew."""

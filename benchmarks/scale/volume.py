"""What ranks send one another, on paper: from shapes and settings to collectives, nothing is run.

Weights lie in parts under `fsdp2` and are gathered by groups; what a rank has at hand of them decides what it asks
for. Bytes are payloads, see :class:`benchmarks.scale.collectives.Tally`; ``collectives.sent`` says what of them a rank
sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from benchmarks.scale.collectives import Kind, Purpose, Tallies, Tally
from benchmarks.scale.networks import Network

FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""Bytes from which DDP closes its first bucket of gradients, and the others."""
COUNT, FLAG = 4, 8
"""Bytes of a count, a loss and a norm; of a flag and a number of steps."""
REWARD_ROWS = 64
"""Responses that a reward model reads at once."""
EXPERIENCE, RESPONSE, PROMPT_TOKEN, RESPONSE_TOKEN = 5064, 34, 3, 32
"""Bytes that pickling takes: for the tensors of a rank's experience, whatever is in them; for a response; for a token
of its prompt; for one of its own, an id, a mask and seven numbers in fp32."""
ROOT = -1
"""The number of the group that is no layer."""


@dataclass(frozen=True)
class Settings:
    """How a run is spread.

    Args:
        strategy: whole weights on each rank, or parts.
        ranks: n.
        reshard_after_forward: of `fsdp2`.
        accumulate: micro-batches of an update.
        whole_while_sampling: of `fsdp2`: layers are gathered once a rollout, and not for each token.
        width: bytes of a weight as it is gathered.
        root_width: the same of what is in no layer; None = as in layers. Under bf16-mixed layers are gathered in bf16,
            and the rest in fp32.
        gradient_width: bytes of a gradient as it is reduced.
    """

    strategy: Literal["ddp", "fsdp2"]
    ranks: int
    reshard_after_forward: bool = True
    accumulate: int = 1
    width: int = 4
    root_width: int | None = None
    gradient_width: int = 4
    whole_while_sampling: bool = False


@dataclass(frozen=True)
class Rollout:
    """How responses are drawn and looked at.

    Args:
        forwards: of the policy while it decodes: one for the prompts, and one for each further token of the longest
            response of any rank.
        rows: responses of a rank.
        batch: responses that the policy, the reference and the critic look at in one forward.
        prompt: tokens of a prompt.
        response: tokens of a response.
        looks_again: forwards of the policy over what it has drawn: one, which shows that sampling and training agree,
            or as many as there are batches where they do not, as in bf16.
    """

    forwards: int
    rows: int
    batch: int
    prompt: int
    response: int
    looks_again: int = 1

    @property
    def batches(self) -> int:
        return -(-self.rows // self.batch)


class Paper:
    """A rank's collectives, written down one by one.

    Args:
        settings: how the run is spread.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tallies: Tallies = {}
        self._at_hand: set[tuple[str, int]] = set()

    @property
    def sharded(self) -> bool:
        return self.settings.strategy == "fsdp2" and self.settings.ranks > 1

    def note(self, kind: Kind, purpose: Purpose, payload: float, calls: float = 1) -> None:
        """`calls` collectives of so many bytes together."""
        self.tallies[kind, purpose] = self.tallies.get((kind, purpose), Tally()) + Tally(calls, payload)

    def taken(self) -> Tallies:
        """What was noted since the last time."""
        tallies, self.tallies = self.tallies, {}
        return tallies

    def look(self, name: str, network: Network, layers: range | None = None, times: int = 1) -> None:
        """Forwards without gradient, through all layers or some: what is not at hand is gathered.

        Args:
            name: of the network; the same weights have the same.
            network: its groups.
            layers: those that are run; None = all.
            times: how many forwards.
        """
        if not times:
            return
        run = range(len(network.layers)) if layers is None else layers
        self._forward(name, network, run)
        earlier = self.taken()
        if times > 1:
            self._forward(name, network, run)  # the others are like the second
        again = {key: tally.times(times - 1) for key, tally in self.taken().items()}
        self.tallies = total([earlier, again])

    def drop(self, name: str) -> None:
        """Give back what a network has left gathered."""
        self._at_hand = {(held, number) for held, number in self._at_hand if held != name}

    def decode(self, name: str, network: Network, layers: range, forwards: int) -> None:
        """The forwards of sampling, through the policy's layers."""
        if not self.settings.whole_while_sampling:
            self.look(name, network, layers, forwards)
            return
        self.look(name, network, layers)  # and what it has gathered stays, until the last token

    def train(self, name: str, network: Network, reduces: bool = True) -> None:
        """A forward and a backward of one micro-batch.

        Args:
            name: of the network.
            network: its groups.
            reduces: DDP: whether gradients are reduced behind it, which the last micro-batch of an update does.
        """
        if self.settings.strategy == "ddp":
            if reduces:
                self._reduce_buckets(network)
            return
        everything = range(len(network.layers))
        self._forward(name, network, everything)
        self._gather(name, network, (*everything, ROOT))
        self._at_hand -= {(name, number) for number in (*everything, ROOT)}
        for group in network.groups if self.sharded else ():
            trained = [parameter.padded(self.settings.ranks) for parameter in group if parameter.trained]
            if trained:
                self.note("reduce_scatter", "gradients", self.settings.gradient_width * sum(trained))

    def _forward(self, name: str, network: Network, layers: Iterable[int]) -> None:
        self._gather(name, network, (ROOT, *layers))
        if self.settings.reshard_after_forward:
            self._at_hand -= {(name, number) for number in layers}

    def _gather(self, name: str, network: Network, numbers: Iterable[int]) -> None:
        if not self.sharded:
            return
        for number in numbers:
            if (name, number) not in self._at_hand:
                self._at_hand.add((name, number))
                group = network.groups[number]
                numel = sum(parameter.padded(self.settings.ranks) for parameter in group)
                width = self.settings.width
                if number == ROOT and self.settings.root_width is not None:
                    width = self.settings.root_width
                self.note("all_gather", "weights", width * numel)

    def _reduce_buckets(self, network: Network) -> None:
        """Gradients in buckets, in about the order in which the backward has them; and the tables from rank 0."""
        for buffers in filter(None, network.buffers):  # of a type together
            self.note("broadcast", "bookkeeping", buffers)
        bucket, limit = 0, FIRST_BUCKET
        for parameter in reversed(network.parameters):
            bucket += parameter.numel * self.settings.gradient_width if parameter.trained else 0
            if bucket >= limit:
                self.note("all_reduce", "gradients", bucket)
                bucket, limit = 0, BUCKET
        if bucket:
            self.note("all_reduce", "gradients", bucket)

    def keep_books(self, network: Network) -> None:
        """Each micro-batch's flag, count and logged loss, where all are logged; and the norm that clips."""
        settings = self.settings
        if settings.ranks == 1:
            return
        self.note("all_reduce", "bookkeeping", 2 * COUNT * settings.accumulate, 2 * settings.accumulate)
        self.note("broadcast", "bookkeeping", FLAG * settings.accumulate, settings.accumulate)
        if self.sharded:
            trained = sum(parameter.trained for parameter in network.parameters)
            self.note("all_reduce", "bookkeeping", COUNT * trained)

    def exchange(self, rollout: Rollout) -> None:
        """A rollout's flags, and every rank's experience to every rank."""
        ranks = self.settings.ranks
        if self.settings.strategy == "fsdp2":
            flags = (
                rollout.forwards + 3 + rollout.looks_again
            )  # another round? what is there to score, to look at, again?
            self.note("all_reduce", "bookkeeping", FLAG * flags, flags)
            self.note("all_gather", "bookkeeping", ranks * (FLAG + 4), 2)  # whether a reward has failed
        if ranks == 1:
            return
        tokens = rollout.prompt * PROMPT_TOKEN + rollout.response * RESPONSE_TOKEN
        self.note("all_gather", "bookkeeping", ranks * FLAG)
        self.note("all_gather", "objects", ranks * (EXPERIENCE + rollout.rows * (RESPONSE + tokens)))


def update(paper: Paper, network: Network, frozen: Network | None = None) -> Tallies:
    """One training step: forward and backward of each micro-batch, and of a frozen network's forward before it."""
    for number in range(paper.settings.accumulate):
        if frozen is not None:
            paper.look("reference", frozen)
        paper.train("network", network, reduces=number == paper.settings.accumulate - 1)
    paper.keep_books(network)
    return paper.taken()


def steady_update(settings: Settings, network: Network, frozen: Network | None = None) -> Tallies:
    """Any training step but the first, of a phase without rollouts."""
    paper = Paper(settings)
    update(paper, network, frozen)
    return update(paper, network, frozen)


@dataclass(frozen=True)
class Models:
    """PPO's: what is trained, whose first layers are the policy's, and what is frozen."""

    network: Network
    policy_layers: int
    reference: Network
    reward: Network

    @property
    def has_critic_layers(self) -> bool:
        return len(self.network.layers) > self.policy_layers


def collect(paper: Paper, models: Models, rollout: Rollout) -> Tallies:
    """One rollout: responses drawn, scored, and looked at by the policy, the reference and the critic."""
    policy, critic = range(models.policy_layers), range(models.policy_layers, len(models.network.layers))
    paper.decode("network", models.network, policy, rollout.forwards)
    paper.look("reward", models.reward, times=-(-rollout.rows // REWARD_ROWS))
    paper.look("network", models.network, policy, rollout.looks_again)
    paper.look("reference", models.reference, times=rollout.batches)
    if models.has_critic_layers:
        paper.look("network", models.network, critic, rollout.batches)
    paper.exchange(rollout)
    for frozen in ("reference", "reward"):
        paper.drop(frozen)  # the updates need the memory
    return paper.taken()


def steady_iteration(
    settings: Settings, models: Models, rollout: Rollout, updates: int
) -> tuple[Tallies, Tallies]:
    """Of any iteration but the first: the rollout, and an update in the mean."""
    paper = Paper(settings)
    for _ in range(2):
        collected = collect(paper, models, rollout)
        each = [update(paper, models.network) for _ in range(updates)]
    return collected, mean(each)


def total(each: list[Tallies]) -> Tallies:
    """Of several steps."""
    found: Tallies = {}
    for tallies in each:
        for key, tally in tallies.items():
            found[key] = found.get(key, Tally()) + tally
    return found


def mean(each: list[Tallies]) -> Tallies:
    """Over several steps."""
    return {key: tally.times(1 / len(each)) for key, tally in total(each).items()}

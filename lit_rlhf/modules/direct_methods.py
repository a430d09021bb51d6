"""The direct methods by their names: which pure function, which β where none is given, and what else it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from lit_rlhf.losses.absolute import bco_loss, nca_loss, sppo_loss
from lit_rlhf.losses.anchored import apo_down_loss, apo_zero_loss
from lit_rlhf.losses.differences import discopop_loss, exo_loss, hinge_loss, ipo_loss
from lit_rlhf.losses.divergences import Divergence
from lit_rlhf.losses.length_normalized import length_normalized_dpo_loss, length_normalized_ipo_loss
from lit_rlhf.losses.preference import dpo_loss, robust_dpo_loss
from lit_rlhf.losses.reference_free import cpo_loss, orpo_loss, simpo_loss, slic_loss
from lit_rlhf.losses.transport import aot_loss, aot_unpaired_loss
from lit_rlhf.losses.unpaired import bco_unpaired_loss, kto_loss, kto_pair_loss
from lit_rlhf.modules.reward_shift import RewardShift

Loss = Literal[
    "sigmoid", "robust", "ipo", "ipo_norm", "hinge", "sigmoid_norm", "simpo", "cpo", "slic", "orpo", "kto", "bco",
    "nca", "exo", "apo_zero", "apo_down", "aot", "aot_unpaired", "sppo", "discopop", "plackett_luce",
]  # fmt: skip
"""`DPOModule`'s ``loss``."""
Ties = Literal["half", "drop"]
DivergenceName = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]
Margin = float | Literal["data"] | None


class Fields(Protocol):
    """What a method may take from the config, settled; see :class:`DPOModule`."""

    price: float
    label_smoothing: float
    flip_rate: float
    divergence: Divergence
    desirable_weight: float
    undesirable_weight: float
    odds_coef: float
    reward_shift: RewardShift


class Pairs(NamedTuple):
    """The comparisons of a batch, each ``[C]``."""

    policy_better: Tensor
    policy_worse: Tensor
    reference_better: Tensor
    """Zeros where there is no reference; so below."""
    reference_worse: Tensor
    better_lengths: Tensor
    worse_lengths: Tensor
    target: Tensor
    margin: Tensor
    """By how much the one that is better should be, 0 or more."""
    reference_point: Tensor
    """KTO's z₀, a scalar."""

    @property
    def logprobs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What most methods are a function of, in the order of their arguments."""
        return self[:4]

    @property
    def own(self) -> tuple[Tensor, Tensor]:
        """The policy's, for methods without a reference."""
        return self[:2]

    @property
    def lead(self) -> Tensor:
        """By how much `better` should be better: under 0 where the other one is, and 0 in a tie."""
        return self.margin * (self.target - 0.5).sign()

    @property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """Counted tokens of the two sides."""
        return self[4:6]


class Labelled(NamedTuple):
    """The responses of a batch that were judged by themselves, each ``[L]``."""

    policy: Tensor
    reference: Tensor
    desirable: Tensor
    """Bool."""
    reference_point: Tensor
    """KTO's z₀, a scalar."""


class Method(NamedTuple):
    """One published objective."""

    losses: Callable[[Fields, Pairs], Tensor] | None
    """Of the comparisons, ``[C]``; None = a loss on whole rankings."""
    takes: frozenset[str] = frozenset()
    """Fields that mean something to it, beside those that all have."""
    beta: float | None = 0.1
    """β where none is given; None = the method has none."""
    margin: Callable[[float], float] = lambda beta: 0.0
    """From β to the margin where none is given."""
    sft_coef: float = 0.0
    """Weight of the likelihood of better responses where none is given."""
    of_labels: Callable[[Fields, Labelled], Tensor] | None = None
    """Of responses judged by themselves, ``[L]``; None = it learns from comparisons alone."""
    reference: bool = True
    """Whether it compares with a reference."""
    per_token: bool = False
    """Whether rewards are of means over tokens."""
    start: Callable[[Fields], float] | None = None
    """The loss where the policy is the reference, where no target, margin or likelihood moves it; None = not one."""


ON_PAIRS = frozenset({"wpo"})
"""Fields of all losses that belong to a comparison and to nothing else."""
ON_SUMS = ON_PAIRS | {"length_desensitization"}
"""Fields of those among them that take log-probabilities summed over responses."""

PairLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor], Tensor]


def of_rewards(function: PairLoss, start: Callable[[Fields], float] | None) -> Method:
    """A method that takes log-probabilities, β and targets, and nothing else."""
    return Method(
        lambda given, pairs: function(*pairs.logprobs, given.price, pairs.target), takes=ON_SUMS, start=start
    )


METHODS: dict[str, Method] = {
    "sigmoid": Method(
        lambda given, pairs: dpo_loss(
            *pairs.logprobs, given.price, pairs.target, given.label_smoothing, pairs.lead, given.divergence
        ),
        takes=ON_SUMS | {"label_smoothing", "margin", "divergence"},
        start=lambda given: math.log(2),
    ),
    "robust": Method(
        lambda given, pairs: robust_dpo_loss(*pairs.logprobs, given.price, given.flip_rate, pairs.target),
        takes=ON_SUMS | {"flip_rate"},
        start=lambda given: math.log(2),
    ),
    "ipo": of_rewards(ipo_loss, start=lambda given: 1 / (2 * given.price) ** 2),
    "ipo_norm": Method(
        lambda given, pairs: length_normalized_ipo_loss(
            *pairs.logprobs, *pairs.lengths, given.price, pairs.target
        ),
        takes=ON_PAIRS,
        per_token=True,
        start=lambda given: 1 / (2 * given.price) ** 2,
    ),
    "hinge": of_rewards(hinge_loss, start=lambda given: 1.0),
    "sigmoid_norm": Method(
        lambda given, pairs: length_normalized_dpo_loss(
            *pairs.logprobs, *pairs.lengths, given.price, pairs.target, given.label_smoothing
        ),
        takes=ON_PAIRS | {"label_smoothing"},
        beta=5.0,
        per_token=True,
        start=lambda given: math.log(2),
    ),
    "simpo": Method(
        lambda given, pairs: simpo_loss(
            *pairs.own, *pairs.lengths, given.price, pairs.lead, pairs.target, given.label_smoothing
        ),
        takes=ON_PAIRS | {"label_smoothing", "margin"},
        beta=2.0,
        margin=lambda beta: beta / 2,
        reference=False,
        per_token=True,
    ),
    "cpo": Method(
        lambda given, pairs: cpo_loss(*pairs.own, given.price, pairs.target, given.label_smoothing),
        takes=ON_SUMS | {"label_smoothing"},
        sft_coef=1.0,
        reference=False,
    ),
    "slic": Method(
        lambda given, pairs: slic_loss(*pairs.own, pairs.margin, pairs.target),
        takes=ON_SUMS | {"margin"},
        beta=None,
        margin=lambda beta: 1.0,
        reference=False,
    ),
    "orpo": Method(
        lambda given, pairs: orpo_loss(*pairs.own, *pairs.lengths, given.odds_coef, pairs.target),
        takes=frozenset({"odds_coef"}),
        beta=None,
        reference=False,
        per_token=True,
    ),
    "kto": Method(
        lambda given, pairs: kto_pair_loss(
            *pairs.logprobs, pairs.reference_point, given.price, pairs.target, given.desirable_weight,
            given.undesirable_weight,
        ),
        of_labels=lambda given, labelled: kto_loss(
            *labelled, given.price, given.desirable_weight, given.undesirable_weight
        ),
        takes=frozenset({"desirable_weight", "undesirable_weight"}),
        start=lambda given: (given.desirable_weight + given.undesirable_weight) / 4,
    ),
    "bco": Method(
        lambda given, pairs: bco_loss(*pairs.logprobs, given.price, pairs.target, given.reward_shift.value),
        of_labels=lambda given, labelled: bco_unpaired_loss(
            *labelled[:3], given.price, given.reward_shift.value
        ),
        takes=ON_SUMS,
        start=lambda given: 2 * math.log(2),
    ),
    "nca": of_rewards(nca_loss, start=lambda given: 2 * math.log(2)),
    "exo": Method(
        lambda given, pairs: exo_loss(*pairs.logprobs, given.price, pairs.target, given.label_smoothing),
        takes=ON_SUMS | {"label_smoothing"},
    ),
    "apo_zero": of_rewards(apo_zero_loss, start=lambda given: 1.0)._replace(
        of_labels=lambda given, labelled: kto_loss(*labelled[:3], 0.0, given.price)  # of which it is a case
    ),
    "apo_down": of_rewards(apo_down_loss, start=lambda given: 1.0),
    "aot": Method(
        lambda given, pairs: aot_loss(*pairs.logprobs, given.price, given.label_smoothing),
        takes=frozenset({"label_smoothing"}),
        start=lambda given: math.log(2),
    ),
    "aot_unpaired": Method(
        lambda given, pairs: aot_unpaired_loss(*pairs.logprobs, given.price, given.label_smoothing),
        takes=frozenset({"label_smoothing"}),
        start=lambda given: math.log(2),
    ),
    "sppo": of_rewards(sppo_loss, start=None)._replace(beta=0.001),
    "discopop": of_rewards(discopop_loss, start=lambda given: (1 + math.log(2)) / 2),
    "plackett_luce": Method(None),
}  # fmt: skip
"""Every method by its name in the config."""

QUANTILES = ("aot", "aot_unpaired")
"""Losses of the batch's quantiles, which belong to no comparison."""

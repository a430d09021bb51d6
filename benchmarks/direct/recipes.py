"""The methods: what each is given, and which of two tries it was found best with.

Every method had two tries in the demo world, on a seed that is no part of the results (100), at the study's budget and
with clean labels; see :data:`CHOSEN`. Where they lie was seen in earlier runs of the same seed at other budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.direct.worlds import FLIP_RATE

TRIES = 2
"""Settings that each method was tried with."""
ASSUMED_CLEAN = 0.1
"""Share of wrong labels that ``robust`` and ``cdpo`` assume where labels are as given; flipped, they know the share."""


class Recipe(NamedTuple):
    """A method, and the settings that were tried."""

    title: str
    options: Mapping[str, Any]
    """That are no matter of choice."""
    tries: tuple[Mapping[str, Any], ...]
    noise: str | None = None
    """Option that says what share of labels is wrong."""

    def settings(self, number: int, condition: str) -> dict[str, Any]:
        """The module's arguments of a try."""
        told = {self.noise: FLIP_RATE if condition == "flips" else ASSUMED_CLEAN} if self.noise else {}
        return {**self.options, **told, **self.tries[number]}


def _betas(*values: float) -> tuple[Mapping[str, Any], ...]:
    return tuple({"beta": value} for value in values)


def _loss(
    loss: str, tries: tuple[Mapping[str, Any], ...], noise: str | None = None, title: str = ""
) -> Recipe:
    return Recipe(title or loss, {"loss": loss}, tries, noise)


LOW = _betas(0.03, 0.1)

RECIPES: Mapping[str, Recipe] = {
    "sigmoid": _loss("sigmoid", LOW, title="DPO (sigmoid)"),
    "ppo": Recipe("PPO with a reward model", {"kl_coef": 0.1}, ({"rate": 2.0}, {"rate": 4.0})),
    "cdpo": _loss("sigmoid", LOW, "label_smoothing", "cDPO (label smoothing)"),
    "robust": _loss("robust", LOW, "flip_rate"),
    "dpo_sft": Recipe(
        "DPO with an SFT term", {"loss": "sigmoid", "beta": 0.1}, ({"sft_coef": 0.3}, {"sft_coef": 1.0})
    ),
    "ipo": _loss("ipo", LOW),
    "simpo": _loss("simpo", _betas(2.0, 5.0)),
    "orpo": _loss("orpo", ({"odds_coef": 0.5}, {"odds_coef": 2.0})),
    "cpo": _loss("cpo", _betas(0.3, 1.0)),
    "kto": _loss("kto", LOW),
    "hinge": _loss("hinge", LOW),
    "slic": _loss("slic", ({"sft_coef": 0.3}, {"sft_coef": 1.0})),
    "sigmoid_norm": _loss("sigmoid_norm", _betas(2.0, 5.0), title="sigmoid_norm (DPO per token)"),
    "ipo_norm": _loss("ipo_norm", _betas(0.1, 0.3), title="ipo_norm (IPO per token)"),
    "exo": _loss("exo", LOW),
    "discopop": _loss("discopop", _betas(0.1, 1.0)),
    "bco": _loss("bco", LOW),
    "nca": _loss("nca", LOW),
    "apo_zero": _loss("apo_zero", LOW),
    "apo_down": _loss("apo_down", _betas(0.3, 1.0)),
    "sppo": _loss("sppo", LOW),
    "aot": _loss("aot", LOW),
    "aot_unpaired": _loss("aot_unpaired", LOW),
}
"""In the order of the page. A price of KL says little in so few iterations of PPO: its tries are of learning rates."""

ON_REAL_TEXT = {
    "pairs_blimp": ("sigmoid", "ppo", "cdpo", "robust", "dpo_sft", "ipo", "simpo", "orpo"),
    "pairs_ukp_convarg": ("sigmoid", "ppo", "cdpo", "dpo_sft", "orpo"),
}
"""Methods that the real-text worlds are run with. KTO needs several prompts, and pairs_blimp has one."""
FLIPPED = {
    "demo": ("sigmoid", "ppo", "cdpo", "robust", "dpo_sft", "ipo", "simpo", "orpo", "cpo", "kto"),
    "pairs_blimp": ("sigmoid", "ppo", "cdpo", "robust", "dpo_sft"),
    "pairs_ukp_convarg": ("sigmoid", "ppo", "cdpo", "robust"),
}
"""Those that are run with flipped labels too."""

CHOSEN: Mapping[str, int] = {
    "sigmoid": 1, "ppo": 1, "cdpo": 1, "robust": 1, "dpo_sft": 0, "ipo": 1, "simpo": 1, "orpo": 1, "cpo": 0,
    "kto": 0, "hinge": 1, "slic": 1, "sigmoid_norm": 1, "ipo_norm": 1, "exo": 1, "discopop": 1, "bco": 0,
    "nca": 1, "apo_zero": 1, "apo_down": 1, "sppo": 0, "aot": 1, "aot_unpaired": 0,
}  # fmt: skip
"""By method, which of its tries (from 0): the one with more gold on seed 100; the tries are in the results too."""


def chosen(method: str) -> int:
    """The try that the study takes, in all worlds and conditions."""
    return CHOSEN[method]

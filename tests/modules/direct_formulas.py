"""The published losses on one comparison, in plain numbers, written from the papers and not from the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

B = 0.3
"""β in these tests, unlike any default."""


@dataclass
class Pair:
    """What is known of a comparison: log-probabilities under policy and reference, and counted tokens."""

    w: float
    l: float  # noqa: E741  # the papers' letter
    ref_w: float
    ref_l: float
    n_w: int
    n_l: int

    @property
    def rho_w(self) -> float:
        return self.w - self.ref_w

    @property
    def rho_l(self) -> float:
        return self.l - self.ref_l

    @property
    def h(self) -> float:
        return self.rho_w - self.rho_l

    @property
    def h_norm(self) -> float:
        return self.rho_w / self.n_w - self.rho_l / self.n_l


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nls(x: float) -> float:
    """-log σ(x)."""
    return math.log1p(math.exp(-abs(x))) + max(-x, 0.0)


def log_odds(logprob: float) -> float:
    return logprob - math.log(1 - math.exp(logprob))


def exo(pair: Pair) -> float:
    q, p = s(B * pair.h), 0.999
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / 0.001)


def discopop(pair: Pair) -> float:
    d = B * pair.h
    return (1 - s(d / 0.05)) * nls(d) + s(d / 0.05) * math.exp(-d)


def orpo(pair: Pair) -> float:
    a, b = pair.w / pair.n_w, pair.l / pair.n_l
    return -a + 0.2 * nls(log_odds(a) - log_odds(b))


def jensen_shannon(pair: Pair) -> float:
    return nls(B * (nls(pair.rho_l) - nls(pair.rho_w)))


Formula = Callable[[Pair], float]

FORMULAS: dict[str, tuple[dict, Formula]] = {
    "sigmoid": ({}, lambda p: nls(B * p.h)),
    "cDPO": ({"label_smoothing": 0.1}, lambda p: 0.9 * nls(B * p.h) + 0.1 * nls(-B * p.h)),
    "ODPO": ({"margin": 0.7}, lambda p: nls(B * p.h - 0.7)),
    "Jensen-Shannon": ({"divergence": "jensen_shannon"}, jensen_shannon),
    "forward KL": (
        {"divergence": "forward_kl"},
        lambda p: nls(B * (math.exp(-p.rho_l) - math.exp(-p.rho_w))),
    ),
    "alpha": (
        {"divergence": "alpha", "alpha": 0.5},
        lambda p: nls(B * 2 * (math.exp(-p.rho_l / 2) - math.exp(-p.rho_w / 2))),
    ),
    "robust": ({"flip_rate": 0.2}, lambda p: (0.8 * nls(B * p.h) - 0.2 * nls(-B * p.h)) / 0.6),
    "ipo": ({}, lambda p: (p.h - 1 / (2 * B)) ** 2),
    "ipo_norm": ({}, lambda p: (p.h_norm - 1 / (2 * B)) ** 2),
    "hinge": ({}, lambda p: max(0.0, 1 - B * p.h)),
    "sigmoid_norm": ({}, lambda p: nls(B * p.h_norm)),
    "simpo": ({"margin": 0.4}, lambda p: nls(B * (p.w / p.n_w - p.l / p.n_l) - 0.4)),
    "cpo": ({"sft_coef": 0.5}, lambda p: nls(B * (p.w - p.l)) - 0.5 * p.w / p.n_w),
    "slic": ({"beta": None, "margin": 2.0}, lambda p: max(0.0, 2 - p.w + p.l)),
    "orpo": ({"beta": None, "odds_coef": 0.2}, orpo),
    "bco": ({}, lambda p: nls(B * p.rho_w) + nls(-B * p.rho_l)),
    "nca": ({}, lambda p: nls(B * p.rho_w) + nls(-B * p.rho_w) / 2 + nls(-B * p.rho_l) / 2),
    "exo": ({}, exo),
    "apo_zero": ({}, lambda p: 1 - s(B * p.rho_w) + s(B * p.rho_l)),
    "apo_down": ({}, lambda p: s(B * p.rho_w) + 1 - s(B * p.h)),
    "sppo": ({}, lambda p: (p.rho_w - 0.5 / B) ** 2 + (p.rho_l + 0.5 / B) ** 2),
    "discopop": ({}, discopop),
}
"""By method, or by another name of ``sigmoid``; with the fields beside β, and the loss."""


def settings_of(name: str) -> dict:
    """What `DPOModule` is given for it."""
    loss = {"cDPO", "ODPO", "Jensen-Shannon", "forward KL", "alpha"}
    return {"loss": "sigmoid" if name in loss else name, "beta": B, **FORMULAS[name][0]}

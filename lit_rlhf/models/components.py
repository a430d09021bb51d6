"""Several components of one score: heads on a shared trunk, how they are combined, and how far they disagree."""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Combine = Literal["mean", "min", "mean_minus_std", "gate"]

FIT_STEPS = 1000
"""Of the fit of few-shot weights; milliseconds, and far past convergence."""


@dataclass(frozen=True)
class Components:
    """Scalar heads on one trunk, each with its own part of the data, and how their scores become one.

    Give `domains` or `members`.

    Args:
        domains: one head for each of these domains, trained on the rows whose `domain` it is.
        members: so many heads, an ensemble: all see all rows, each with bootstrap weights and a start of its own.
        combine: of the standardised scores of a response. ``mean`` (with weights, where some were fitted);
            ``min``, the most doubtful one; ``mean_minus_std``, mean − k·std; ``gate``, the mean with weights that a
            router reads off the prompt, trained to tell its domain (domains only).
        k: standard deviations that ``mean_minus_std`` takes off.
    """

    domains: list[str] | None = None
    members: int | None = None
    combine: Combine = "mean"
    k: float = 1.0

    def __post_init__(self) -> None:
        if (self.domains is None) == (self.members is None):
            found = "neither" if self.domains is None else "both"
            raise ValueError(f"model.components: expected domains or members, found {found}.")
        if self.domains is not None:
            names = all(isinstance(name, str) for name in self.domains)
            distinct = names and len(set(self.domains)) == len(self.domains) >= 2
            _check(
                "domains",
                self.domains,
                distinct,
                "at least two different domains; for one, leave components out",
            )
        if self.members is not None:
            enough = type(self.members) is int and self.members >= 2
            _check(
                "members", self.members, enough, "a whole number of at least 2; for one, leave components out"
            )
        _check(
            "combine",
            self.combine,
            self.combine in get_args(Combine),
            f"one of {', '.join(get_args(Combine))}",
        )
        known = self.combine != "gate" or self.domains is not None
        _check("combine", self.combine, known, "another one with members: a gate tells domains apart")
        number = isinstance(self.k, int | float) and math.isfinite(self.k) and self.k >= 0
        _check("k", self.k, number, "a number of at least 0")

    @classmethod
    def of(cls, given: Components | dict[str, Any] | None) -> Components | None:
        """What a config, a checkpoint or an export holds, checked; None stays None.

        Raises:
            ValueError: a key that there is not, or a value that makes no sense; named as ``model.components.<key>``.
        """
        if given is None or isinstance(given, Components):
            return given
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise ValueError(
                    f"model.components.{name}: no such key.{hint} There are: {', '.join(known)}."
                )
        return cls(**given)

    def plain(self) -> dict[str, Any]:
        """Plain values, for checkpoints and ``config.json``."""
        return asdict(self)

    @property
    def count(self) -> int:
        """C, the number of heads."""
        return len(self.domains) if self.domains is not None else self.members or 0


def _check(name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"model.components.{name}: expected {expected}, found {value!r}.")


def combine_scores(
    standardised: Tensor,
    combine: Combine = "mean",
    k: float = 1.0,
    weights: Tensor | None = None,
    gate_logits: Tensor | None = None,
) -> Tensor:
    """One score a response from those of C components.

    ``mean``: Σ w_c r_c. ``gate``: the same with w = softmax(gate logits) of the response's prompt. ``min``: min_c r_c.
    ``mean_minus_std``: mean_c r_c − k·std_c r_c, the population's. Components have to be on one scale first.

    Args:
        standardised: scores of the components, ``[N, C]``.
        combine: how.
        k: standard deviations taken off by ``mean_minus_std``.
        weights: of the components in ``mean``, ``[C]``, summing to 1; None = 1/C each.
        gate_logits: ``[N, C]``, for ``gate``.
    Returns:
        ``[N]``, in the scale of `standardised`.
    Raises:
        ValueError: ``gate`` without its logits.
    """
    if combine == "min":
        return standardised.amin(-1)
    if combine == "mean_minus_std":
        return standardised.mean(-1) - k * disagreement(standardised)
    if combine == "gate":
        if gate_logits is None:
            raise ValueError("combine: gate needs the gate's logits for each response.")
        weights = gate_logits.softmax(-1)
    # a product and a sum: a matrix product would be taken in bf16 under autocast
    return standardised.mean(-1) if weights is None else (standardised * weights).sum(-1)


def disagreement(standardised: Tensor) -> Tensor:
    """Population standard deviation of a response's scores over the C components, ``[N, C]`` to ``[N]``."""
    return standardised.std(-1, correction=0)


def fit_weights(better_scores: Tensor, worse_scores: Tensor) -> Tensor:
    """Weights of the components that make m judged pairs of a new domain likeliest.

    argmin over the simplex (w ≥ 0, Σ w = 1) of −mean log σ(Σ_c w_c (r_c(better) − r_c(worse))), which is convex in w.
    Accelerated projected gradient from w = 1/C; components that say the same share their weight.

    Args:
        better_scores: standardised scores of the preferred responses, ``[m, C]``.
        worse_scores: of the others, ``[m, C]``.
    Returns:
        ``[C]``, fp32, on the CPU or wherever the scores are. A component that does not help has exactly 0.
    Raises:
        ValueError: no pairs, or a score that is not finite.
    Source:
        Beck and Teboulle 2009 (FISTA), with the restart of O'Donoghue and Candès 2015.
    """
    differences = (better_scores - worse_scores).detach().double()
    if differences.dim() != 2 or differences.shape[0] == 0 or not differences.isfinite().all():
        raise ValueError(
            f"Few-shot weights need finite scores [pairs, components] of at least one pair, found the shape "
            f"{tuple(differences.shape)}."
        )
    count, size = differences.shape
    weights = differences.new_full((size,), 1 / size)
    # Lipschitz constant of the gradient: the logistic's curvature is at most 1/4
    step = 4 * count / torch.linalg.matrix_norm(differences, 2).square().clamp(min=1e-12)
    ahead, momentum = weights, 1.0
    for _ in range(FIT_STEPS):
        gradient = -(torch.sigmoid(-differences @ ahead) @ differences) / count
        following = _onto_simplex(ahead - step * gradient)
        if gradient @ (following - weights) > 0:  # the momentum leads uphill
            momentum = 1.0
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / grown * (following - weights)
        weights, momentum = following, grown
    return weights.float()


def _onto_simplex(point: Tensor) -> Tensor:
    """The nearest point with entries ≥ 0 that sum to 1 (Duchi et al. 2008)."""
    ordered = point.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype, device=point.device)
    support = int((ordered > excess).sum())
    return (point - excess[support - 1]).clamp(min=0)

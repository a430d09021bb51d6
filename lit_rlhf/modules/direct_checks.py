"""What the fields of the direct methods have to be, each by itself and with the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from lit_rlhf.modules.base import check_argument
from lit_rlhf.modules.direct_methods import METHODS, DivergenceName, Loss, Ties

UNSET: dict[str, Any] = {
    "label_smoothing": 0.0,
    "flip_rate": 0.0,
    "margin": None,
    "divergence": "reverse_kl",
    "desirable_weight": 1.0,
    "undesirable_weight": 1.0,
    "odds_coef": None,
    "length_desensitization": None,
    "wpo": False,
}
"""Fields that some methods take, at the values that ask for nothing."""


def check_fields(given: Mapping[str, Any]) -> None:
    """Refuse fields of :class:`DirectObjective` that make no sense, by themselves or with the method.

    Args:
        given: all of them by name.

    Raises:
        ValueError: by the config key.
    """
    kinds = {"loss": Loss, "ties": Ties, "divergence": DivergenceName}
    for name, kind in kinds.items():
        if given[name] not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise ValueError(f"model.{name}: expected one of {known}, found {given[name]!r}.")
    loss, method = given["loss"], METHODS[given["loss"]]
    for name in ("beta", "odds_coef"):
        check_argument(name, given[name], given[name] is None or given[name] > 0, "more than 0, or null")
    for name in ("label_smoothing", "flip_rate"):
        check_argument(name, given[name], 0 <= given[name] < 0.5, "0 to less than 0.5")
    for name in ("desirable_weight", "undesirable_weight"):
        check_argument(name, given[name], given[name] > 0, "more than 0")
    coef, margin, alpha = given["sft_coef"], given["margin"], given["alpha"]
    check_argument("sft_coef", coef, coef is None or coef >= 0, "0 or more, or null")
    if margin is not None and margin != "data":
        check_argument("margin", margin, margin >= 0, "0 or more, data, or null")
    if given["beta"] is not None and method.beta is None:
        raise ValueError(
            f"model.beta: {loss} has none. Leave it out (--model.beta null where a config gives it)."
        )
    tail = given["length_desensitization"]
    check_argument("length_desensitization", tail, tail is None or 0 <= tail < 1, "0 to less than 1, or null")
    for name, unset in UNSET.items():
        nothing = (unset, 0) if name == "margin" else (unset,)
        if name not in method.takes and given[name] not in nothing:
            takers = [other for other, known in METHODS.items() if name in known.takes]
            raise ValueError(
                f"model.{name}: {loss} has no such term; it is one of {', '.join(takers)}. Set it to "
                f"{'null' if unset is None else unset}."
            )
    if loss == "robust" and not given["flip_rate"]:
        raise ValueError("model.flip_rate: robust corrects for a known share of flipped labels: give it.")
    if loss == "orpo" and coef:
        raise ValueError("model.sft_coef: orpo has the likelihood of better responses in it; set it to null.")
    if (alpha is None) == (given["divergence"] == "alpha"):
        raise ValueError(f"model.alpha: goes with divergence: alpha, and it alone; found {alpha}.")
    check_argument("alpha", alpha, alpha is None or 0 < alpha <= 1, "more than 0, to 1")


def check_reference(
    loss: Loss, reference: str | None, storage: str, length_desensitization: float | None = None
) -> None:
    """Refuse a reference where the method has none, or in a place that the method cannot have it in.

    Raises:
        ValueError: by its config key.
    """
    if not METHODS[loss].reference and reference is not None:
        raise ValueError(f"model.reference: {loss} has no reference; leave it out, found {reference}.")
    if not METHODS[loss].reference and storage != "frozen":
        raise ValueError(
            f"model.reference_storage: {loss} has no reference, and holds none; leave it out, found {storage}."
        )
    if loss == "kto" and storage == "precomputed":
        raise ValueError(
            "model.reference_storage: kto looks at prompts with other prompts' responses, which change with the order "
            "of rows and cannot be precomputed. Use frozen, or adapter_off."
        )
    if length_desensitization is not None and storage == "precomputed":
        raise ValueError(
            "model.reference_storage: length_desensitization weighs single tokens, and precomputed keeps one number a "
            "response. Use frozen, or adapter_off."
        )

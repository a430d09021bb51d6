"""Labels: single responses that somebody called desirable or not, and those of one prompt put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_rlhf.data.conversations import Mismatch, show
from lit_rlhf.data.judgements import stated_weight
from lit_rlhf.records import Label, Response

LABEL_LOSSES = ("kto", "bco", "apo_zero")
"""Losses that learn from a response by itself; ``lit_rlhf.modules.direct_methods.METHODS`` has how."""
NOT_COMPARED = (
    "it is judged by itself, and so compared with nothing: take DPOModule with model.loss "
    f"{', '.join(LABEL_LOSSES[:-1])} or {LABEL_LOSSES[-1]}, or give pairs"
)
"""What to do where a module learns from comparisons alone."""


def is_label_row(fields: Mapping[str, Any]) -> bool:
    """Whether a row of pairs is one response with a `label`."""
    sides = ("chosen", "rejected", "response_a", "response_b")
    return "label" in fields and not any(name in fields for name in sides)


def read_label(fields: Mapping[str, Any], response: Response) -> Label:
    """What a row's `label` says of its response.

    Text is read too where it says true or false, since that is what cells of CSV are. Numbers are not: 1 may be a
    rating.

    Raises:
        Mismatch: the label is neither true nor false, the response is empty, or something else is said of it.
    """
    label = fields["label"]
    if isinstance(label, str) and label.lower() in ("true", "false"):
        label = label.lower() == "true"
    if not isinstance(label, bool):
        raise Mismatch("`label` to be true (desirable) or false (undesirable)", show(label))
    for name in ("tie", "target", "margin"):
        if name in fields:
            raise Mismatch(f"no `{name}` beside `label`, which is of one response", show(fields[name]))
    texts = [response] if isinstance(response, str) else [turn["content"] for turn in response]
    if not any(texts):
        raise Mismatch("some text in `response`", "an empty one")
    return Label(label, stated_weight(fields))

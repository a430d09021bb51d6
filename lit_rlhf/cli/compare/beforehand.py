"""What is known to fail is refused before anything is trained, and not method by method and seed by seed."""

from __future__ import annotations

from collections.abc import Sequence

from lit_rlhf.cli.compare.functions import check_function, functions_of, is_function
from lit_rlhf.cli.compare.methods import Method
from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.refusal import refuse

DATA_OPTIONS = {"comparisons": "--data FILE, or ", "prompts": "--prompts FILE, or "}
"""What gives the data of all methods of a kind."""


def check_beforehand(comparison: Comparison, methods: Sequence[Method]) -> None:
    """Refuse methods without data or a judge, and functions that cannot be imported.

    Raises:
        Refusal: with the first of them, and what to do.
    """
    for option, spec in (("--gold", comparison.gold), ("--reward", comparison.reward)):
        if spec is not None and (option == "--gold" or is_function(spec)):
            check_function(option, spec)
    for method in methods:
        check_data(method)
        check_judge(method)
        for key, path in functions_of(method).items():
            check_function(f"--configs {method.config}: {key}", path)


def check_data(method: Method) -> None:
    """Refuse a method without rows to learn from."""
    data = method.arguments("data")
    if "path" in data and not data["path"]:
        option = DATA_OPTIONS.get(method.learns_from, "")
        refuse(
            f"--configs {method.config}: no {method.learns_from} to learn from.",
            f"Give {option}data.init_args.path in it.",
        )


def check_judge(method: Method) -> None:
    """Refuse a method whose responses nothing judges, or two judges."""
    model = method.arguments("model")
    if "reward" not in model or "annotator" not in model:
        return  # a reward that must be given is missed where the config is read
    if (model["reward"] is None) == (model["annotator"] is None):
        found = "neither" if model["reward"] is None else "both"
        refuse(
            f"--configs {method.config}: {method.class_name} expects a reward or an annotator to judge its responses, "
            f"found {found}.",
            "Give --reward SPEC, or model.init_args.annotator in it."
            if found == "neither"
            else "Take one of them out.",
        )

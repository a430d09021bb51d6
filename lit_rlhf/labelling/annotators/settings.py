"""Who judges, in words and numbers: the options of ``lit-rlhf label annotate``, which a training config takes too."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from lit_rlhf.labelling.verdicts import MOST_RANKED

OF_SCORES = ("temperature", "flips", "seed", "tie_width", "slight_width", "rating_bounds", "columns")
"""Options that go with scores alone."""
OF_LANGUAGE_MODELS = ("llm_request", "both_orders", "requests_per_minute", "retries", "concurrency")
"""Options that go with language models alone."""

NAMES_THE_SOURCE = ("model", "source", "policy", "checkpoint", "sampling", "generator")
"""What a field is called that says what wrote a response."""
TOLD_ANYWAY = ("prompts", "completions", "finished")
"""Arguments that a reward function gets whatever fields it is told."""
FIELDS_OF_REQUESTS = {"model", "messages", "stream", "n"}
"""Fields of a request to a language model that are not the user's to set."""

TYPES: tuple[tuple[tuple[str, ...], tuple[type, ...], str], ...] = (
    (("batch_size", "concurrency", "retries", "seed"), (int,), "a whole number"),
    (("timeout", "temperature", "tie_width", "flips"), (int, float), "a number"),
    (("requests_per_minute",), (int, float, type(None)), "a number, or null"),
    (("both_orders",), (bool,), "true or false"),
    (("device",), (str,), "text"),
    (("llm_model", "guidelines", "key_env"), (str, type(None)), "text, or null"),
)
"""Options of one type, that type, and what it is called."""


class AnnotatorError(ValueError):
    """An option that is wrong, by its name where it was given, with hints on what to do."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(" ".join([message, *hints]))
        self.message, self.hints = message, hints


@dataclass(frozen=True)
class Annotator:
    """Who judges responses: a rule, a reward model, a reward server or a language model, each with its own options.

    Args:
        annotator: the dotted path of a reward function, f(prompts, completions, **columns) -> list of scores; a reward
            model's folder or hub name; the address of a `lit-rlhf serve`; or, with `llm_model`, the address of a
            language model, such as http://localhost:8000/v1.
        timeout: seconds that one request or one call of a function may take.
        key_env: the environment variable with the key or token that the address asks for.
        tie_width: by scores: those that differ by at most this are a tie.
        columns: by scores: fields of the rows that the function is told besides prompt, response and `finished`.
        temperature: by scores: scale of Gumbel noise on them, as in Bradley and Terry's model of choices.
        flips: by scores: share of judgements turned the wrong way round, from 0 to 1.
        seed: of the noise, and of the order in which a language model is shown the responses.
        batch_size: by a reward model: responses in one forward.
        device: by a reward model: auto, cpu, cuda, cuda:1, mps. In training auto is where the policy is.
        llm_model: by a language model: its name at the address, which answers /chat/completions.
        guidelines: by a language model: a text file that says what to prefer. A labelling file has its own.
        both_orders: by a language model: ask in both orders; where the two answers differ it is a tie.
        llm_request: by a language model: more fields of the request in place of {temperature: 0}, such as {max_tokens:
            500}.
        concurrency: by a language model: questions asked at once.
        requests_per_minute: by a language model: requests started at the most; null = no limit.
        retries: by a language model: tries of a request after the first.

    Raises:
        AnnotatorError: an option out of its range, or of another kind of annotator.
    """

    annotator: str
    timeout: float = 120.0
    key_env: str | None = None
    tie_width: float = 0.0
    columns: tuple[str, ...] = ()
    temperature: float = 0.0
    flips: float = 0.0
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"
    llm_model: str | None = None
    guidelines: str | None = None
    both_orders: bool = False
    llm_request: dict[str, Any] = field(default_factory=lambda: {"temperature": 0})
    concurrency: int = 4
    requests_per_minute: float | None = None
    retries: int = 6

    def __post_init__(self) -> None:
        given = {name for name, value in defaults().items() if getattr(self, name) != value}
        # a language model's too: it is shown the responses in an order that is drawn
        check_annotator(vars(self), given - {"seed"}, "model.annotator.{}".format)
        if self.guidelines is not None and self.llm_model is None:
            raise AnnotatorError(
                "model.annotator.guidelines: goes with a language model (model.annotator.llm_model)."
            )

    def check_samples(self, samples_per_prompt: int) -> None:
        """Refuse more responses of a prompt than can be ranked at once.

        Raises:
            AnnotatorError: it is a language model, and they are more than there are letters for.
        """
        if self.llm_model is not None and samples_per_prompt > MOST_RANKED:
            raise AnnotatorError(
                f"model.samples_per_prompt: a language model ranks at most {MOST_RANKED} responses at once, found "
                f"{samples_per_prompt}."
            )


def defaults() -> dict[str, Any]:
    """What the options are where they are not given, by name; the one that has to be given is not among them."""
    made = {
        one.name: one.default_factory() for one in fields(Annotator) if one.default_factory is not MISSING
    }
    return made | {one.name: one.default for one in fields(Annotator) if one.default is not MISSING}


def is_address(spec: str) -> bool:
    """Whether the annotator is behind an address: a reward server or a language model."""
    return urlsplit(spec).scheme in ("http", "https") and "://" in spec


def key_of(variable: str | None, called: str) -> str | None:
    """The key in an environment variable; None where none is asked for.

    Args:
        variable: its name.
        called: what the name was given as, for errors.

    Raises:
        AnnotatorError: there is none, or one that no header can carry.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        found = "letters that a key cannot have" if key else "nothing"
        raise AnnotatorError(
            f"{called} {variable}: expected a key in that environment variable, found {found}.",
            f"Set it first: export {variable}=...",
        )
    return key


def check_annotator(options: Mapping[str, Any], given: Collection[str], called: Callable[[str], str]) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Args:
        options: by name, all those of :class:`Annotator`, and others.
        given: the names of those that were asked for, others left out.
        called: what an option is called where it was given, from its name.

    Raises:
        AnnotatorError: with what was expected and found, by those names.
    """
    check_kind(options, given, called)
    check_types(options, called)
    for name, least in (("batch_size", 1), ("concurrency", 1), ("retries", 0)):
        _check(options[name] >= least, called(name), f"{least} or more", options[name])
    for name in ("temperature", "tie_width"):
        _check(0 <= options[name] < math.inf, called(name), "0 or more", options[name])
    _check(0 <= options["flips"] <= 1, called("flips"), "a share from 0 to 1", options["flips"])
    for name in ("timeout", "requests_per_minute"):
        value = options[name]
        _check(value is None or 0 < value < math.inf, called(name), "more than 0", value)
    for column in options["columns"]:
        if column in TOLD_ANYWAY:
            raise AnnotatorError(
                f"{called('columns')} {column}: a function is told that anyway; leave it out."
            )
        if column == "completion_ids":
            raise AnnotatorError(f"{called('columns')} {column}: an annotator sees text alone; leave it out.")
        if any(word in column.lower() for word in NAMES_THE_SOURCE):
            raise AnnotatorError(
                f"{called('columns')} {column}: says what wrote a response, which no annotator is told.",
                "A field that says something else is given to the function under another name.",
            )
    request = options["llm_request"]
    if not isinstance(request, dict):
        raise AnnotatorError(
            f'{called("llm_request")}: expected an object such as {{"max_tokens": 500}}, found {request!r}.'
        )
    if taken := sorted(FIELDS_OF_REQUESTS & set(request)):
        raise AnnotatorError(f"{called('llm_request')}: {taken[0]} is not to be set here.")
    try:
        json.dumps(request)
    except TypeError as error:
        raise AnnotatorError(f"{called('llm_request')}: expected what JSON can spell: {error}.") from None


def check_kind(options: Mapping[str, Any], given: Collection[str], called: Callable[[str], str]) -> None:
    """Refuse options of another kind of annotator, and an address that may be either; see :func:`check_annotator`."""
    spec = options["annotator"]
    if not isinstance(spec, str) or not spec.strip():
        raise AnnotatorError(
            f"{called('annotator')}: expected a dotted path, a folder or an address, found {spec!r}."
        )
    address, language = is_address(spec), options["llm_model"] is not None
    named = f"{called('annotator')} {spec}"
    if language and not address:
        raise AnnotatorError(
            f"{named}: expected the address of the language model, such as http://localhost:8000/v1."
        )
    if address and not language and urlsplit(spec).path.rstrip("/").endswith(("/v1", "/chat/completions")):
        raise AnnotatorError(
            f"{named}: looks like a language model's address; {called('llm_model')} NAME says which model.",
            "Without it an address is that of a reward server, such as `lit-rlhf serve` runs, which has no /v1.",
        )
    if address and (urlsplit(spec).username is not None or urlsplit(spec).password is not None):
        raise AnnotatorError(
            f"{called('annotator')}: expected an address without a user or password, which would be kept in a file.",
            f"Put the key into an environment variable, and give its name as {called('key_env')}.",
        )
    if options["key_env"] is not None and not address:
        raise AnnotatorError(f"{called('key_env')}: goes with an address, and {named} is none.")
    for name in OF_SCORES if language else OF_LANGUAGE_MODELS:
        if name in given:
            kind = "scores" if language else f"a language model ({called('llm_model')})"
            hints = [f"What the model is sent besides stands in {called('llm_request')}."]
            raise AnnotatorError(
                f"{called(name)}: goes with {kind}, not with this annotator.",
                *(hints if name == "temperature" else []),
            )


def check_types(options: Mapping[str, Any], called: Callable[[str], str]) -> None:
    """Refuse text where a number belongs, and the like; see :func:`check_annotator`."""
    for names, kinds, expected in TYPES:
        for name in names:
            value = options[name]
            # true is an int, and no number that somebody means
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise AnnotatorError(f"{called(name)}: expected {expected}, found {value!r}.")
    columns = options["columns"]
    if not isinstance(columns, list | tuple) or not all(isinstance(column, str) for column in columns):
        raise AnnotatorError(f"{called('columns')}: expected a list of fields' names, found {columns!r}.")


def _check(holds: bool, name: str, expected: str, found: float) -> None:
    if not holds:
        raise AnnotatorError(f"{name}: expected {expected}, found {found:g}.")

"""An annotator's options: refused by the name that they were given under, and kept by configs and checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lit_rlhf.cli.label.annotate import annotator_of, parse
from lit_rlhf.labelling.annotators.settings import (
    Annotator,
    AnnotatorError,
    check_annotator,
    defaults,
    key_of,
)
from lit_rlhf.modules.base import checked_settings

LANGUAGE = {"annotator": "http://h/v1", "llm_model": "m"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"annotator": "  "}, "annotator: expected a dotted path, a folder or an address, found '  '"),
        ({"annotator": "a.b", "llm_model": "m"}, "annotator a.b: expected the address of the language model"),
        ({"annotator": "http://h/v1"}, "looks like a language model's address; model.annotator.llm_model NAME"),
        ({"annotator": "http://u:p@h"}, "annotator: expected an address without a user or password"),
        ({"annotator": "a.b", "key_env": "K"}, "key_env: goes with an address, and model.annotator.annotator a.b"),
        ({"annotator": "a.b", "both_orders": True}, "both_orders: goes with a language model"),
        ({"annotator": "a.b", "retries": 3}, "retries: goes with a language model (model.annotator.llm_model)"),
        ({"annotator": "a.b", "guidelines": "g.md"}, "guidelines: goes with a language model"),
        ({**LANGUAGE, "flips": 0.5}, "flips: goes with scores, not with this annotator."),
        ({**LANGUAGE, "temperature": 1.0}, "What the model is sent besides stands in model.annotator.llm_request."),
        ({**LANGUAGE, "llm_request": ["a"]}, "llm_request: expected an object such as"),
        ({**LANGUAGE, "llm_request": {"n": 2}}, "llm_request: n is not to be set here"),
        ({**LANGUAGE, "llm_request": {"stop": {1}}}, "llm_request: expected what JSON can spell"),
        ({**LANGUAGE, "concurrency": 0}, "concurrency: expected 1 or more, found 0"),
        ({**LANGUAGE, "retries": -1}, "retries: expected 0 or more, found -1"),
        ({**LANGUAGE, "requests_per_minute": 0.0}, "requests_per_minute: expected more than 0, found 0"),
        ({"annotator": "a.b", "batch_size": 0}, "batch_size: expected 1 or more, found 0"),
        ({"annotator": "a.b", "timeout": 0.0}, "timeout: expected more than 0, found 0"),
        ({"annotator": "a.b", "temperature": float("nan")}, "temperature: expected 0 or more, found nan"),
        ({"annotator": "a.b", "tie_width": -1.0}, "tie_width: expected 0 or more, found -1"),
        ({"annotator": "a.b", "flips": 1.5}, "flips: expected a share from 0 to 1, found 1.5"),
        ({"annotator": "a.b", "columns": "answer"}, "columns: expected a list of fields' names, found 'answer'"),
        ({"annotator": "a.b", "columns": [3]}, "columns: expected a list of fields' names, found [3]"),
        ({"annotator": "a.b", "columns": ("finished",)}, "columns finished: a function is told that anyway"),
        ({"annotator": "a.b", "columns": ("completion_ids",)}, "columns completion_ids: an annotator sees text"),
        ({"annotator": "a.b", "temperature": "hot"}, "temperature: expected a number, found 'hot'"),
        ({"annotator": "a.b", "batch_size": 2.5}, "batch_size: expected a whole number, found 2.5"),
        ({"annotator": "a.b", "seed": True}, "seed: expected a whole number, found True"),
        ({"annotator": "a.b", "timeout": None}, "timeout: expected a number, found None"),
        ({**LANGUAGE, "both_orders": "yes"}, "both_orders: expected true or false, found 'yes'"),
        ({**LANGUAGE, "requests_per_minute": "6"}, "requests_per_minute: expected a number, or null, found '6'"),
        ({"annotator": "a.b", "columns": ("policy_a",)}, "columns policy_a: says what wrote a response"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_config_key(given: dict[str, Any], why: str) -> None:
    with pytest.raises(AnnotatorError) as error:
        Annotator(**given)
    assert str(error.value).startswith("model.annotator.") and why in str(error.value)


def test_a_language_model_may_have_a_seed_of_its_orders() -> None:
    assert Annotator(**LANGUAGE, seed=3).seed == 3


def test_a_language_model_ranks_as_many_as_there_are_letters_for() -> None:
    Annotator("a.b").check_samples(100)
    Annotator(**LANGUAGE).check_samples(9)
    with pytest.raises(AnnotatorError, match=r"model.samples_per_prompt: .* at most 9 .* found 10"):
        Annotator(**LANGUAGE).check_samples(10)


def test_the_same_mistake_is_named_by_a_flag_where_that_gave_it() -> None:
    with pytest.raises(AnnotatorError, match=r"^--tie-width: expected 0 or more, found -1\.$"):
        annotator_of(parse(["--db", "f", "--name", "n", "--annotator", "a.b", "--tie-width", "-1"]))


def test_flags_and_fields_have_the_same_names_and_defaults() -> None:
    flags = vars(parse(["--db", "f", "--name", "n", "--annotator", "a.b"]))
    only_flags = {"db", "name", "limit", "slight_width", "rating_bounds"}
    assert set(flags) - only_flags == {"annotator", *defaults()} - {"guidelines"}
    assert annotator_of(parse(["--db", "f", "--name", "n", "--annotator", "a.b"])) == Annotator("a.b")


def test_what_is_given_counts_even_where_it_is_the_default() -> None:
    options = {**defaults(), **LANGUAGE}
    check_annotator(options, [], str)
    with pytest.raises(AnnotatorError, match="flips: goes with scores"):
        check_annotator(options, ["flips"], str)


class Phase:
    """Takes an annotator.

    Args:
        annotator: who judges.
    """

    def __init__(self, annotator: Annotator | None = None) -> None:
        self.annotator = annotator


def test_a_config_holds_it_and_a_checkpoint_too(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Phase, "model")
    config = parser.parse_string(
        "model: {annotator: {annotator: http://h/v1, llm_model: m, llm_request: {max_tokens: 5}, both_orders: true}}"
    )
    again = parser.parse_string(parser.dump(config))
    wanted = Annotator("http://h/v1", llm_model="m", llm_request={"max_tokens": 5}, both_orders=True)
    assert parser.instantiate(again).model.annotator == wanted
    assert checked_settings(Annotator, "annotator", asdict(wanted)) == wanted
    scores = parser.parse_string("model: {annotator: {annotator: a.b, columns: [answer], flips: 0.25}}")
    assert parser.instantiate(scores).model.annotator == Annotator("a.b", columns=("answer",), flips=0.25)
    with pytest.raises(SystemExit):
        parser.parse_args(["--model.annotator.help"])
    assert "share of judgements turned the wrong way round" in " ".join(capsys.readouterr().out.split())


def test_a_key_is_read_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of(None, "k") is None
    monkeypatch.setenv("KEY_OF_THE_TEST", " secret\n")
    assert key_of("KEY_OF_THE_TEST", "k") == "secret"
    monkeypatch.setenv("KEY_OF_THE_TEST", "schlüssel")
    with pytest.raises(AnnotatorError, match=r"k KEY_OF_THE_TEST: .*letters that a key cannot have"):
        key_of("KEY_OF_THE_TEST", "k")
    monkeypatch.delenv("KEY_OF_THE_TEST")
    with pytest.raises(AnnotatorError, match=r"found nothing\. Set it first: export KEY_OF_THE_TEST="):
        key_of("KEY_OF_THE_TEST", "k")


def test_options_are_read_without_torch() -> None:
    code = "import sys, lit_rlhf.cli.label.annotate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

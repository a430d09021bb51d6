"""Fields of the direct methods that make no sense, by themselves or together, are refused by their config keys."""

import pytest

from tests.modules.test_direct_methods import make_module


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "dpo"}, r"model\.loss: expected one of sigmoid, robust, .*, found 'dpo'"),
        ({"ties": "rao_kupper"}, r"model\.ties: expected one of half, drop, found"),
        ({"divergence": "kl"}, r"model\.divergence: expected one of reverse_kl, .*, found 'kl'"),
        ({"beta": 0.0}, r"model\.beta: expected more than 0, or null, found 0\.0"),
        ({"label_smoothing": 0.5}, r"model\.label_smoothing: expected 0 to less than 0\.5"),
        ({"loss": "robust", "flip_rate": 0.5}, r"model\.flip_rate: expected 0 to less than 0\.5"),
        ({"loss": "robust"}, r"model\.flip_rate: robust corrects for a known share of flipped labels: give it"),
        ({"loss": "robust", "flip_rate": 0.1, "label_smoothing": 0.1}, r"model\.label_smoothing: robust has no such"),
        ({"flip_rate": 0.1}, r"model\.flip_rate: sigmoid has no such term; it is one of robust\. Set it to 0\.0"),
        ({"loss": "ipo", "label_smoothing": 0.1}, r"model\.label_smoothing: ipo has no such term"),
        ({"loss": "ipo", "margin": 1.0}, r"model\.margin: ipo has no such term; it is one of sigmoid, simpo, slic"),
        ({"loss": "plackett_luce", "margin": "data"}, r"model\.margin: plackett_luce has no such term.*to null"),
        ({"margin": -1.0}, r"model\.margin: expected 0 or more, data, or null, found -1\.0"),
        ({"sft_coef": -1.0}, r"model\.sft_coef: expected 0 or more, or null"),
        ({"loss": "orpo", "sft_coef": 0.5}, r"model\.sft_coef: orpo has the likelihood of better responses in it"),
        ({"loss": "orpo", "beta": 0.1}, r"model\.beta: orpo has none\. Leave it out \(--model\.beta null where"),
        ({"loss": "slic", "beta": 0.1}, r"model\.beta: slic has none"),
        ({"odds_coef": 0.1}, r"model\.odds_coef: sigmoid has no such term; it is one of orpo\. Set it to null"),
        ({"loss": "orpo", "odds_coef": 0.0}, r"model\.odds_coef: expected more than 0"),
        ({"desirable_weight": 2.0}, r"model\.desirable_weight: sigmoid has no such term; it is one of kto"),
        ({"loss": "kto", "undesirable_weight": 0.0}, r"model\.undesirable_weight: expected more than 0"),
        ({"loss": "hinge", "divergence": "forward_kl"}, r"model\.divergence: hinge has no such term"),
        ({"divergence": "alpha"}, r"model\.alpha: goes with divergence: alpha, and it alone; found None"),
        ({"alpha": 0.5}, r"model\.alpha: goes with divergence: alpha, and it alone; found 0\.5"),
        ({"length_desensitization": 1.0}, r"model\.length_desensitization: expected 0 to less than 1, or null, found"),
        ({"length_desensitization": -0.1}, r"model\.length_desensitization: expected 0 to less than 1, or null"),
        ({"divergence": "alpha", "alpha": 1.5}, r"model\.alpha: expected more than 0, to 1, found 1\.5"),
    ],
)  # fmt: skip
def test_fields_are_refused_by_key(settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        make_module(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "ipo", "margin": 0.0, "label_smoothing": 0.0, "desirable_weight": 1.0},
        {"loss": "plackett_luce", "margin": 0.0, "length_desensitization": None, "wpo": False},
        {"loss": "simpo", "reference_storage": "frozen"},
        {"loss": "aot", "label_smoothing": 0.1},
        {"divergence": "alpha", "alpha": 1.0},
    ],
)
def test_what_asks_for_nothing_is_not_refused(settings: dict):
    make_module(**settings)

"""What is drawn follows the stated distribution: against probabilities worked out by hand, and to the last id."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.ops.noise import counted_uniform, counter_key
from lit_rlhf.rollout.drawing import Distribution, draw, invert_cumulative
from lit_rlhf.rollout.settings import SamplingSettings
from tests.rollout.engine import keys_for, sample, small_llama

V, STOP, COUNT = 9, 8, 20_000
LOGITS = np.log([0.30, 0.22, 0.15, 0.11, 0.08, 0.06, 0.04, 0.03, 0.01]) + 2.0
SEEN = [0, 3, 8]
OPTIONS = {
    "temperature": {"temperature": 0.5},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.6},
    "top-p of one token": {"top_p": 0.1},
    "min-p": {"min_p": 0.3},
    "penalty": {"repetition_penalty": 2.0},
    "bias": {"logit_bias": {6: 2.5, 0: -1.0}},
    "ban by bias": {"logit_bias": {0: float("-inf")}},
    "least length": {"min_new_tokens": 2},
}
COMBINED = {
    "+".join(pair): {**OPTIONS[pair[0]], **OPTIONS[pair[1]]}
    for pair in itertools.combinations(OPTIONS, 2)
    if not {"top-p", "top-p of one token"} >= set(pair) and not {"bias", "ban by bias"} >= set(pair)
}
ALL = {
    "temperature": 1.5,
    "top_k": 7,
    "top_p": 0.9,
    "min_p": 0.1,
    "repetition_penalty": 1.3,
    "min_new_tokens": 2,
}


def exact(options: dict, logits: np.ndarray = LOGITS) -> np.ndarray:
    """Probabilities in the order of transformers, by the definitions of the papers, one token after another."""
    logits = logits.copy()
    for token, bias in (options.get("logit_bias") or {}).items():
        logits[token] += bias
    penalty = options.get("repetition_penalty", 1.0)
    for token in SEEN:
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    if options.get("min_new_tokens"):
        logits[STOP] = -np.inf
    logits = logits / options.get("temperature", 1.0)
    allowed = np.ones(len(logits), dtype=bool)

    def probabilities() -> np.ndarray:
        weights = np.where(allowed, np.exp(logits), 0.0)
        return weights / weights.sum()

    if "top_k" in options:
        allowed[np.argsort(-logits)[options["top_k"] :]] = False
    if "top_p" in options:
        now, so_far = probabilities(), 0.0
        for token in np.argsort(-now):  # the most likely, until they have the probability together
            allowed[token] = allowed[token] and so_far < options["top_p"]
            so_far += now[token]
    if "min_p" in options:
        now = probabilities()
        allowed &= now >= options["min_p"] * now.max()
    return probabilities()


def chi_square(drawn: torch.Tensor, probabilities: np.ndarray) -> float:
    """Pearson's statistic; what cannot be drawn must not have been."""
    counts = torch.bincount(drawn, minlength=len(probabilities)).numpy()
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * counts.sum()
    return float(((counts[possible] - expected) ** 2 / expected).sum())


BOUND = 32.0
"""8 degrees of freedom at the most exceed it once in ten thousand times; the keys are fixed, so always or never."""


@pytest.mark.parametrize("options", [{}, *OPTIONS.values(), *COMBINED.values(), ALL], ids=str)
def test_draws_follow_the_exact_probabilities(options: dict):
    distribution = Distribution(SamplingSettings(**options), [STOP], V, torch.device("cpu"))
    seen = torch.zeros(V, dtype=torch.bool)
    seen[SEEN] = True
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(COUNT, V)
    steps = torch.ones(COUNT, dtype=torch.long)
    expected = exact(options)
    drawn_from = distribution.of(logits, steps, seen.expand(COUNT, V))
    uniform = counted_uniform(counter_key(5, torch.arange(COUNT)), steps)
    tokens, logprobs, entropy = draw(drawn_from, uniform, with_entropy=True)
    assert chi_square(tokens, expected) < BOUND
    assert logprobs.numpy() == pytest.approx(np.log(expected[tokens.numpy()]), abs=1e-5)
    positive = expected[expected > 0]
    assert entropy[0].item() == pytest.approx(-(positive * np.log(positive)).sum(), abs=1e-5)


def test_the_least_length_is_over_after_so_many_tokens():
    distribution = Distribution(SamplingSettings(min_new_tokens=2), [STOP, 3], V, torch.device("cpu"))
    logits = torch.zeros(4, V)
    found = distribution.of(logits, torch.tensor([0, 1, 2, 3]), None)
    assert found.isinf().nonzero().tolist() == [[0, 3], [0, 8], [1, 3], [1, 8]]


def test_first_and_second_tokens_of_many_samples_follow_the_model():
    """From end to end: two tokens of many samples of one prompt, whose rows share it."""
    network = small_llama(vocab_size=6, initializer_range=0.5, bos_token_id=0, pad_token_id=2)
    settings = {"max_new_tokens": 2, "temperature": 0.8, "logit_bias": {1: -20.0}}
    found = sample(network, [[3, 4, 5]] * 4000, keys_for(4000, seed=2), **settings)
    with torch.no_grad():
        logits = network.causal_lm(torch.tensor([[3, 4, 5, token] for token in range(6)])).logits.double()
    logits[:, :, 1] -= 20
    first, second = (logits[:, place] / 0.8 for place in (2, 3))
    joint = first[0].softmax(-1)[:, None] * second.softmax(-1)
    joint[1] = 0  # an EOS has nothing behind it
    pairs = torch.tensor([ids for ids in found.response_ids if len(ids) == 2])
    assert len(pairs) > 3990
    joint = torch.where(joint * 4000 < 5, 0.0, joint)  # the statistic needs five expected in each
    pairs = pairs[joint[pairs[:, 0], pairs[:, 1]] > 0]
    assert len(pairs) > 3800
    drawn = pairs[:, 0] * 6 + pairs[:, 1]
    assert (
        chi_square(drawn, (joint / joint.sum()).flatten().numpy()) < 70
    )  # 35 degrees of freedom at the most


# ------------------------------------------------------------------------------ inverting the cumulative sums


@settings(max_examples=150, deadline=None)
@given(
    width=st.sampled_from([1, 2, 5, 127, 128, 129, 255, 256, 257, 640]),
    seed=st.integers(0, 2**32 - 1),
    filled=st.sampled_from([0.02, 0.3, 1.0]),
    places=st.lists(st.integers(0, 2**20 - 1), min_size=1, max_size=8),
)
def test_the_first_id_whose_cumulative_sum_is_above(width, seed, filled, places):
    """Whole numbers are summed without rounding in any order, so that the id is known for certain."""
    random = np.random.default_rng(seed)
    weights = np.where(random.random(width) < filled, random.integers(1, 9, width), 0)
    weights[random.integers(width)] = 3
    uniform = np.array(places) / 2**20
    expected = np.searchsorted(np.cumsum(weights), uniform * weights.sum(), side="right")
    rows = torch.tensor(weights, dtype=torch.float32).expand(len(places), width)
    assert invert_cumulative(rows, torch.tensor(uniform)).tolist() == expected.tolist()


@pytest.mark.parametrize("width", [1, 5, 127, 128, 129, 256, 300, 128_000, 128_001])
@pytest.mark.parametrize("place", ["first", "border", "behind the border", "last"])
def test_the_one_possible_id_is_taken_at_both_ends(width: int, place: str):
    token = {"first": 0, "border": min(127, width - 1), "behind the border": min(128, width - 1)}.get(
        place, width - 1
    )
    for weight in (1.0, 1e-30, 1e-40):  # one of them denormal
        probabilities = torch.zeros(3, width)
        probabilities[:, token] = weight
        uniform = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
        assert invert_cumulative(probabilities, uniform).tolist() == [token] * 3


def test_at_the_ends_the_first_and_the_last_possible_ids_are_taken():
    probabilities = torch.zeros(2, 500)
    probabilities[:, [3, 127, 128, 300]] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert invert_cumulative(probabilities, uniform).tolist() == [3, 300]


def test_a_large_vocabulary_is_drawn_from_with_even_steps():
    width, count = 128_000, 50
    uniform = (torch.arange(count).double() + 0.5) / count
    tokens = invert_cumulative(torch.full((1, width), 1 / width).expand(count, width), uniform)
    assert (tokens - (uniform * width).long()).abs().max() <= 1


def test_greedy_takes_the_most_likely_of_the_changed_logits():
    distribution = Distribution(
        SamplingSettings(temperature=0.0, logit_bias={4: 9.0}), [STOP], V, torch.device("cpu")
    )
    logits = torch.tensor(LOGITS, dtype=torch.float32)[None]
    tokens, logprobs, _ = draw(distribution.of(logits, torch.zeros(1, dtype=torch.long), None), None)
    assert tokens.tolist() == [4]
    assert logprobs.item() == pytest.approx(np.log(exact({"logit_bias": {4: 9.0}})[4]), abs=1e-5)


@pytest.mark.parametrize(("name", "given"), [("logit_bias", {V: 1.0, -1: 2.0}), ("stop_token_ids", (V, -1))])
def test_an_id_that_the_vocabulary_does_not_have_is_named(name: str, given):
    with pytest.raises(ValueError, match=rf"{name}: expected ids from 0 to 8, found \[9, -1\]"):
        Distribution(SamplingSettings(**{name: given}), [STOP], V, torch.device("cpu"))

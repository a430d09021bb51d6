"""The sampler against generate, against a fresh forward, and against exact probabilities."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.rollout.drawing import draw
from lit_rlhf.rollout.generate import left_padded
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings

PROMPTS = [[5, 6, 7, 8], [12], [40, 41, 42, 43, 44, 45, 46], [9, 10]]
EOS = 1


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=330, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval()


def networks(tiny_llama) -> dict[str, PolicyNetwork]:
    return {"llama": PolicyNetwork(tiny_llama.eval()), "gpt2": PolicyNetwork(gpt2())}


def sample(network, prompts, keys, **settings):
    return sample_responses(network, prompts, SamplingSettings(**settings), keys, EOS, with_entropy=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_tokens_are_those_of_generate(family, tiny_llama):
    network = networks(tiny_llama)[family]
    keys = counter_key(0, torch.arange(4))
    ours = sample(network, PROMPTS, keys, max_new_tokens=12, temperature=0.0).response_ids
    for prompt, response in zip(PROMPTS, ours, strict=True):
        row = network.causal_lm.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12, do_sample=False, eos_token_id=EOS, pad_token_id=2,
        )  # fmt: skip
        assert response == row[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sampled_logprobs_are_those_of_a_fresh_forward(family, tiny_llama):
    network = networks(tiny_llama)[family]
    sampled = sample(network, PROMPTS, counter_key(0, torch.arange(4)), max_new_tokens=10, temperature=0.7)
    for number, (prompt, response) in enumerate(zip(PROMPTS, sampled.response_ids, strict=True)):
        logits = network.causal_lm(torch.tensor([prompt + response])).logits[0] / 0.7
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        fresh = logprobs.gather(1, torch.tensor(response)[:, None]).squeeze(1)
        assert torch.allclose(sampled.logprobs[number, : len(response)], fresh, atol=1e-5)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        assert torch.allclose(sampled.entropy[number, : len(response)], entropy, atol=1e-4)


def test_a_response_does_not_depend_on_what_shares_its_batch(tiny_llama):
    network = networks(tiny_llama)["llama"]
    keys = counter_key(0, torch.arange(4))
    together = sample(network, PROMPTS, keys, max_new_tokens=20).response_ids
    alone = [
        sample(network, [p], keys[i : i + 1], max_new_tokens=20).response_ids[0]
        for i, p in enumerate(PROMPTS)
    ]
    assert together == alone
    reordered = sample(network, PROMPTS[::-1], keys.flip(0), max_new_tokens=20).response_ids
    assert reordered[::-1] == together


def test_global_random_state_is_neither_read_nor_moved(tiny_llama):
    network = networks(tiny_llama)["llama"]
    keys = counter_key(0, torch.arange(4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample(network, PROMPTS, keys, max_new_tokens=5).response_ids
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert sample(network, PROMPTS, keys, max_new_tokens=5).response_ids == first


def test_the_eos_ends_a_response_and_is_part_of_it(tiny_llama):
    """With the head pushed towards the EOS some rows end early and others run to the limit."""
    with torch.no_grad():
        tiny_llama.lm_head.weight[EOS] *= 6
    network = PolicyNetwork(tiny_llama.eval())
    prompts = PROMPTS * 16
    sampled = sample(network, prompts, counter_key(3, torch.arange(64)), max_new_tokens=8)
    ended = [response for response in sampled.response_ids if response[-1] == EOS]
    assert 0 < len(ended) < 64
    assert any(len(response) < 8 for response in ended)
    assert all(EOS not in response[:-1] for response in sampled.response_ids)
    assert sampled.truncated.tolist() == [response[-1] != EOS for response in sampled.response_ids]
    assert all(
        len(response) == 8 for response, cut in zip(sampled.response_ids, sampled.truncated.tolist()) if cut
    )
    assert (sampled.logprobs[0, len(sampled.response_ids[0]) :] == 0).all()


def test_drawn_tokens_follow_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))
    count = 20_000
    uniform = (torch.arange(count).double() + 0.5) / count
    for temperature, probabilities in ((1.0, [0.5, 0.25, 0.15, 0.1]), (0.5, [0.25, 0.0625, 0.0225, 0.01])):
        total = sum(probabilities)
        tokens, logprobs, _ = draw(logits.expand(count, 4) / temperature, uniform)
        shares = torch.bincount(tokens, minlength=4) / count
        assert shares.tolist() == pytest.approx([p / total for p in probabilities], abs=1e-4)
        assert logprobs[0].exp().item() == pytest.approx(probabilities[0] / total, abs=1e-5)


def test_extreme_uniform_numbers_give_valid_tokens():
    logits = torch.full((2, 5), -1e9)
    logits[:, 2] = 0.0
    tokens, _, _ = draw(logits, torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64))
    assert tokens.tolist() == [2, 2]


def test_training_mode_is_restored_and_off_meanwhile():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)).train()
    network = PolicyNetwork(model)  # with dropout 0.1: two samples in train mode would differ
    keys = counter_key(0, torch.arange(4))
    first = sample(network, [[5]] * 4, keys, max_new_tokens=5)
    second = sample(network, [[5]] * 4, keys, max_new_tokens=5)
    assert torch.equal(first.logprobs, second.logprobs)
    assert network.training and model.transformer.drop.training


def test_prompts_are_padded_on_the_left():
    ids, mask = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_an_empty_prompt_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        sample(networks(tiny_llama)["llama"], [[5], []], counter_key(0, torch.arange(2)), max_new_tokens=2)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_settings_out_of_range_name_the_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingSettings(**wrong)

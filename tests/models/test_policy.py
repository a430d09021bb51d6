"""The policy's log-probabilities against a plain forward of one sequence at a time."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import head
from lit_rlhf.models.loading import disable_dropout, load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.records import Tree


def trees_of(*responses_of_prompt: tuple[list[int], list[list[int]]]) -> list[Tree]:
    return [Tree(p, rs, [[True] * len(r) for r in rs]) for p, rs in responses_of_prompt]


TREES = trees_of(
    ([5, 6, 7, 8], [[9, 10, 1], [11, 1]]),
    ([12], [[13]]),
    ([5, 6], [[9, 10, 11, 12, 13, 1], [9, 10, 1], [7]]),
)


def by_hand(causal_lm, prompt: list[int], response: list[int], temperature: float = 1.0) -> list[float]:
    """log p of each response token from one unpadded row."""
    logits = causal_lm(torch.tensor([prompt + response])).logits[0] / temperature
    logprobs = logits.log_softmax(-1)
    return [logprobs[len(prompt) - 1 + t, token].item() for t, token in enumerate(response)]


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()


def gemma2() -> Gemma2ForCausalLM:
    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_logprobs_are_those_of_each_sequence_alone(family, temperature, tiny_llama):
    causal_lm = {"llama": lambda: tiny_llama, "gpt2": gpt2, "gemma2": gemma2}[family]()
    output = PolicyNetwork(causal_lm.eval())(pack_trees(TREES), temperature)
    number = 0
    for tree in TREES:
        for response in tree.response_ids:
            expected = by_hand(causal_lm, tree.prompt_ids, response, temperature)
            got = output.logprobs[number]
            assert got[: len(response)].tolist() == pytest.approx(expected, abs=2e-5)
            assert (got[len(response) :] == 0).all()
            number += 1


def test_uncounted_tokens_have_no_logprob_but_are_seen(tiny_llama):
    """A user's turn inside a conversation: it conditions what follows and is not itself counted."""
    response = [9, 10, 11, 12]
    tree = Tree([5, 6], [response], [[True, False, False, True]])
    got = PolicyNetwork(tiny_llama)(pack_trees([tree])).logprobs[0].tolist()
    expected = by_hand(tiny_llama, [5, 6], response)
    assert got == pytest.approx([expected[0], 0.0, 0.0, expected[3]], abs=2e-5)


def test_what_follows_a_branch_or_stands_in_another_changes_nothing(tiny_llama):
    network = PolicyNetwork(tiny_llama)
    before = network(pack_trees(TREES)).logprobs
    changed = trees_of(
        ([5, 6, 7, 8], [[9, 10, 1], [40, 41, 42, 43, 44, 45, 46, 1]]),
        ([50, 51], [[52]]),
        ([5, 6], [[9, 10, 11, 12, 13, 1], [60], [7]]),
    )
    after = network(pack_trees(changed)).logprobs
    assert torch.allclose(before[0, :3], after[0, :3], atol=1e-5)
    assert torch.allclose(before[3, :6], after[3, :6], atol=1e-5)
    assert torch.allclose(before[5, :1], after[5, :1], atol=1e-5)


def test_entropy_is_that_of_the_predicting_distribution(tiny_llama):
    tree = trees_of(([5, 6], [[9, 1]]))
    entropy = PolicyNetwork(tiny_llama)(pack_trees(tree), with_entropy=True).entropy[0]
    distribution = torch.distributions.Categorical(logits=tiny_llama(torch.tensor([[5, 6, 9]])).logits[0, 1:])
    assert torch.allclose(entropy, distribution.entropy(), atol=1e-5)


def test_sequence_logprob_sums_over_the_response(tiny_llama):
    output = PolicyNetwork(tiny_llama)(pack_trees(TREES))
    assert sequence_logprobs(output)[1].item() == pytest.approx(
        sum(by_hand(tiny_llama, [5, 6, 7, 8], [11, 1])), abs=2e-5
    )


def test_dropout_is_disabled_everywhere():
    network = disable_dropout(PolicyNetwork(gpt2().train()))
    batch = pack_trees(TREES)
    assert torch.equal(network(batch).logprobs, network(batch).logprobs)


def test_rates_that_layers_hold_as_numbers_are_dropout_too():
    config = OPTConfig(
        vocab_size=64, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.5, pad_token_id=0,
    )  # fmt: skip
    network = disable_dropout(PolicyNetwork(OPTForCausalLM(config).train()))
    batch = pack_trees(TREES)
    assert torch.equal(network(batch).logprobs, network(batch).logprobs)


def test_a_model_that_rescales_its_logits_is_refused_by_name(tiny_llama):
    tiny_llama.config.logit_scale = 0.5
    with pytest.raises(ValueError, match="LlamaForCausalLM rescales its logits"):
        load_causal_lm(tiny_llama)


def test_a_missing_folder_names_what_is_near(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(FileNotFoundError, match="near names there: export"):
        load_causal_lm(str(tmp_path / "exports"))


def test_a_folder_that_is_no_model_says_what_is_in_it(tmp_path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"expected a Hugging Face folder.*last\.ckpt"):
        load_causal_lm(str(tmp_path))


def test_the_heads_chunks_change_neither_loss_nor_gradient(tiny_llama, monkeypatch: pytest.MonkeyPatch):
    """One token a chunk against all in one."""
    found = []
    for limit in (2**24, 320):
        monkeypatch.setattr(head, "MAX_LOGITS", limit)
        tiny_llama.zero_grad()
        output = PolicyNetwork(tiny_llama)(pack_trees(TREES), with_entropy=True)
        output.logprobs.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in tiny_llama.parameters()])
        found.append((output.logprobs.detach(), output.entropy, gradient))
    for whole, chunked in zip(*found, strict=True):
        assert torch.allclose(whole, chunked, atol=1e-5 * whole.abs().max().item())


def test_no_tensor_over_the_vocabulary_is_kept_for_the_backward(tiny_llama):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        PolicyNetwork(tiny_llama)(pack_trees(TREES))
    counted = sum(len(r) for tree in TREES for r in tree.response_ids)
    assert torch.Size([counted, 320]) not in kept
    assert kept


def test_a_mistyped_path_under_a_folder_that_is_here_is_no_hub_name(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="near names there: tiny"):
        load_causal_lm("models/tinny")

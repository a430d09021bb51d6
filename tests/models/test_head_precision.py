"""Log-probabilities and entropies are fp32 whatever the precision of the network."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lit_rlhf.models.head import head_logprobs, head_logprobs_and_entropy


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_a_large_vocabulary_loses_nothing_behind_the_logits(how: str):
    """Summed in bf16 over 50 thousand, a softmax stands still once a term is under 2⁻⁹ of the sum."""
    vocabulary = 50_000
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, initializer_range=1.0,
        )
    )  # fmt: skip
    states, tokens = torch.randn(3, 8), torch.tensor([5, 40_000, 49_999])
    if how == "weights":
        model, states = model.bfloat16(), states.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"), torch.no_grad():
        logits = model.get_output_embeddings()(states)
        logprobs, entropy = head_logprobs_and_entropy(model, states, tokens, 1.0)
        alone = head_logprobs(model, states, tokens, 1.0)
    assert logits.dtype == torch.bfloat16
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert torch.equal(alone, logprobs)
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(
        logprobs.double(), exact.gather(1, tokens[:, None])[:, 0], rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=1e-5, atol=1e-6)

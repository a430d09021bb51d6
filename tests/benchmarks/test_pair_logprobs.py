import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.pair_logprobs import preferred_is_likelier, response_logprobs


def one_by_one(model, prompt, response):
    """Token by token, without padding: BOS and prompt read, response and EOS counted."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    read = tokenizer(prompt)["input_ids"]
    if read[0] != tokenizer.bos_token_id:
        read = [tokenizer.bos_token_id, *read]
    total = 0.0
    for token in [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]:
        with torch.no_grad():
            total += network(torch.tensor([read])).logits[0, -1].log_softmax(-1)[token].item()
        read = [*read, token]
    return total


def test_padded_batches_give_what_one_token_after_the_other_gives(tiny_model_dir):
    texts = [("a b", " c"), ("the", " longer response than the other one"), ("a", " b c d")]
    expected = [one_by_one(tiny_model_dir, *text) for text in texts]
    assert response_logprobs(tiny_model_dir, texts) == pytest.approx(expected, abs=1e-3)


def test_the_likelier_side_wins(tiny_model_dir):
    short_and_long = {"prompt": "a", "chosen": " b", "rejected": " b c d e f g h a b c d e f g h"}
    other_way = {"prompt": "a", "chosen": short_and_long["rejected"], "rejected": " b"}
    assert preferred_is_likelier(tiny_model_dir, [short_and_long, other_way]) == [1.0, 0.0]

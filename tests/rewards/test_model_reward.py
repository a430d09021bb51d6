"""A reward model with tokens of its own: conversations, cut-off and empty responses, lengths, batches."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.rewards.build import score_completions
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import Completions, RewardError
from tests.conftest import make_llama, make_tokenizer

OWN = make_tokenizer()
POLICYS = make_tokenizer()
POLICYS.add_tokens(["<extra>"])
CLOSES_WITH_ANOTHER = (  # special token than the EOS, as ChatML does beside a tokenizer of its own
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|pad|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def asked(prompts, texts, finished=None) -> Completions:
    """As the policy's ids say nothing to the reward model, they are any."""
    count = len(prompts)
    return Completions(
        prompts=list(prompts),
        texts=list(texts),
        prompt_ids=[[3]] * count,
        response_ids=[[4]] * count,
        finished=[True] * count if finished is None else finished,
        prompt_names=[f"row-{n}" for n in range(count)],
    )


def score_of_text(scorer: ScorerNetwork, text: str) -> float:
    """By hand: the ids of prompt and response, which "¦" parts, and the head at the last of them."""
    ids = [token for part in text.split("¦") for token in OWN(part, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        states = scorer.trunk(torch.tensor([ids])).last_hidden_state[0, -1]
        return float(states @ scorer.head.weight[0])


@pytest.fixture
def scorer() -> ScorerNetwork:
    return ScorerNetwork(make_llama(OWN).base_model).eval()


CHAT = [{"role": "user", "content": "what is two plus two?"}]


@pytest.mark.parametrize(
    ("prompt", "text", "finished", "read"),
    [
        ("the soup", " is tasty", True, "<|bos|>the soup¦ is tasty<|eos|>"),
        ("the soup", " is tasty", False, "<|bos|>the soup¦ is tasty"),
        ("the soup", "", True, "<|bos|>the soup¦<|eos|>"),
        ("the soup", "", False, "<|bos|>the soup¦<|eos|>"),  # nothing else to read a score at
        (CHAT, "four.", True, "user: what is two plus two?\nassistant: ¦four.<|eos|>"),
        (CHAT, "four.", False, "user: what is two plus two?\nassistant: ¦four."),
        (CHAT, "", True, "user: what is two plus two?\nassistant: ¦<|eos|>"),
    ],
)
def test_what_the_model_reads(scorer, prompt, text, finished, read):
    reward = ModelReward(scorer, POLICYS, tokenizer=OWN)
    score = score_completions(reward, asked([prompt], [text], [finished])).item()
    assert score == pytest.approx(score_of_text(scorer, read), abs=1e-5)
    assert score != pytest.approx(score_of_text(scorer, read + "."), abs=1e-3)


@pytest.mark.parametrize(
    ("finished", "read"),
    [
        (True, "user: what is two plus two?<|pad|>\nassistant: ¦four.<|pad|>\n<|eos|>"),
        (False, "user: what is two plus two?<|pad|>\nassistant: ¦four."),
    ],
)
def test_a_turn_that_was_cut_off_is_not_closed(scorer, finished, read):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CLOSES_WITH_ANOTHER
    reward = ModelReward(scorer, POLICYS, tokenizer=tokenizer)
    score = score_completions(reward, asked([CHAT], ["four."], [finished])).item()
    assert score == pytest.approx(score_of_text(scorer, read), abs=1e-5)


def test_the_batch_makes_no_difference(scorer):
    texts = ["a", " is tasty and the cake is fresh .", "", " lovely" * 20, " my hotel"]
    completions = asked(
        ["the soup", CHAT, "train", "x" * 30, "lamp"], texts, [True, True, False, False, True]
    )
    scores = [
        score_completions(ModelReward(scorer, POLICYS, tokenizer=OWN, batch_size=size), completions)
        for size in (1, 2, 5, 64)
    ]
    for other in scores[1:]:
        assert torch.allclose(other, scores[0], atol=1e-5)


def test_a_response_longer_than_the_table_of_positions_fails_alone():
    settings = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24, "vocab_size": len(OWN)}
    torch.manual_seed(0)
    scorer = ScorerNetwork(GPT2LMHeadModel(GPT2Config(**settings)).base_model).eval()
    fits, too_long = "x" * 21, "x" * 22  # beside the BOS, the prompt's letter and the EOS
    reward = ModelReward(scorer, POLICYS, tokenizer=OWN)
    completions = asked(["q"] * 3, [fits, too_long, "x"])
    scores = score_completions(reward, completions, "skip")
    assert scores.isnan().tolist() == [False, True, False]
    assert scores[0].item() == pytest.approx(score_of_text(scorer, f"<|bos|>q¦{fits}<|eos|>"), abs=1e-5)
    with pytest.raises(RewardError, match=r"has 24 positions, too few for 25 tokens for prompt row-1"):
        score_completions(reward, completions)
    assert score_completions(reward, asked(["q"], [too_long]), "skip").isnan().all()


def test_rotary_positions_have_no_table(scorer):
    long = " soup" * 300  # 256 positions in its config
    assert score_completions(ModelReward(scorer, POLICYS, tokenizer=OWN), asked(["q"], [long])).isfinite()


def test_a_conversation_without_a_template_is_named(scorer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    reward = ModelReward(scorer, POLICYS, tokenizer=tokenizer)
    with pytest.raises(
        RewardError, match=r"ScorerNetwork cannot read it: .*no chat template.*for prompt row-1"
    ):
        score_completions(reward, asked(["the", CHAT], ["a", "b"]))  # fmt: skip
    assert score_completions(reward, asked(["the", CHAT], ["a", "b"]), "skip").isnan().tolist() == [
        False,
        True,
    ]


class SometimesNothing(ScorerNetwork):
    """Gives nan to every second response of a batch."""

    def forward(self, trees):
        scores = super().forward(trees)
        return torch.where(torch.arange(len(scores)) % 2 == 1, math.nan, scores)


def test_scores_that_are_not_finite_fail_alone():
    scorer = SometimesNothing(make_llama(OWN).base_model)
    reward = ModelReward(scorer, POLICYS, tokenizer=OWN, batch_size=2)
    completions = asked(["a", "b", "c", "d"], ["x"] * 4)
    assert score_completions(reward, completions, "skip").isnan().tolist() == [False, True, False, True]
    with pytest.raises(
        RewardError, match=r"SometimesNothing gave nan for prompt row-1 .*the first of 2 that failed"
    ):
        score_completions(reward, completions)  # fmt: skip


def test_the_failures_of_what_it_cannot_read_and_of_what_it_scores_are_told_apart():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    reward = ModelReward(SometimesNothing(make_llama(OWN).base_model), POLICYS, tokenizer=tokenizer)
    completions = asked([CHAT, "b", "c"], ["x"] * 3)
    assert score_completions(reward, completions, "skip").isnan().tolist() == [True, False, True]
    with pytest.raises(RewardError, match=r"for prompt row-0 .*the first of 2 that failed, of 3"):
        score_completions(reward, completions)

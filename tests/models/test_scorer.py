"""Scores: where they are read, what they depend on, and how they come back from an export."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.export import export_policy, export_scorer
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Tree

TREES = [
    Tree([5, 6, 7, 8], [[9, 10, 1], [11, 1]], [[True] * 3, [True] * 2]),
    Tree([12], [[13]], [[True]]),
]


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=330, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def test_score_is_the_head_at_the_last_response_token(tiny_llama):
    scorer = ScorerNetwork(tiny_llama.base_model)
    scorer.head.bias.data.fill_(0.3)
    hidden = tiny_llama.base_model(torch.tensor([[5, 6, 7, 8, 9, 10, 1]])).last_hidden_state[0, -1]
    expected = hidden @ scorer.head.weight[0] + 0.3
    assert scorer(pack_trees(TREES))[0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_score_does_not_depend_on_the_rest_of_the_batch(tiny_llama):
    scorer = ScorerNetwork(tiny_llama.base_model)
    together = scorer(pack_trees(TREES))
    alone = torch.cat(
        [
            scorer(pack_trees([Tree(TREES[0].prompt_ids, [r], [[True] * len(r)])]))
            for r in TREES[0].response_ids
        ]
    )
    assert torch.allclose(together[:2], alone, atol=1e-5)


def test_a_pad_id_inside_the_response_does_not_move_the_score(tiny_llama, tiny_tokenizer, tmp_path):
    """transformers reads at the right-most token that is not pad; ours goes by length."""
    pad = tiny_tokenizer.pad_token_id
    scorer = ScorerNetwork(tiny_llama.base_model)
    ends_in_pad = pack_trees([Tree([5, 6], [[9, pad]], [[True, True]])])
    hidden = tiny_llama.base_model(torch.tensor([[5, 6, 9, pad]])).last_hidden_state[0, -1]
    assert scorer(ends_in_pad).item() == pytest.approx((hidden @ scorer.head.weight[0]).item(), abs=1e-5)


def test_new_head_has_the_stated_spread(tiny_llama):
    weights = torch.cat([ScorerNetwork(tiny_llama.base_model).head.weight.flatten() for _ in range(200)])
    # 6400 draws: the standard error of a standard deviation s is s / sqrt(2n)
    expected = 1 / math.sqrt(33)
    assert weights.std().item() == pytest.approx(expected, abs=4 * expected / math.sqrt(2 * len(weights)))


def test_values_are_read_before_each_token(tiny_llama):
    scorer = ScorerNetwork(tiny_llama.base_model)
    values = scorer.values(pack_trees(TREES))
    hidden = tiny_llama.base_model(torch.tensor([[5, 6, 7, 8, 9, 10, 1]])).last_hidden_state[0]
    expected = (hidden @ scorer.head.weight[0])[3:6]
    assert torch.allclose(values[0], expected, atol=1e-5)
    assert values[1, 2].item() == 0.0


def test_luce_score_is_the_logarithm_of_softplus(tiny_llama):
    plain, luce = ScorerNetwork(tiny_llama.base_model), ScorerNetwork(tiny_llama.base_model, "luce")
    luce.head.load_state_dict(plain.head.state_dict())
    head = plain(pack_trees(TREES))
    assert torch.allclose(luce(pack_trees(TREES)), torch.log(torch.log1p(head.exp())), atol=1e-5)


@pytest.mark.parametrize("link", ["bradley_terry", "luce"])
def test_shift_moves_every_score_by_the_same_amount(link, tiny_llama):
    scorer = ScorerNetwork(tiny_llama.base_model, link)
    before = scorer(pack_trees(TREES)).detach()
    scorer.shift(torch.tensor(0.75))
    assert torch.allclose(scorer(pack_trees(TREES)), before - 0.75, atol=1e-5)


@pytest.mark.parametrize("link", ["bradley_terry", "luce"])
def test_export_comes_back_with_head_bias_and_link(link, tiny_llama, tiny_tokenizer, tmp_path):
    scorer = ScorerNetwork(tiny_llama.base_model, link)
    scorer.shift(torch.tensor(-1.5))
    export_scorer(scorer, tiny_tokenizer, tmp_path / "reward")
    back = load_scorer(str(tmp_path / "reward"))
    assert back.link == link
    assert torch.allclose(back(pack_trees(TREES)), scorer(pack_trees(TREES)), atol=1e-6)


def test_transformers_scores_differ_by_exactly_the_bias(tiny_llama, tiny_tokenizer, tmp_path):
    scorer = ScorerNetwork(tiny_llama.base_model)
    scorer.shift(torch.tensor(-1.5))
    export_scorer(scorer, tiny_tokenizer, tmp_path / "reward")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    plain = classifier(torch.tensor([[5, 6, 7, 8, 11, 1]])).logits.item()
    assert classifier.config.score_bias == pytest.approx(1.5)
    assert plain + 1.5 == pytest.approx(scorer(pack_trees(TREES))[1].item(), abs=1e-5)


def test_a_norm_with_a_bias_takes_the_heads_bias_in(tiny_tokenizer, tmp_path):
    scorer = ScorerNetwork(gpt2().base_model)
    scorer.shift(torch.tensor(-1.5))
    export_scorer(scorer, tiny_tokenizer, tmp_path / "reward")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert classifier.config.score_bias == 0.0
    plain = classifier(torch.tensor([[5, 6, 7, 8, 11, 1]])).logits.item()
    ours = scorer(pack_trees(TREES))[1].item()
    assert plain == pytest.approx(ours, abs=1e-5)
    assert load_scorer(str(tmp_path / "reward")).eval()(pack_trees(TREES))[1].item() == pytest.approx(
        ours, abs=1e-5
    )


def test_another_link_than_the_exports_is_refused(tiny_llama, tiny_tokenizer, tmp_path):
    export_scorer(ScorerNetwork(tiny_llama.base_model, "luce"), tiny_tokenizer, tmp_path / "reward")
    with pytest.raises(ValueError, match="trained with link 'luce'"):
        load_scorer(str(tmp_path / "reward"), "bradley_terry")


def test_a_reward_export_is_no_policy(tiny_llama, tiny_tokenizer, tmp_path):
    export_scorer(ScorerNetwork(tiny_llama.base_model), tiny_tokenizer, tmp_path / "reward")
    with pytest.raises(ValueError, match="is a reward model"):
        load_causal_lm(str(tmp_path / "reward"))


def test_policy_export_loads_with_transformers_alone(tiny_llama, tiny_tokenizer, tmp_path):
    export_policy(PolicyNetwork(tiny_llama), tiny_tokenizer, tmp_path / "policy")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(back(ids).logits, tiny_llama.eval()(ids).logits)
    assert back.generation_config.eos_token_id == tiny_tokenizer.eos_token_id
    assert back.generation_config.pad_token_id == tiny_tokenizer.pad_token_id


def test_an_export_replaces_an_earlier_one_whole(tiny_llama, tiny_tokenizer, tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "stale.bin").touch()
    export_policy(PolicyNetwork(tiny_llama), tiny_tokenizer, tmp_path / "policy")
    assert not (tmp_path / "policy" / "stale.bin").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy"]

"""Rewards from functions, from models, and from sums of them."""

import math

import pytest
import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.components import Components
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Tree
from lit_rlhf.rewards.build import build_reward, score_completions
from lit_rlhf.rewards.function import FunctionReward
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import Completions, RewardError
from tests.conftest import make_llama, make_tokenizer


def count_letters(prompts, completions, letter, **columns):
    return [float(text.count(wanted)) for text, wanted in zip(completions, letter, strict=True)]


class LengthReward:
    """A reward class with an argument, as a config names it."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, prompts, completions, **columns):
        return [self.scale * len(text) for text in completions]


def completions(tokenizer=None, texts=("a cake", "banana")) -> Completions:
    tokenizer = tokenizer or make_tokenizer()
    eos = tokenizer.eos_token_id
    return Completions(
        prompts=["the", "soup"],
        texts=list(texts),
        prompt_ids=[[0, *tokenizer("the")["input_ids"]], [0, *tokenizer("soup")["input_ids"]]],
        response_ids=[[*tokenizer(text)["input_ids"], eos] for text in texts],
        finished=[True, True],
        prompt_names=["row-1", "prompts.jsonl:2"],
        columns={"letter": ["c", "a"]},
    )


def test_function_gets_prompts_completions_and_columns():
    assert FunctionReward(count_letters).score(completions()).tolist() == [1.0, 3.0]


def test_conversations_get_messages_as_completions():
    seen = {}

    def look(prompts, completions, **columns):
        seen.update(completions=completions, **columns)
        return [0.0, 0.0]

    asked = completions()
    asked.prompts = [[{"role": "user", "content": "hi"}], "soup"]
    FunctionReward(look).score(asked)
    assert seen["completions"] == [[{"role": "assistant", "content": "a cake"}], "banana"]
    assert seen["finished"] == [True, True]
    assert seen["completion_ids"] == asked.response_ids


@pytest.mark.parametrize("bad", [math.nan, math.inf, "4"])
def test_a_score_that_is_no_number_names_the_prompt(bad):
    with pytest.raises(RewardError, match=r"expected a finite number or None.*prompts\.jsonl:2"):
        FunctionReward(lambda prompts, completions, **_: [1.0, bad]).score(completions())


def test_a_function_that_raises_is_named():
    def broken(prompts, completions, **columns):
        raise KeyError("gold")

    with pytest.raises(RewardError, match="broken raised KeyError: 'gold'"):
        FunctionReward(broken).score(completions())


def test_a_wrong_number_of_scores_is_an_error():
    with pytest.raises(RewardError, match="expected 2 scores, found 1"):
        FunctionReward(lambda prompts, completions, **_: [1.0]).score(completions())


def test_none_alone_stops_with_the_prompts_name():
    reward = FunctionReward(lambda prompts, completions, **_: [None, 1.0])
    with pytest.raises(RewardError, match="row-1"):
        score_completions(reward, completions())


def test_dotted_path_class_path_and_weighted_list():
    tokenizer = make_tokenizer()
    here = "tests.rewards.test_rewards"
    assert build_reward(f"{here}.count_letters", tokenizer).score(completions()).tolist() == [1.0, 3.0]
    assert build_reward(f"{here}.LengthReward", tokenizer).score(completions()).tolist() == [6.0, 6.0]
    scaled = {"class_path": f"{here}.LengthReward", "init_args": {"scale": 0.5}}
    assert build_reward(scaled, tokenizer).score(completions()).tolist() == [3.0, 3.0]
    both = [{"reward": scaled, "weight": 2.0}, {"reward": count_letters}]
    assert build_reward(both, tokenizer).score(completions()).tolist() == [7.0, 9.0]


def test_a_part_that_does_not_apply_adds_nothing():
    def only_first(prompts, completions, **columns):
        return [10.0, None]

    both = [{"reward": only_first}, {"reward": count_letters}]
    assert build_reward(both, make_tokenizer()).score(completions()).tolist() == [11.0, 3.0]


@pytest.mark.parametrize("spec", ["no_such_module.reward", "lit_rlhf.records.nothing", "word"])
def test_a_path_that_leads_nowhere_is_explained(spec):
    with pytest.raises(ValueError, match="neither a folder here nor a dotted path"):
        build_reward(spec, make_tokenizer())


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match="expected entries of"):
        build_reward([{"rewards": "x"}], make_tokenizer())


def test_model_reward_scores_the_policys_ids(tiny_llama, tiny_tokenizer, tmp_path):
    scorer = ScorerNetwork(tiny_llama.base_model)
    scorer.shift(torch.tensor(-0.5))
    export_scorer(scorer, tiny_tokenizer, tmp_path / "reward")
    asked = completions(tiny_tokenizer)
    reward = build_reward(str(tmp_path / "reward"), tiny_tokenizer)
    assert isinstance(reward, ModelReward) and reward.shares_ids
    trees = [
        Tree(p, [r], [[True] * len(r)]) for p, r in zip(asked.prompt_ids, asked.response_ids, strict=True)
    ]
    assert torch.allclose(reward.score(asked), scorer(pack_trees(trees)), atol=1e-6)


def test_model_reward_with_another_tokenizer_meets_the_policy_as_text(tiny_llama, tiny_tokenizer):
    """The policy's ids mean nothing to the reward model; the text does."""
    scorer = ScorerNetwork(tiny_llama.base_model)
    asked = completions(tiny_tokenizer)
    expected = ModelReward(scorer, tiny_tokenizer).score(asked)
    stranger = make_tokenizer()
    stranger.add_tokens(["<extra>"])
    reward = ModelReward(scorer, stranger, tokenizer=tiny_tokenizer)
    assert not reward.shares_ids
    asked.prompt_ids, asked.response_ids = [[3], [3]], [[4], [4]]
    assert torch.allclose(reward.score(asked), expected, atol=1e-6)


def test_scores_do_not_depend_on_the_batch_size(tiny_llama, tiny_tokenizer):
    scorer = ScorerNetwork(tiny_llama.base_model)
    one = ModelReward(scorer, tiny_tokenizer, batch_size=1).score(completions(tiny_tokenizer))
    two = ModelReward(scorer, tiny_tokenizer, batch_size=2).score(completions(tiny_tokenizer))
    assert torch.allclose(one, two, atol=1e-5)


def test_a_cut_off_response_has_no_eos_in_the_reward_models_tokens_either(tiny_llama, tiny_tokenizer):
    scorer = ScorerNetwork(tiny_llama.base_model)
    asked = completions(tiny_tokenizer)
    asked.finished = [False, True]
    asked.response_ids[0] = asked.response_ids[0][:-1]
    same = ModelReward(scorer, tiny_tokenizer).score(asked)
    stranger = make_tokenizer()
    stranger.add_tokens(["<extra>"])
    assert torch.allclose(
        ModelReward(scorer, stranger, tokenizer=tiny_tokenizer).score(asked), same, atol=1e-6
    )


@pytest.mark.parametrize("name", ["completions", "finished"])
def test_a_column_with_a_reserved_name_is_refused(name):
    asked = completions()
    asked.columns[name] = [1, 2]
    with pytest.raises(RewardError, match=f"field '{name}' has the name of an argument"):
        FunctionReward(count_letters).score(asked)


# --- several heads, several models


def conservative(model, combine: str = "mean_minus_std") -> ScorerNetwork:
    network = ScorerNetwork(model.base_model, components=Components(members=3, combine=combine, k=2.0))
    network.rescale(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, -0.3, 0.4]))
    return network.eval()


def component_scores_by_hand(model, network: ScorerNetwork, asked: Completions) -> torch.Tensor:
    """``[N, C]``, normalised, from plain calls of the trunk."""
    rows = []
    for prompt, response in zip(asked.prompt_ids, asked.response_ids, strict=True):
        hidden = model.base_model(torch.tensor([prompt + response])).last_hidden_state[0, -1]
        rows.append((network.head.weight @ hidden) * torch.tensor([0.5, 1.0, 2.0]))
    return torch.stack(rows).detach() - torch.tensor([0.1, -0.3, 0.4])


@pytest.mark.parametrize("same_tokenizer", [True, False])
def test_a_conservative_export_pays_less_where_its_heads_disagree(same_tokenizer, tiny_llama, tmp_path):
    policy_tokenizer, asked = make_tokenizer(), completions()
    export_scorer(conservative(tiny_llama), policy_tokenizer, tmp_path / "reward")
    network = load_scorer(str(tmp_path / "reward"))
    parts = component_scores_by_hand(tiny_llama.eval(), network, asked)
    if not same_tokenizer:  # what the policy calls them means nothing here
        policy_tokenizer.add_tokens(["<extra>"])
        asked.prompt_ids, asked.response_ids = [[3], [3]], [[4], [4]]
    reward = build_reward(str(tmp_path / "reward"), policy_tokenizer)
    assert reward.shares_ids == same_tokenizer
    deviation = parts.sub(parts.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    assert deviation.min() > 0.1
    assert torch.allclose(reward.score(asked), parts.mean(-1) - 2.0 * deviation, atol=1e-5)
    assert torch.allclose(reward.disagreement(asked), deviation, atol=1e-5)


def test_one_head_never_disagrees(tiny_llama, tiny_tokenizer):
    reward = ModelReward(ScorerNetwork(tiny_llama.base_model), tiny_tokenizer)
    assert reward.disagreement(completions(tiny_tokenizer)).tolist() == [0.0, 0.0]


def test_an_ensemble_of_whole_models(tiny_tokenizer, tmp_path):
    asked, folders, rows = completions(tiny_tokenizer), [], []
    for seed in range(3):
        model = make_llama(tiny_tokenizer, seed)
        scorer = ScorerNetwork(model.base_model)
        folders.append(str(tmp_path / f"reward-{seed}"))
        export_scorer(scorer, tiny_tokenizer, folders[-1])
        ends = [
            model.base_model(torch.tensor([p + r])).last_hidden_state[0, -1] @ scorer.head.weight[0]
            for p, r in zip(asked.prompt_ids, asked.response_ids, strict=True)
        ]
        rows.append(torch.stack(ends).detach())
    scores = torch.stack(rows)
    deviation = scores.sub(scores.mean(0)).square().mean(0).sqrt()
    for extra, expected in [
        ({}, scores.mean(0)),
        ({"combine": "min"}, scores.min(0).values),
        ({"combine": "mean_minus_std"}, scores.mean(0) - deviation),
        ({"combine": "mean_minus_std", "k": 0.5}, scores.mean(0) - 0.5 * deviation),
    ]:
        reward = build_reward({"ensemble": folders, **extra}, tiny_tokenizer).to("cpu")
        assert torch.allclose(reward.score(asked), expected, atol=1e-5), extra
        assert torch.allclose(reward.disagreement(asked), deviation, atol=1e-5)
    # beside another reward, as any
    weighted = [{"reward": {"ensemble": folders}, "weight": 2.0}, {"reward": count_letters}]
    both = build_reward(weighted, tiny_tokenizer).score(asked)
    assert torch.allclose(both, 2 * scores.mean(0) + torch.tensor([1.0, 3.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"ensemble": ["here"]}, r"reward\.ensemble: expected a list of at least two reward models, found \['here'\]"),
        ({"ensemble": "here"}, r"reward\.ensemble: expected a list"),
        ({"ensemble": [count_letters] * 2, "combine": "gate"}, r"reward\.combine: expected one of mean, min, mean_"),
        ({"ensemble": [count_letters] * 2, "k": -1}, r"reward\.k: expected a number of at least 0, found -1"),
        ({"ensemble": [count_letters] * 2, "weights": 1}, r"expected the keys ensemble, combine, k, found weights"),
        ({"ensembel": ["a", "b"]}, r"expected a mapping with class_path or ensemble, found the keys \['ensembel'\]"),
    ],
)  # fmt: skip
def test_an_ensemble_that_makes_no_sense_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        build_reward(spec, make_tokenizer())


def test_a_member_without_a_score_leaves_none():
    spec = {"ensemble": [count_letters, lambda prompts, completions, **_: [None, 1.0]], "combine": "min"}
    with pytest.raises(RewardError, match=r"no score \(None.*for prompt row-1"):
        score_completions(build_reward(spec, make_tokenizer()), completions())

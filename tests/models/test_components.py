"""Several heads on one trunk: how they are combined, how far they disagree, what the gate reads, and the weights that a
few judged pairs give them."""

import math

import pytest
import torch
from torch import Tensor

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.components import Components, combine_scores, disagreement, fit_weights
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import choose_attention, end_states, reads_flat
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.records import Tree
from tests.models.families import FAMILIES
from tests.modules.training import random_trees

PROMPTS = [[5, 6, 7, 8], [12]]
RESPONSES = [[[9, 10, 1], [11, 1]], [[13]]]
DOMAINS = ["food", "trip", "home"]


def trees(order: tuple[int, ...] = (0, 1)) -> list[Tree]:
    return [Tree(PROMPTS[i], RESPONSES[i], [[True] * len(r) for r in RESPONSES[i]]) for i in order]


def several(model, combine: str = "mean", link: str = "bradley_terry", k: float = 1.0) -> ScorerNetwork:
    """Three heads with biases, gains, offsets and a gate of their own."""
    network = ScorerNetwork(model.base_model, link, Components(domains=DOMAINS, combine=combine, k=k))
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.3, -0.2, 0.7]))
        if network.gate is not None:
            network.gate.weight.normal_()
            network.gate.bias.copy_(torch.tensor([0.1, 0.0, -0.4]))
    network.rescale(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, -0.3, 0.4]))
    return network.eval()


def hidden_at_the_end(model, *ids: int) -> Tensor:
    return model.base_model(torch.tensor([ids])).last_hidden_state[0, -1].detach()


def normalized_by_hand(model, network: ScorerNetwork) -> Tensor:
    """[3, C] of the three responses, from plain calls of the trunk."""
    ends = torch.stack([hidden_at_the_end(model, *p, *r) for p, rs in zip(PROMPTS, RESPONSES) for r in rs])
    output = (ends[:, None, :] * network.head.weight.detach()).sum(-1) + torch.tensor([0.3, -0.2, 0.7])
    raw = torch.log(torch.log1p(output.exp())) if network.link == "luce" else output
    return raw * torch.tensor([0.5, 1.0, 2.0]) - torch.tensor([0.1, -0.3, 0.4])


# --- what a config may say


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"model\.components: expected domains or members, found neither"),
        (
            {"domains": ["a", "b"], "members": 2},
            r"model\.components: expected domains or members, found both",
        ),
        ({"domains": ["a"]}, r"model\.components\.domains: expected at least two different"),
        ({"domains": ["a", "a"]}, r"model\.components\.domains: expected at least two different"),
        ({"domains": ["a", 1]}, r"model\.components\.domains: expected at least two different"),
        ({"members": 1}, r"model\.components\.members: expected a whole number of at least 2.*found 1"),
        ({"members": True}, r"model\.components\.members: expected a whole number"),
        ({"members": 2.0}, r"model\.components\.members: expected a whole number"),
        (
            {"members": 2, "combine": "median"},
            r"model\.components\.combine: expected one of mean, min.*'median'",
        ),
        ({"members": 2, "combine": "gate"}, r"model\.components\.combine: .* a gate tells domains apart"),
        ({"members": 2, "k": -1.0}, r"model\.components\.k: expected a number of at least 0, found -1\.0"),
        ({"members": 2, "k": math.nan}, r"model\.components\.k: expected a number"),
        ({"memebrs": 2}, r"model\.components\.memebrs: no such key\. Did you mean 'members'\?"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Components.of(given)


def test_plain_values_come_back_the_same() -> None:
    components = Components(domains=["a", "b"], combine="gate", k=2.0)
    assert components.plain() == {"domains": ["a", "b"], "members": None, "combine": "gate", "k": 2.0}
    assert Components.of(components.plain()) == components
    assert Components.of(None) is None
    assert (components.count, Components(members=5).count) == (2, 5)


# --- combining

SCORES = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
DEVIATION = math.sqrt(14 / 3)  # of 1, 2, 6 around 3, the population's


def test_each_way_to_combine_by_hand() -> None:
    assert combine_scores(SCORES, "mean").tolist() == [3.0, 4.0]
    assert combine_scores(SCORES, "mean", weights=torch.tensor([0.5, 0.25, 0.25])).tolist() == [2.5, 4.0]
    assert combine_scores(SCORES, "min").tolist() == [1.0, 4.0]
    assert combine_scores(SCORES, "mean_minus_std", k=1.5).tolist() == pytest.approx(
        [3 - 1.5 * DEVIATION, 4.0]
    )
    logits = torch.tensor([[1.0, 1.0, 2.0], [9.0, 0.0, 0.0]]).log()
    assert combine_scores(SCORES, "gate", gate_logits=logits)[0].item() == pytest.approx(
        1 / 4 + 2 / 4 + 12 / 4
    )
    assert disagreement(SCORES).tolist() == pytest.approx([DEVIATION, 0.0])
    with pytest.raises(ValueError, match="gate needs the gate's logits"):
        combine_scores(SCORES, "gate")


# --- few-shot weights


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_few_shot_weights_reach_the_known_optimum(scale: float) -> None:
    """Differences ±(s, -s), three to two: the likeliest margin z = s(2w - 1) has σ(z) = 3/5, so z = log 1.5."""
    signs = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    better = signs[:, None] * torch.tensor([scale, -scale]) + 5.0
    weights = fit_weights(better, torch.full_like(better, 5.0))
    expected = (1 + math.log(1.5) / scale) / 2
    assert weights.tolist() == pytest.approx([expected, 1 - expected], abs=1e-5)


def test_a_component_that_is_always_wrong_gets_nothing() -> None:
    better = torch.tensor([[1.0, 2.0, -1.0], [3.0, 1.0, -2.0], [1.0, 1.0, -0.5]])
    weights = fit_weights(better, torch.zeros(3, 3))
    assert weights[2].item() == 0.0 and weights.sum().item() == pytest.approx(1.0)
    # with two components over, one of them always ahead, all goes to it
    assert fit_weights(torch.tensor([[1.0, 2.0], [0.5, 3.0]]), torch.zeros(2, 2)).tolist() == [0.0, 1.0]


def test_weights_of_many_components_have_no_way_left_to_go() -> None:
    """At the optimum over the simplex the slope is the same where there is weight, and no lower elsewhere."""
    differences = torch.randn(200, 6) * torch.tensor([1.0, 2.0, 0.1, 5.0, 1.0, 1.0]) + 0.2
    weights = fit_weights(differences, torch.zeros_like(differences))
    slope = -(torch.sigmoid(-(differences @ weights))[:, None] * differences).mean(0)
    used = weights > 0
    assert 1 < used.sum() <= 6 and weights.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert (slope[used] - slope[used].mean()).abs().max() < 1e-5
    assert (slope >= slope[used].mean() - 1e-5).all()


def test_the_same_component_twice_shares_its_weight() -> None:
    better = torch.tensor([[1.0, 1.0, -1.0], [2.0, 2.0, 1.0]])
    assert fit_weights(better, torch.zeros(2, 3)).tolist() == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize("better", [torch.zeros(0, 2), torch.tensor([[math.nan, 0.0]]), torch.zeros(3)])
def test_few_shot_weights_of_nothing_are_refused(better: Tensor) -> None:
    with pytest.raises(ValueError, match="Few-shot weights need finite scores"):
        fit_weights(better, torch.zeros_like(better))


# --- the network


def test_every_head_starts_on_its_own(tiny_llama) -> None:
    heads = torch.cat(
        [ScorerNetwork(tiny_llama.base_model, components=Components(members=50)).head.weight] * 1
    )
    assert heads.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.1)
    assert torch.corrcoef(heads).fill_diagonal_(0).abs().max() < 0.9


@pytest.mark.parametrize("link", ["bradley_terry", "luce"])
def test_combined_scores_are_those_of_the_heads_by_hand(link: str, tiny_llama) -> None:
    batch = pack_trees(trees())
    for combine, by_hand in {
        "mean": lambda s: s.mean(-1),
        "min": lambda s: s.min(-1).values,
        "mean_minus_std": lambda s: (
            s.mean(-1) - 0.7 * s.sub(s.mean(-1, keepdim=True)).square().mean(-1).sqrt()
        ),
    }.items():
        network = several(tiny_llama, combine, link, k=0.7)
        normalized = normalized_by_hand(tiny_llama, network)
        scores, deviation = network.forward_with_disagreement(batch)
        assert torch.allclose(scores, by_hand(normalized), atol=1e-5), combine
        assert torch.equal(network(batch), scores)
        spread = normalized.sub(normalized.mean(-1, keepdim=True)).square().mean(-1).sqrt()
        assert torch.allclose(deviation, spread, atol=1e-5)


def test_few_shot_weights_weigh_the_mean_alone(tiny_llama) -> None:
    network = several(tiny_llama)
    network.weigh(torch.tensor([0.7, 0.0, 0.3]))
    normalized = normalized_by_hand(tiny_llama, network)
    expected = 0.7 * normalized[:, 0] + 0.3 * normalized[:, 2]
    assert torch.allclose(network(pack_trees(trees())), expected, atol=1e-5)
    for other in (several(tiny_llama, "min"), ScorerNetwork(tiny_llama.base_model)):
        with pytest.raises(ValueError, match="combine: mean"):
            other.weigh(torch.ones(other.num_components))


def test_the_gate_weighs_by_the_prompts_last_token(tiny_llama) -> None:
    network = several(tiny_llama, "gate")
    prompts = torch.stack([hidden_at_the_end(tiny_llama, *prompt) for prompt in PROMPTS])
    logits = prompts @ network.gate.weight.detach().T + torch.tensor([0.1, 0.0, -0.4])
    expected = (normalized_by_hand(tiny_llama, network) * logits.softmax(-1)[[0, 0, 1]]).sum(-1)
    batch = pack_trees(trees())
    assert torch.allclose(network(batch), expected, atol=1e-5)
    assert torch.allclose(network.gate_logits(network.read(batch)), logits, atol=1e-5)


def test_a_new_gate_weighs_all_alike_and_teaches_the_trunk_nothing(tiny_llama) -> None:
    network = ScorerNetwork(tiny_llama.base_model, components=Components(domains=DOMAINS, combine="gate"))
    batch = pack_trees(trees())
    assert network.gate_logits(network.read(batch)).tolist() == [[0.0] * 3] * 2
    with torch.no_grad():
        network.gate.weight.normal_()
    network.gate_logits(network.read(batch)).square().sum().backward()
    assert network.gate.weight.grad.abs().max() > 0
    assert all(weight.grad is None for weight in network.trunk.parameters())
    with pytest.raises(ValueError, match="has no gate"):
        several(tiny_llama).gate_logits(several(tiny_llama).read(batch))


def test_prompts_are_read_where_a_gate_asks_alone_and_in_the_same_pass(tiny_llama) -> None:
    calls = []
    tiny_llama.base_model.register_forward_hook(lambda *_: calls.append(1))
    assert several(tiny_llama).read(pack_trees(trees())).prompt_states is None
    assert several(tiny_llama, "gate").read(pack_trees(trees())).prompt_states.shape == (2, 32)
    assert len(calls) == 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2, sliding window"])
def test_prompt_states_are_the_same_over_the_flat_row_and_padded(family: str, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    model = FAMILIES[family]().eval()
    network = several(model, "gate")
    batch = pack_trees([*random_trees(5), *trees()])
    found = []
    for asked in ("padded", "trees"):
        choose_attention(model, asked)
        assert reads_flat(model.base_model, batch) == (asked == "trees")
        read = network.read(batch)
        found.append([read.states, read.prompt_states, network(batch)])
    for padded, flat in zip(*found):
        assert torch.allclose(flat, padded, atol=1e-5 * padded.abs().max().item())


def test_a_prompt_without_responses_is_named(tiny_llama, monkeypatch) -> None:
    batch = pack_trees([*trees(), Tree([5, 6], [], [], id="row 7")])
    for least in (0, 10**6):
        monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", least)
        with pytest.raises(ValueError, match="row 7: expected responses to score"):
            end_states(choose_attention(tiny_llama).base_model, batch, prompts=True)


@pytest.mark.parametrize("least", [0, 10**6])
def test_gated_scores_depend_on_nothing_else_in_the_batch(least: int, tiny_llama, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", least)
    network = several(choose_attention(tiny_llama), "gate")
    drawn = random_trees(6)
    together = network(pack_trees(drawn)).split([len(tree.response_ids) for tree in drawn])
    order = [3, 0, 5, 1, 4, 2]
    shuffled = network(pack_trees([drawn[i] for i in order]))
    assert torch.allclose(shuffled, torch.cat([together[i] for i in order]), atol=1e-5)
    for tree, scores in zip(drawn, together):
        assert torch.allclose(network(pack_trees([tree])), scores, atol=1e-5)


@pytest.mark.parametrize("combine", ["mean", "min", "mean_minus_std", "gate"])
def test_autocast_takes_no_digits_behind_the_trunk(combine: str, tiny_llama) -> None:
    network = several(tiny_llama, combine)
    read = network.read(pack_trees(trees()))

    def scores() -> Tensor:
        logits = network.gate_logits(read)[[0, 0, 1]] if network.gate is not None else None
        return network.combined(network.raw(read.states), logits)

    plain = scores()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scores(), plain)
        assert network(pack_trees(trees())).dtype == torch.float32


@pytest.mark.parametrize("link", ["bradley_terry", "luce"])
@pytest.mark.parametrize("amount", [torch.tensor(0.75), torch.tensor([0.5, -1.0, 2.0])])
def test_shift_moves_normalized_scores_whatever_the_gain(link: str, amount: Tensor, tiny_llama) -> None:
    network = several(tiny_llama, link=link)
    states = torch.randn(4, 32)
    before = network.normalized(network.raw(states)).detach()
    network.shift(amount)
    assert torch.allclose(network.normalized(network.raw(states)), before - amount, atol=1e-5)


def test_rescaling_changes_no_raw_score(tiny_llama) -> None:
    network, states = several(tiny_llama), torch.randn(4, 32)
    raw = network.raw(states)
    network.rescale(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 0.0, -1.0]))
    assert torch.equal(network.raw(states), raw)
    expected = raw * torch.tensor([2.0, 3.0, 4.0]) - torch.tensor([1.0, 0.0, -1.0])
    assert torch.allclose(network.normalized(raw), expected)
    for gain in ([1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [math.inf, 1.0, 1.0]):
        with pytest.raises(ValueError, match="Expected gains over 0"):
            network.rescale(torch.tensor(gain), torch.zeros(3))


def test_preference_is_the_mean_of_the_components_probabilities(tiny_llama) -> None:
    network = several(tiny_llama)
    log_odds = torch.tensor([[0.9, 0.5, 0.2], [0.5, 0.5, 0.5]]).logit()
    a, b = log_odds + 3.0, torch.full((2, 3), 3.0)
    assert network.preference(a, b).tolist() == pytest.approx([1.6 / 3, 0.5])
    assert network.preference(b, a).tolist() == pytest.approx([1 - 1.6 / 3, 0.5])
    gate = torch.tensor([[0.5, 0.0, 0.5], [0.2, 0.3, 0.5]])
    assert network.preference(a, b, gate).tolist() == pytest.approx([0.55, 0.5])
    network.weigh(torch.tensor([0.0, 1.0, 0.0]))
    assert network.preference(a, b).tolist() == pytest.approx([0.5, 0.5])


def test_a_critic_has_one_head_and_its_gain(tiny_llama) -> None:
    with pytest.raises(
        ValueError, match=r"model\.critic: expected a model with one head, found 3 components"
    ):
        ActorCritic(PolicyNetwork(tiny_llama), several(tiny_llama))
    critic = ScorerNetwork(tiny_llama.base_model)
    before = critic.values(pack_trees(trees())).detach()
    critic.rescale(torch.tensor([2.0]), torch.tensor([0.5]))
    after = critic.values(pack_trees(trees()))
    counted = pack_trees(trees()).response_grid_mask()
    assert torch.allclose(after[counted], 2 * before[counted] - 0.5, atol=1e-6)
    assert (after[~counted] == 0).all() and (~counted).any()

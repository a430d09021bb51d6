"""PPO against a reward server: the scores of the folder loaded here, on one process and on two."""

import math

import numpy as np
import pytest
import torch

from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.rewards.function import FunctionReward
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import RewardError
from lit_rlhf.rewards.remote.server import RewardServer
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.ppo_runs import fit, make_module, share_of_small_ids
from tests.modules.training import weights_of
from tests.rewards.reward_servers import hangs_up, running, scripted


@pytest.fixture(scope="module")
def own_words():
    """A tokenizer that is not the policy's, so that here too they meet as text."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    return tokenizer


@pytest.fixture(scope="module")
def reward_dir(own_words, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward") / "export"
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(make_llama(own_words, seed=3).base_model), own_words, folder)
    return str(folder)


def test_a_served_model_trains_as_the_folder_does(own_words, reward_dir):
    here = make_module(reward=reward_dir)
    fit(here)
    served = ModelReward(reward_dir, own_words)
    served.shares_ids = False
    with running(RewardServer(served, "export")) as run:
        spec = {
            "class_path": "lit_rlhf.rewards.remote.RemoteReward",
            "init_args": {"url": run.url, "batch_size": 3},
        }
        there = make_module(reward=spec, gold_reward=run.url)
        fit(there)
        drawn = there.rollouts[0]
        assert run.server.scored == 2 * len(drawn)
    assert drawn.response_ids == here.rollouts[0].response_ids
    assert drawn.scores.std() > 0.1
    assert torch.allclose(drawn.scores, here.rollouts[0].scores, atol=1e-5, rtol=0)
    assert torch.allclose(drawn.gold_scores, drawn.scores, atol=1e-5, rtol=0)
    assert torch.allclose(weights_of(there.network), weights_of(here.network), atol=1e-4)
    assert there.hparams["reward"] == spec and there.hparams["gold_reward"] == run.url


def _scores_of_a_fit(url: str, ranks: int) -> np.ndarray:
    module = make_module(reward=url)
    fit(module, **({"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}))
    return module.rollouts[0].scores.numpy()


def test_each_rank_asks_for_its_own_share():
    sizes = []

    def shares(prompts, completions, completion_ids, **columns):
        sizes.append(len(prompts))
        return share_of_small_ids(prompts, completions, completion_ids)

    with running(RewardServer(FunctionReward(shares), "f", batch_size=1)) as run:
        alone = _scores_of_a_fit(run.url, 1)
        both = run_distributed(_scores_of_a_fit, 2, run.url, 2)
    assert np.std(alone) > 0
    assert np.allclose(both[0], alone, atol=1e-6) and np.allclose(both[1], alone, atol=1e-6)
    assert sum(sizes) == 2 * len(alone) and sorted(sizes)[0] == len(alone) // 2


def test_a_server_that_is_gone_ends_the_run():
    init_args = {"retries": 1, "backoff": 0.0}
    with scripted(otherwise=hangs_up) as server:
        init_args["url"] = server.url
        spec = {"class_path": "lit_rlhf.rewards.remote.RemoteReward", "init_args": init_args}
        with pytest.raises(
            RewardError, match=r"ServerDisconnectedError.* for prompt (soup|cake|train|lamp|hotel)"
        ):
            fit(make_module(reward=spec))
        with pytest.raises(RewardError, match=r"failed on all \d+ responses of the rollout"):
            fit(make_module(reward=spec, failed_rewards="skip"))


def test_what_a_server_failed_on_is_left_out_and_counted():
    def not_for_odd(prompts, completions, completion_ids, **columns):
        return [math.nan if sum(ids) % 2 else 1.0 for ids in completion_ids]

    with running(RewardServer(FunctionReward(not_for_odd), "f")) as run:
        module = make_module(reward=run.url, failed_rewards="skip")
        fit(module)
    drawn = module.rollouts[0]
    odd = [sum(ids) % 2 == 1 for ids in drawn.response_ids]
    assert drawn.failed.tolist() == odd and 0 < sum(odd) < len(odd)
    assert module.numbers[0]["rollout/failed_rewards"] == sum(odd)


def test_a_missing_token_is_said_before_anything_is_drawn(monkeypatch):
    monkeypatch.delenv("TOKEN_OF_THE_TEST", raising=False)
    spec = {
        "class_path": "lit_rlhf.rewards.remote.RemoteReward",
        "init_args": {"url": "http://localhost:1", "token_env": "TOKEN_OF_THE_TEST"},
    }
    module = make_module(reward=spec)  # a checkpoint of it can be opened where there is no token
    module.collect = lambda *_: pytest.fail("it has drawn")
    with pytest.raises(RewardError, match="environment variable TOKEN_OF_THE_TEST"):
        fit(module)

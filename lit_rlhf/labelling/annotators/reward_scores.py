"""Scores of annotators that are rewards: a function, a reward model or a reward server."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lit_rlhf.data.tokenization import load_tokenizer
from lit_rlhf.labelling.annotators.scores import Asked, Noise, ScoreAnnotator
from lit_rlhf.labelling.annotators.settings import Annotator, is_address
from lit_rlhf.models.loading import resolve_scorer
from lit_rlhf.rewards.function import FunctionReward, required_arguments
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.named import names_model, reward_at_path
from lit_rlhf.rewards.protocol import Completions, RewardError
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.remote.posting import PostError
from lit_rlhf.rewards.scoring import PartialReward, describe_failures

DOES_NOT_APPLY = "the reward does not apply to a response"


class RewardScores:
    """Scores by a reward, with what it fails on told apart from a reward that is broken.

    Args:
        reward: a function, a model or a server.
    """

    def __init__(self, reward: PartialReward) -> None:
        self.reward = reward
        self._has_scored = False

    def __call__(self, asked: Sequence[Asked]) -> list[float | str]:
        """A score for each response, or why there is none.

        Raises:
            RewardError: the server does not answer, or the reward has failed on everything since it started.
        """
        columns = {name: [one.columns[name] for one in asked] for name in asked[0].columns}
        completions = Completions(
            prompts=[one.prompt for one in asked],
            texts=[one.response for one in asked],
            prompt_ids=[[] for _ in asked],
            response_ids=[[] for _ in asked],
            finished=[one.finished for one in asked],
            prompt_names=[one.name for one in asked],
            columns=columns,
        )
        scoring = self.reward.begin(completions, thorough=True)()
        unanswered = any(isinstance(failure.cause, PostError) for failure in scoring.failures.values())
        if unanswered or (len(scoring.failures) == len(asked) and not self._has_scored):
            raise RewardError(describe_failures(scoring, completions))
        self._has_scored = True
        return [
            scoring.failures[place].why if place in scoring.failures else _score(score)
            for place, score in enumerate(scoring.scores.tolist())
        ]


def score_annotator(
    settings: Annotator,
    reward: PartialReward,
    slight_width: float = 0.0,
    bounds: Sequence[float] | None = None,
) -> ScoreAnnotator:
    """The annotator who judges by what a reward says, with the noise that the settings give her.

    Args:
        settings: of the annotator.
        reward: from :func:`load_reward`.
        slight_width: of two responses, see :class:`lit_rlhf.labelling.annotators.scores.ScoreAnnotator`.
        bounds: between ratings.
    """
    noise = Noise(settings.temperature, settings.flips, settings.seed)
    return ScoreAnnotator(
        RewardScores(reward), noise, settings.tie_width, slight_width, bounds, settings.columns
    )


def load_reward(settings: Annotator, called: str) -> PartialReward:
    """The server, the model on the CPU with a tokenizer of its own, or the function.

    Args:
        settings: of an annotator that is no language model.
        called: what its `annotator` was given as, for errors.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no reward model, the path cannot be imported, or the function asks for tokens.
    """
    spec = settings.annotator
    if is_address(spec):
        return RemoteReward(spec, timeout=settings.timeout, token_env=settings.key_env)
    if not names_model(spec):
        reward = reward_at_path(spec, settings.timeout, called)
        if isinstance(reward, FunctionReward) and "completion_ids" in required_arguments(reward.function):
            raise ValueError(
                f"{called} {spec}: asks for completion_ids, and an annotator sees text alone. Let the function go by "
                "`completions`; one that can do without gives the argument a default, completion_ids=None."
            )
        return reward
    folder = resolve_scorer(spec)
    tokenizer = load_tokenizer(folder)
    model = ModelReward(folder, tokenizer, tokenizer, settings.batch_size)
    # text is what it is asked about; the ids are another tokenizer's, or there are none
    model.shares_ids = False
    return model


def _score(score: float) -> float | str:
    return DOES_NOT_APPLY if math.isnan(score) else score

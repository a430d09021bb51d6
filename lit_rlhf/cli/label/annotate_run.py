"""Builds the annotator that the command line names, and lets it work through the store."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
from collections.abc import Callable, Sequence

from lit_rlhf.cli.devices import choose_device
from lit_rlhf.cli.label.annotate_chat import Chat
from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.cli.scoring import resolve_scorer
from lit_rlhf.data.tokenization import load_tokenizer
from lit_rlhf.labelling.annotators.language_model import LanguageModel
from lit_rlhf.labelling.annotators.opinions import Tally
from lit_rlhf.labelling.annotators.scores import Asked, Noise, ScoreAnnotator
from lit_rlhf.labelling.annotators.work import judge_at_once, judge_in_batches
from lit_rlhf.labelling.store import LabelStore, StoreError
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.named import names_model, reward_at_path
from lit_rlhf.rewards.protocol import Completions, RewardError
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.remote.posting import PostError
from lit_rlhf.rewards.remote.wire import is_address
from lit_rlhf.rewards.scoring import PartialReward, describe_failures

DOES_NOT_APPLY = "the reward does not apply to a response"
NOTHING_LEFT = {
    "done": "nothing is left for it",
    "quota": "it has as many as the file's quota allows",
    "waiting": "others hold what is left; give the same command again later",
}


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
            raise RewardError(
                f"{describe_failures(scoring, completions)} What was judged is in the file; the same command goes on."
            )
        self._has_scored = True
        return [
            scoring.failures[place].why if place in scoring.failures else _score(score)
            for place, score in enumerate(scoring.scores.tolist())
        ]


def annotate(arguments: argparse.Namespace) -> None:
    """Judge what there is for this annotator, with progress on stderr and a summary in the end."""
    with LabelStore(arguments.db, create=False) as store:
        language = arguments.llm_model is not None
        annotator = None if language else score_annotator(arguments, store)
        store.add_annotator(arguments.name, machine=described(arguments))
        tally = Tally()
        try:
            with RowProgress("judging", work_left(store, arguments), unit="task") as progress:

                def advance(count: int) -> None:
                    progress.total = max(
                        progress.total, progress.done + count
                    )  # tests and repeats come on top
                    progress.advance(count)

                if annotator is None:
                    asyncio.run(ask_language_model(arguments, store, tally, advance))
                else:
                    judge_in_batches(
                        store, arguments.name, annotator.opinions, tally, arguments.limit, advance
                    )
        finally:
            print(f"{arguments.name}: " + "\n".join(tally.lines()), flush=True)
        if arguments.limit is not None and tally.judged >= arguments.limit:
            print("stopped at --limit; the same command goes on")
        else:
            print(NOTHING_LEFT[store.why_nothing(arguments.name)])


def score_annotator(arguments: argparse.Namespace, store: LabelStore) -> ScoreAnnotator:
    """The annotator by scores, held against what the file asks before anything is loaded.

    Raises:
        StoreError: it has ratings and no bounds between them were given, or rows without a field that was asked for.
    """
    items = store.items()
    ratings = sum(item.mode == "rating" for item in items)
    if ratings and arguments.rating_bounds is None:
        raise StoreError(
            f"{store.path}: {ratings} of {len(items)} items ask for ratings: give --rating-bounds, the four scores "
            "from which on a response is rated 2, 3, 4 and 5."
        )
    for column in arguments.columns:
        lacking = [item.row_id or f"item {item.number}" for item in items if column not in item.columns]
        if lacking:
            known = ", ".join(sorted(set(items[0].columns)))
            raise StoreError(
                f"--columns {column}: {len(lacking)} of {len(items)} items have no such field (first: {lacking[0]}); "
                f"the first item has {known or 'none'}."
            )
    rewrites = sum(item.mode == "rewrite" for item in items)
    if rewrites and rewrites == len(items):
        raise StoreError(
            f"{store.path}: all items ask for a correction, which only a language model can write."
        )
    return ScoreAnnotator(
        RewardScores(load_reward(arguments)),
        Noise(arguments.temperature, arguments.flips, arguments.seed),
        arguments.tie_width,
        arguments.slight_width,
        arguments.rating_bounds,
        arguments.columns,
    )


def load_reward(arguments: argparse.Namespace) -> PartialReward:
    """The server, the model on its device with a tokenizer of its own, or the function."""
    spec = arguments.annotator
    if is_address(spec):
        return RemoteReward(spec, timeout=arguments.timeout, token_env=arguments.key_env)
    if not names_model(spec):
        return reward_at_path(spec, arguments.timeout, "--annotator")
    device = choose_device(arguments.device)
    folder = resolve_scorer(spec)
    tokenizer = load_tokenizer(folder)
    reward = ModelReward(folder, tokenizer, tokenizer, arguments.batch_size)
    reward.shares_ids = False  # there are no ids of a policy here, only text
    return reward.to(device)


async def ask_language_model(
    arguments: argparse.Namespace, store: LabelStore, tally: Tally, progress: Callable[[int], None]
) -> None:
    """Judge by asking the language model, some tasks at once."""
    key = None if arguments.key_env is None else os.environ[arguments.key_env].strip()
    chat = Chat(
        arguments.annotator,
        arguments.llm_model,
        arguments.llm_request,
        arguments.timeout,
        arguments.retries,
        arguments.requests_per_minute,
        key,
    )
    async with chat:
        annotator = LanguageModel(chat.ask, store.settings.guidelines, arguments.both_orders)
        await judge_at_once(
            store,
            arguments.name,
            annotator.opinion,
            tally,
            arguments.limit,
            arguments.concurrency,
            progress,
        )


def described(arguments: argparse.Namespace) -> str:
    """What the file says that it is: all that its judgements depend on, so that one name is one annotator."""
    spec = arguments.annotator
    if arguments.llm_model is not None:
        asked = json.dumps(arguments.llm_request, sort_keys=True)
        orders = ", both orders" if arguments.both_orders else ""
        return f"language model {arguments.llm_model} at {spec} with {asked}{orders}"
    kind = "reward server" if is_address(spec) else "reward model" if names_model(spec) else "rule"
    parts = [f"{kind} {spec}"]
    if arguments.temperature or arguments.flips:
        parts.append(
            f"temperature {arguments.temperature:g}, flips {arguments.flips:g}, seed {arguments.seed}"
        )
    for words, width in [("ties", arguments.tie_width), ("slightly", arguments.slight_width)]:
        parts += [f"{words} within {width:g}"] if width else []
    if arguments.rating_bounds is not None:
        parts.append(f"ratings from {' '.join(f'{bound:g}' for bound in arguments.rating_bounds)}")
    parts += [f"told {', '.join(arguments.columns)}"] if arguments.columns else []
    return ", ".join(parts)


def work_left(store: LabelStore, arguments: argparse.Namespace) -> int:
    """Judgements that it may give, tests and repeats left out; an estimate, since people work on them too."""
    progress, settings = store.progress(), store.settings
    mine = progress.by_annotator.get(arguments.name, 0)
    limits = [progress.items - mine, progress.wanted - progress.given]
    limits += [settings.quota - mine] if settings.quota is not None else []
    limits += [arguments.limit] if arguments.limit is not None else []
    return max(0, min(limits))


def _score(score: float) -> float | str:
    return DOES_NOT_APPLY if math.isnan(score) else score

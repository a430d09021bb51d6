"""Builds the annotator that the command line names, and lets it work through the store."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable

from lit_rlhf.cli.devices import choose_device
from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.labelling.annotators.chat import ChatError, chat_with
from lit_rlhf.labelling.annotators.language_model import LanguageModel
from lit_rlhf.labelling.annotators.opinions import Tally
from lit_rlhf.labelling.annotators.reward_scores import load_reward
from lit_rlhf.labelling.annotators.reward_scores import score_annotator as by_reward
from lit_rlhf.labelling.annotators.scores import ScoreAnnotator
from lit_rlhf.labelling.annotators.settings import Annotator, is_address
from lit_rlhf.labelling.annotators.work import judge_at_once, judge_in_batches
from lit_rlhf.labelling.store import LabelStore, StoreError
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.named import names_model
from lit_rlhf.rewards.protocol import RewardError

NOTHING_LEFT = {
    "done": "nothing is left for it",
    "empty": "there is nothing to judge in the file yet",
    "quota": "it has as many as the file's quota allows",
    "waiting": "others hold what is left; give the same command again later",
}


def annotate(arguments: argparse.Namespace, settings: Annotator) -> None:
    """Judge what there is for this annotator, with progress on stderr and a summary in the end."""
    with LabelStore(arguments.db, create=False) as store:
        language = settings.llm_model is not None
        annotator = None if language else score_annotator(arguments, settings, store)
        store.add_annotator(arguments.name, machine=described(arguments, settings))
        tally = Tally()
        try:
            with RowProgress("judging", work_left(store, arguments), unit="task") as progress:

                def advance(count: int) -> None:
                    progress.total = max(
                        progress.total, progress.done + count
                    )  # tests and repeats come on top
                    progress.advance(count)

                if annotator is None:
                    asyncio.run(ask_language_model(arguments, settings, store, tally, advance))
                else:
                    judge_in_batches(
                        store, arguments.name, annotator.opinions, tally, arguments.limit, advance
                    )
        except (ChatError, RewardError) as error:
            error.args = (f"{error} What was judged is in the file; the same command goes on.",)
            raise
        finally:
            print(f"{arguments.name}: " + "\n".join(tally.lines()), flush=True)
        if arguments.limit is not None and tally.judged >= arguments.limit:
            print("stopped at --limit; the same command goes on")
        else:
            print(NOTHING_LEFT[store.why_nothing(arguments.name)])


def score_annotator(arguments: argparse.Namespace, settings: Annotator, store: LabelStore) -> ScoreAnnotator:
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
    for column in settings.columns:
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
    device = choose_device(settings.device)
    reward = load_reward(settings, "--annotator")
    if isinstance(reward, ModelReward):
        reward.to(device)
    return by_reward(settings, reward, arguments.slight_width, arguments.rating_bounds)


async def ask_language_model(
    arguments: argparse.Namespace,
    settings: Annotator,
    store: LabelStore,
    tally: Tally,
    progress: Callable[[int], None],
) -> None:
    """Judge by asking the language model, some tasks at once."""
    async with chat_with(settings) as chat:
        annotator = LanguageModel(chat.ask, store.settings.guidelines, settings.both_orders)
        await judge_at_once(
            store, arguments.name, annotator.opinion, tally, arguments.limit, settings.concurrency, progress
        )


def described(arguments: argparse.Namespace, settings: Annotator) -> str:
    """What the file says that it is: all that its judgements depend on, so that one name is one annotator."""
    spec = settings.annotator
    if settings.llm_model is not None:
        asked = json.dumps(settings.llm_request, sort_keys=True)
        orders = ", both orders" if settings.both_orders else ""
        return f"language model {settings.llm_model} at {spec} with {asked}{orders}"
    kind = "reward server" if is_address(spec) else "reward model" if names_model(spec) else "rule"
    parts = [f"{kind} {spec}"]
    if settings.temperature or settings.flips:
        parts.append(f"temperature {settings.temperature:g}, flips {settings.flips:g}, seed {settings.seed}")
    for words, width in [("ties", settings.tie_width), ("slightly", arguments.slight_width)]:
        parts += [f"{words} within {width:g}"] if width else []
    if arguments.rating_bounds is not None:
        parts.append(f"ratings from {' '.join(f'{bound:g}' for bound in arguments.rating_bounds)}")
    parts += [f"told {', '.join(settings.columns)}"] if settings.columns else []
    return ", ".join(parts)


def work_left(store: LabelStore, arguments: argparse.Namespace) -> int:
    """Judgements that it may give, tests and repeats left out; an estimate, since people work on them too."""
    progress, settings = store.progress(), store.settings
    mine = progress.by_annotator.get(arguments.name, 0)
    limits = [progress.items - mine, progress.wanted - progress.given]
    limits += [settings.quota - mine] if settings.quota is not None else []
    limits += [arguments.limit] if arguments.limit is not None else []
    return max(0, min(limits))

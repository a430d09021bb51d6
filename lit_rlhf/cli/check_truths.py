"""What has to be true before the first update, of a module and its data: looked at on the CPU, nothing trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import lightning as L
import torch
from torch import Tensor

from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.loading import is_scorer_folder, resolve_model_name
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import sequence_logprobs
from lit_rlhf.modules.direct_labels import labels_at_start
from lit_rlhf.modules.dpo import DPOModule
from lit_rlhf.modules.iteration_phase import IterationPhase
from lit_rlhf.modules.ppo import PPOModule
from lit_rlhf.modules.reward import RewardModule
from lit_rlhf.modules.sft import SFTModule
from lit_rlhf.records import Experience, Row, Tree
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rollout.collect import RolloutRequest, describe_completions
from lit_rlhf.rollout.experience import training_batch
from lit_rlhf.rollout.responses import SampledResponses
from lit_rlhf.rollout.reward_truths import head_is_stored, reward_truths, scores_ignore_the_batch
from lit_rlhf.rollout.token_truths import eos_counts, one_bos, text_has_one_bos
from lit_rlhf.rollout.truth import Truth, agreement
from lit_rlhf.rollout.truths import EXACT, first_rollout_truths, ratio_is_one

LOOKED_AT = 4
"""Prompts that the small rollout answers, and rows that the other phases look at."""
LONGEST = 64
"""Tokens at which the rollout's responses are cut off, where the module would let them grow longer."""


def truths_of(module: L.LightningModule, data: TreeDataModule) -> list[Truth]:
    """Every truth that applies to the module, with what was found; phases that sample draw a few responses for it.

    Args:
        module: before its first update. Of one that is none of ours nothing is known.
        data: its data module.
    """
    attach(module, data)
    module.train()
    with torch.no_grad():
        if isinstance(module, PPOModule):
            return ppo_truths(module, data)
        if isinstance(module, IterationPhase):
            return sampling_truths(module, data)
        trees = [tree for tree in data.trees("train") if tree.response_ids][:LOOKED_AT]
        if not isinstance(module, SFTModule | DPOModule | RewardModule) or not trees:
            return []
        truths = [
            text_has_one_bos([row.prompt for row in data.rows("train")[:LOOKED_AT]], data.encoder),
            one_bos([tree.prompt_ids for tree in trees], data.encoder),
            eos_counts(trees, data.encoder),
        ]
        if isinstance(module, RewardModule):
            return [*truths, *reward_module_truths(module, trees)]
        truths.append(logprobs_ignore_the_batch(module, trees))
        return [*truths, *(dpo_truths(module, trees) if isinstance(module, DPOModule) else [])]


def attach(module: L.LightningModule, data: TreeDataModule) -> None:
    """Give both a trainer that is never run, since modules ask theirs for ranks, precision and data."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    module.trainer = trainer
    data.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]  # as its own fit does


def small_rollout(module: IterationPhase, data: TreeDataModule) -> tuple[list[Row], Experience]:
    """A few prompts, and what an iteration would make of them."""
    longest = min(LONGEST, module.sampling.max_new_tokens)
    module.sampling = replace(module.sampling, max_new_tokens=longest)
    rows = list((data.rows("train") or data.rows("val"))[:LOOKED_AT])
    return rows, module.collect(rows, 0)


def sampling_truths(module: IterationPhase, data: TreeDataModule) -> list[Truth]:
    """A small rollout, looked over; the reward, where there is one, asked several times."""
    rows, experience = small_rollout(module, data)
    truths = [
        text_has_one_bos([row.prompt for row in rows], module.encoder),
        *module.first_truths(experience),
    ]
    if module.reward is None:
        return truths
    completions = completions_of(experience, rows, module)
    return [*truths, *reward_truths(module.score, module.hparams.get("reward"), completions)]


def ppo_truths(module: PPOModule, data: TreeDataModule) -> list[Truth]:
    """A small rollout, looked over; the reward asked several times."""
    rows, experience = small_rollout(module, data)
    reference = module.hparams.get("reference")
    starts_there = not isinstance(reference, str) or reference == module.hparams.get("model")
    completions = completions_of(experience, rows, module)
    return [
        text_has_one_bos([row.prompt for row in rows], module.encoder),
        *first_rollout_truths(experience, module.encoder, module.credit, module.kl_coef, starts_there),
        first_ratio_is_one(module, experience),
        *reward_truths(module.score, module.hparams.get("reward"), completions),
    ]


def first_ratio_is_one(module: PPOModule, experience: Experience) -> Truth:
    """The forward that the first update would make, in train mode, beside the rollout's."""
    batch = training_batch(experience, range(len(experience)))
    logprobs = module.network(batch.trees, module.sampling.temperature).logprobs
    return ratio_is_one(logprobs, batch.old_logprobs, batch.trees.response_grid_mask())


def completions_of(experience: Experience, rows: Sequence[Row], module: IterationPhase) -> Completions:
    """What the reward was asked about."""
    places = experience.prompt_index.tolist()
    request = RolloutRequest(
        [rows[place] for place in places],
        experience.prompt_index,
        experience.prompt_ids,
        torch.zeros(len(places), dtype=torch.long),
    )
    sampled = SampledResponses(
        experience.response_ids, experience.sampled_logprobs, experience.entropy, experience.truncated
    )
    return describe_completions(request, sampled, module.encoder)


def logprobs_ignore_the_batch(module: SFTModule | DPOModule, trees: Sequence[Tree]) -> Truth:
    """Whether a response's log-probability is the same in a batch and by itself."""

    def logprobs(given: Sequence[Tree]) -> Tensor:
        return sequence_logprobs(module.network(pack_trees(list(given))))

    with evaluating(module.network):
        together, alone = logprobs(trees), torch.cat([logprobs([tree]) for tree in trees])
    wrong = (
        "the model's attention reads other rows or padding. Compare with model.attention: padded, and report the "
        "model's family."
    )
    return agreement("log-probabilities do not depend on the batch", together, alone, EXACT, wrong)


def reward_module_truths(module: RewardModule, trees: Sequence[Tree]) -> list[Truth]:
    """The head of a reward export that training goes on from, and scores by themselves and in a batch."""
    model = module.hparams.get("model")
    starts_trained = isinstance(model, str) and is_scorer_folder(resolve_model_name(model))
    with evaluating(module.network):
        together = module.network(pack_trees(list(trees)))
        alone = torch.cat([module.network(pack_trees([tree])) for tree in trees])
    return [
        *([head_is_stored(str(model))] if starts_trained else []),
        scores_ignore_the_batch(together, alone),
    ]


def dpo_truths(module: DPOModule, trees: Sequence[Tree]) -> list[Truth]:
    """The loss at the start, where the reference is the start and is there to be asked."""
    batch = pack_trees(list(trees))
    away = module.hparams.get("reference") not in (None, module.hparams.get("model"))
    start = module.objective.loss_at_start
    if away or module.hparams.get("reference_storage") == "precomputed" or start is None:
        return []
    alone = labels_at_start(module.objective, batch)
    if not (batch.better.numel() or len(alone)):
        return []
    losses = module.judge(batch).losses
    compared = torch.full((len(losses) - len(alone),), start, dtype=alone.dtype)
    expected = torch.cat([compared, alone])
    wrong = (
        "the reference is another model than the policy starts from, or one of the two drops out. Leave "
        "model.reference out, and set the policy's dropout to 0."
    )
    values = dict.fromkeys("ln 2" if one == math.log(2) else f"{one:.4g}" for one in expected.tolist())
    name = f"the loss starts at {' or '.join(values)}"
    return [agreement(name, losses, expected.to(losses), EXACT, wrong)]

"""Online DPO: the policy draws several responses to each prompt, has them judged, and takes a direct step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.labelling.annotators.judging import Judge
from lit_rlhf.labelling.annotators.opinions import Tally
from lit_rlhf.labelling.annotators.settings import Annotator
from lit_rlhf.models.execution import Execution
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.reading import Attention
from lit_rlhf.modules.annotator_ranks import annotator_ranks
from lit_rlhf.modules.base import Movable, checked_settings, default_optimizer
from lit_rlhf.modules.comparison_phase import comparison_numbers
from lit_rlhf.modules.direct_methods import Loss, Margin, Ties
from lit_rlhf.modules.direct_objective import DirectObjective
from lit_rlhf.modules.iteration_phase import IterationPhase, check_iteration
from lit_rlhf.modules.online_checks import check_judging
from lit_rlhf.modules.rollout_loader import RolloutLoader
from lit_rlhf.ops.masking import masked_sum
from lit_rlhf.records import Experience, ExperienceBatch, LossOutput, Row
from lit_rlhf.rewards.build import RewardSpec, is_plain
from lit_rlhf.rollout.judging import Compared, judged_batch, ranks_within, share_decided


class OnlineDPOModule(IterationPhase):
    """The direct methods on comparisons of the policy's own responses, drawn and judged anew in each iteration.

    min_π E_{x, y_1..y_K ~ π} [ℓ(h)], without a gradient through the sampling, where ℓ is a loss of
    :class:`DPOModule` and h the difference of log π/π_ref between the response that the judge prefers and the other.
    With preferences of Bradley-Terry the optimum is that of DPO and PPO, π_ref·exp(r/β)/Z, whatever draws the pairs;
    those of the policy itself are where it still errs.

    An iteration is one Lightning epoch, as in :class:`PPOModule`: a rollout, then `epochs` passes over it in
    minibatches of whole prompts. Loader, sizes and resume are the same; the reference's log-probabilities are taken
    once, in the rollout. From two responses that are the same tokens nothing is learnt, from two of one score only
    what `ties` says: `rollout/decided` is the share of prompts that say something. Dropout is off.

    Args:
        model: folder of the policy to start from, hub name, or (from Python) a causal language model.
        reward: what judges, by its scores: the higher is the better one, whatever the difference. As
            :class:`PPOModule`'s: the folder of a reward model, a dotted path to a function
            ``f(prompts, completions, **columns) -> list[float | None]``, ``{class_path, init_args}``, a list of
            ``{reward, weight}``, or an ensemble. Either this or `annotator`.
        annotator: what judges, as an annotator of ``lit-rlhf label annotate`` would: ``{annotator: SPEC, ...}`` with
            the options of that command, such as ``{annotator: my_package.rule, temperature: 1.0, flips: 0.25}``, or
            ``{annotator: http://localhost:8000/v1, llm_model: NAME, guidelines: FILE}``. Responses have no scores then.
        samples_per_prompt: K, responses drawn to each prompt and judged together; 2 in the source.
        compared: of more than two responses ``all`` pairs, which share their prompt's weight, or ``best_worst``, the
            first of the best against the last of the worst.
        loss: a method of :class:`DPOModule`, see there; all but ``kto`` and ``robust``.
        beta: β, reward per nat: small lets the policy go far from the reference; null = what is usual for the method.
            A judge that never errs (a reward without noise) bounds h for ``ipo`` alone, whatever β.
        label_smoothing: share of judgements assumed wrong.
        ties: what responses of one rank say. ``drop``: nothing. ``half``: either is as likely to be better.
        margin: a number, for losses that have one: by how much the better response should win.
        sft_coef: weight of −log π(y_w)/|y_w| beside the loss; null = the method's own.
        reference: folder of the reference policy; null = the policy as it starts; ``{every: n}`` = the policy as it
            was at the last iteration that n divides; ``{decay: τ}`` = its moving average over iterations. Methods
            without a reference have their KL measured to it all the same.
        reference_storage: ``frozen`` holds the reference as a network of its own; ``adapter_off`` takes it from the
            policy without its adapters (needs `lora`).
        epochs: passes over a rollout; 1 in the source: what is learnt from is then always the policy's own.
        minibatch_size: responses an update, over all ranks and accumulation steps; a multiple of `samples_per_prompt`.
        max_new_tokens: response tokens at the most.
        temperature: logits are divided by it, in sampling and in every log-probability.
        max_cached_tokens: tokens whose keys and values each rank holds at once while it samples; what does not fit
            waits for others to finish. null = all responses at once.
        gold_reward: a second reward that trains nothing and is logged beside the first: the judge of whether a rising
            score means better responses.
        reward_timeout: seconds that one call of a reward function may take; null = any.
        failed_rewards: ``stop`` ends the run where a reward fails or is not finite, with the prompt's id; ``skip``
            leaves the response out of all comparisons and counts it.
        lora: fields of peft's LoraConfig, such as ``{r: 8}``, for the policy, and ``base_weights: nf4`` for its frozen
            weights in 4 bits; null = full weights.
        execution: how layers are run in training: ``{activation_checkpointing, offload_activations, compile}``, each
            true or false; null = none of it.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        seed: of sampling and of the order of prompts and minibatches; null = that of ``seed_everything``.

    Source:
        Guo et al. 2024, "Direct language model alignment from online AI feedback", arXiv 2402.04792.
    """

    whole_prompts = True

    def __init__(
        self,
        model: str | nn.Module,
        reward: RewardSpec | None = None,
        annotator: Annotator | None = None,
        samples_per_prompt: int = 2,
        compared: Compared = "all",
        loss: Loss = "sigmoid",
        beta: float | None = None,
        label_smoothing: float = 0.0,
        ties: Ties = "drop",
        margin: Margin = None,
        sft_coef: float | None = None,
        reference: str | dict[str, Any] | None = None,
        reference_storage: Literal["frozen", "adapter_off"] = "frozen",
        epochs: int = 1,
        minibatch_size: int = 64,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        max_cached_tokens: int | None = None,
        gold_reward: RewardSpec | None = None,
        reward_timeout: float | None = None,
        failed_rewards: Literal["stop", "skip"] = "stop",
        lora: Lora | None = None,
        execution: Execution | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: LRSchedulerCallable | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        attention: Attention = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, tokenizer, chat_template)
        lora = lora_settings(lora, dropout=False)
        self.execution = checked_settings(Execution, "execution", execution)
        execution = self.execution and asdict(self.execution)  # type: ignore[assignment]  # plain, for checkpoints
        judging = checked_settings(Annotator, "annotator", annotator)
        annotator = judging and asdict(judging)  # type: ignore[assignment]
        given = {"reward": reward, "gold_reward": gold_reward}
        self.remember_arguments(model, *(name for name, spec in given.items() if not is_plain(spec)))
        check_iteration(locals())
        check_judging(locals())
        self.set_sampling(max_new_tokens, temperature, seed, max_cached_tokens)
        self.set_iteration(samples_per_prompt, epochs, minibatch_size, seed)
        self.objective = DirectObjective(
            loss,
            beta,
            ties,
            label_smoothing,
            flip_rate=0.0,
            margin=margin,
            sft_coef=sft_coef,
            divergence="reverse_kl",
            alpha=None,
            desirable_weight=1.0,
            undesirable_weight=1.0,
            odds_coef=None,
        )
        self.loss: Loss = loss
        self.beta = self.objective.beta
        self.compared: Compared = compared

        self.set_networks(model, reference, reference_storage, attention, lora)
        self.set_rewards(reward, gold_reward, reward_timeout, failed_rewards)
        self.annotator = None if judging is None else Judge(judging)

    def rollout_loader(self, rows: Sequence[Row], batch_size: int | None = None) -> RolloutLoader:
        if self.annotator is not None:
            self.annotator.check_columns(rows)
        return super().rollout_loader(rows, batch_size)

    def collect(self, rows: list[Row], iteration: int) -> Experience:
        """Sample and have it judged, over all ranks. Meant to be overridden."""
        experience = super().collect(rows, iteration)
        if self.annotator is None:
            return experience
        started = time.perf_counter()
        draw, share = (self.seed, iteration), (self.data_rank, self.data_ranks)
        ranks, tally = annotator_ranks(self.annotator, experience, rows, self.encoder, draw, share)
        self._rollout_metrics["time/rollout_seconds"] += time.perf_counter() - started
        self._rollout_metrics["rollout/skipped_prompts"] = float(tally.skipped)
        return replace(experience, ranks=ranks)

    def prepare(self, experience: Experience) -> Experience:
        """The responses with their ranks among those of their prompt, by their scores."""
        ranks = ranks_within(experience.scores, experience.failed, experience.prompt_index)
        return replace(experience, ranks=ranks)

    def on_rollout_end(self, experience: Experience) -> None:
        """Numbers of the rollout, logged at the end of the iteration. Runs once a rollout. Meant to be extended."""
        super().on_rollout_end(experience)
        self._rollout_metrics["rollout/decided"] = share_decided(experience, self.compared)
        if self.reward is None:
            del self._rollout_metrics["objective/scores"]  # there are none

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.objective.reward_shift.forget_watched()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.objective.reward_shift.end_update(self._sum_over_ranks)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["reward_shift"] = self.objective.reward_shift.state_dict()
        checkpoint["annotator"] = None if self.annotator is None else self.annotator.tally.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.objective.reward_shift.load_state_dict(checkpoint["reward_shift"])
        if self.annotator is not None and checkpoint["annotator"] is not None:
            self.annotator.tally = Tally.from_state(checkpoint["annotator"])

    def on_fit_end(self) -> None:
        super().on_fit_end()
        if self.annotator is not None:
            rank_zero_info("model.annotator: " + "\n".join(self.annotator.tally.lines()))

    def frozen(self) -> list[Movable]:
        return [*super().frozen(), *([] if self.annotator is None else [self.annotator])]

    def batch_of(self, experience: Experience, indices: list[int]) -> ExperienceBatch:
        return judged_batch(experience, indices, self.compared)

    def compute_loss(self, batch: ExperienceBatch) -> LossOutput:
        """Summed losses of the comparisons, prompts weighing the same whatever their K, and the sum of weights.

        Raises:
            ValueError: the batch is no experience.
        """
        self.refuse_other_batches(batch)
        mask = batch.trees.response_grid_mask()
        logprobs = self.network(batch.trees, self.sampling.temperature).logprobs.sum(1)
        measured = masked_sum(batch.reference_logprobs, mask, dim=1)
        reference = measured if self.objective.method.reference else None
        items = self.objective(logprobs, reference, batch.trees, learning=True)
        rewards = self.objective.scores(logprobs.detach(), reference, batch.trees)
        return LossOutput(
            (items.weights * items.losses).sum(),
            items.weights.sum(),
            {**items.metrics, **comparison_numbers(rewards, logprobs, batch.trees)},
        )

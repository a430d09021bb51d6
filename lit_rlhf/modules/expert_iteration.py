"""From the reward alone: draw, choose by the score, learn to say what was chosen."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.losses.selection import best_of, imitation_loss
from lit_rlhf.losses.weights import reward_weights
from lit_rlhf.metrics.selection import effective_responses, prompts_with_spread
from lit_rlhf.models.execution import Execution
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.reading import Attention
from lit_rlhf.modules.base import checked_settings, default_optimizer
from lit_rlhf.modules.expert_checks import Method, check_selection
from lit_rlhf.modules.iteration_phase import IterationPhase, check_iteration
from lit_rlhf.modules.rollout_numbers import rollout_numbers
from lit_rlhf.records import Experience, ExperienceBatch, LossOutput
from lit_rlhf.rewards.build import RewardSpec, is_plain
from lit_rlhf.rollout.experience import select


class ExpertIterationModule(IterationPhase):
    """Imitation of the policy's own better responses: best-of-n, expert iteration (RAFT), reward-weighted regression.

    L = −mean_i w_i · log π(y_i | x_i), the mean over responses and log π the sum over a response's tokens, which is
    what makes the optima exact (:func:`lit_rlhf.losses.selection.imitation_loss`). The methods differ in who draws
    the `samples_per_prompt` responses of each prompt, and in w:

    ==================  =============  ===================================  ======================================
    method              draws          w                                    optimum
    ==================  =============  ===================================  ======================================
    best_of_n           the reference  1 of the best `keep`, 0 of the rest  best-of-n's distribution (keep 1)
    raft                the policy     1 of the best `keep`, 0 of the rest  the best response there is
    reward_weighted     the reference  e^{r/β} / its mean over the prompt   π_ref·e^{r/β}/Z, that of PPO and DPO
    ==================  =============  ===================================  ======================================

    There is no ratio, no critic and no price of KL. best_of_n stops by itself, log n − (n−1)/n nats from the reference
    or nearer, and reward_weighted where β says; raft stops nowhere, and how far it goes is the number of its updates.
    In reward_weighted the mean over the n responses stands in for Z, and a weight cannot exceed n: where π* is 0.73
    nats from the reference, 8 responses end 0.06 nats from π*, 16 end 0.025 and 64 end 0.002, always on the
    reference's side. A reference that moves makes expert iteration of these two as well, at its own pace.

    An iteration is one Lightning epoch, as in :class:`PPOModule`: a rollout, then `epochs` passes over what was chosen
    of it in minibatches. Loader, sizes and resume are the same. What is not chosen is not computed again. objective/
    numbers are the policy's: where the reference drew the responses they are logged as reference/, which changes with
    nothing but the prompts, and KL(π‖π_ref) cannot be told of them; val/objective/ has all of it then. Dropout is off.

    Args:
        model: folder of the policy to start from, hub name, or (from Python) a causal language model.
        reward: what scores a response, as :class:`PPOModule`'s: the folder of a reward model, a dotted path to a
            function ``f(prompts, completions, **columns) -> list[float | None]``, ``{class_path, init_args}``, a list
            of ``{reward, weight}``, or an ensemble.
        method: ``best_of_n``, ``raft`` (expert iteration) or ``reward_weighted``.
        samples_per_prompt: n, responses drawn to each prompt.
        keep: of best_of_n and raft: how many of them are learnt. More than 1 is cheaper a response, and its optimum
            between best-of-n and whoever drew.
        beta: of reward_weighted: β, reward per nat of KL.
        reference: folder of the reference policy, which draws (or, with raft, is what the KL is measured to); null =
            the policy as it starts; ``{every: n}`` = the policy as it was at the last iteration that n divides;
            ``{decay: τ}`` = its moving average over iterations.
        reference_storage: ``frozen`` holds the reference as a network of its own; ``adapter_off`` takes it from the
            policy without its adapters (needs `lora`).
        epochs: passes over what was chosen of a rollout.
        minibatch_size: chosen responses an update, over all ranks and accumulation steps.
        max_new_tokens: response tokens at the most.
        temperature: logits are divided by it, in sampling and in every log-probability.
        max_cached_tokens: tokens whose keys and values each rank holds at once while it samples; what does not fit
            waits for others to finish. null = all responses at once.
        gold_reward: a second reward that trains nothing and is logged beside the first: the judge of whether a rising
            score means better responses.
        reward_timeout: seconds that one call of a reward function may take; null = any.
        failed_rewards: ``stop`` ends the run where a reward fails or is not finite, with the prompt's id; ``skip``
            chooses among the others and counts it.
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
        RAFT: Dong et al. 2023, arXiv 2304.06767; expert iteration: Anthony et al. 2017, arXiv 1705.08439;
        reward-weighted regression: Peters and Schaal 2007, with the KL price as temperature Peng et al. 2019, arXiv
        1910.00177.
    """

    def __init__(
        self,
        model: str | nn.Module,
        reward: RewardSpec,
        method: Method = "best_of_n",
        samples_per_prompt: int = 8,
        keep: int = 1,
        beta: float | None = None,
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
        given = {"reward": reward, "gold_reward": gold_reward}
        self.remember_arguments(model, *(name for name, spec in given.items() if not is_plain(spec)))
        check_iteration(locals())
        check_selection(locals())
        self.set_sampling(max_new_tokens, temperature, seed, max_cached_tokens)
        self.set_iteration(samples_per_prompt, epochs, minibatch_size, seed)
        self.method: Method = method
        self.keep = keep
        self.beta = beta

        self.set_networks(model, reference, reference_storage, attention, lora)
        self.set_rewards(reward, gold_reward, reward_timeout, failed_rewards)

    @property
    def draws_from_reference(self) -> bool:
        return self.method != "raft"

    @property
    def learned_per_prompt(self) -> int:
        return self.samples_per_prompt if self.method == "reward_weighted" else self.keep

    def prepare(self, experience: Experience) -> Experience:
        """The responses that are learnt, with their weights; logs what was drawn. Meant to be overridden."""
        numbers = rollout_numbers(experience)
        if self.draws_from_reference:
            del numbers["objective/kl"]
            numbers = {name.replace("objective/", "reference/"): number for name, number in numbers.items()}
        self._rollout_metrics |= numbers
        self._rollout_metrics["episodes"] = float((self.current_epoch + 1) * len(experience))
        counted = ~experience.failed
        scores, prompts = experience.scores[counted], experience.prompt_index[counted]
        self._rollout_metrics["selection/prompts_with_spread"] = prompts_with_spread(scores, prompts).item()
        if self.beta is None:
            # below all others, and so there only where fewer have a score than are kept; it counts nowhere
            known = experience.scores.masked_fill(experience.failed, -torch.inf)
            kept = best_of(known, experience.prompt_index, self.keep)
            learnt = select(experience, kept.nonzero().flatten().tolist())
        else:
            weights = torch.zeros_like(experience.scores)
            weights[counted] = reward_weights(scores, prompts, self.beta)
            learnt = replace(experience, weights=weights)
            effective = effective_responses(weights[counted], prompts).item()
            self._rollout_metrics["selection/effective_responses"] = effective
        weights = learnt.weights * ~learnt.failed
        self._rollout_metrics["selection/scores"] = ((weights @ learnt.scores) / weights.sum()).item()
        return learnt

    def on_rollout_end(self, experience: Experience) -> None:
        """What was drawn and chosen is logged; the sample table shows what is learnt. Meant to be extended."""
        drawn = dict(self._rollout_metrics)
        super().on_rollout_end(experience)  # whose numbers are those of the chosen alone
        self._rollout_metrics = drawn
        for row, weight in zip(self._table, experience.weights.tolist(), strict=False):
            row["weight"] = round(weight, 3)
            if self.draws_from_reference:
                del row["kl"]

    def compute_loss(self, batch: ExperienceBatch) -> LossOutput:
        """Summed losses of the responses, and how many there are.

        Raises:
            ValueError: the batch is no experience.
        """
        self.refuse_other_batches(batch)
        mask = batch.trees.response_grid_mask()
        logprobs = self.network(batch.trees, self.sampling.temperature).logprobs
        losses = imitation_loss(logprobs, mask, batch.weights)
        return LossOutput(losses.sum(), mask.any(1).sum())

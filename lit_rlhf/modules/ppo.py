"""PPO against a reward, under a KL leash to where the policy started."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.losses.policy import LossMean
from lit_rlhf.losses.sft import sft_loss
from lit_rlhf.models.execution import Execution
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.sharding import own_part
from lit_rlhf.modules.base import checked_settings, default_optimizer
from lit_rlhf.modules.iteration_phase import IterationPhase
from lit_rlhf.modules.policy_objective import PolicyObjective, log_ratio_moments
from lit_rlhf.modules.ppo_checks import check_numbers, check_together
from lit_rlhf.modules.pretraining_mix import PretrainingMix, PretrainingRows
from lit_rlhf.modules.rollout_numbers import critic_numbers, price_numbers
from lit_rlhf.ops.kl_control import adapted_kl_coef
from lit_rlhf.ops.masking import masked_mean, masked_sum
from lit_rlhf.ops.moments import Moments
from lit_rlhf.records import Experience, ExperienceBatch, LossOutput, Tree
from lit_rlhf.rewards.build import RewardSpec, is_plain
from lit_rlhf.rollout.credit import (
    GROUP_ADVANTAGES,
    Advantage,
    Baseline,
    Credit,
    Estimator,
    Level,
    Place,
    assign_credit,
)
from lit_rlhf.rollout.shaping import ScoreShaping, shape_scores
from lit_rlhf.rollout.truth import Truth
from lit_rlhf.rollout.truths import score_sits_on_the_eos


class PPOModule(IterationPhase):
    """Proximal policy optimisation (Schulman et al. 2017, eq. 7) of E[r] − β·KL(π‖π_ref), and its relatives.

    An iteration is one Lightning epoch: responses are drawn and scored, each token pays β·k1 to the
    reference, advantages are estimated by GAE, and the responses are gone through `epochs` times in
    minibatches. With k1 inside the reward the optimum is π_ref·exp(r/β)/Z; with k3 in the loss (GRPO's) it is
    β·π_ref/(λ − r), see :mod:`lit_rlhf.ops.kl` for the others. The score stands on the EOS. Dropout is off.

    Args:
        model: folder of the policy to start from, hub name, or (from Python) a causal language model.
        reward: what scores a response: the folder of a reward model; a dotted path to a function
            ``f(prompts, completions, **columns) -> list[float | None]``, sync or async; ``{class_path, init_args}``;
            a list of ``{reward, weight}``; or ``{ensemble: [reward, ...], combine: mean | min | mean_minus_std, k}``;
            with `lora` also ``{adapter: <run>/export-adapter}``, a reward model's adapter on the policy's own trunk.
        critic: folder of the model that the critic starts from (a reward model keeps its head: detail 22 of Huang et
            al. 2024); ``shared`` = a value head on the policy's own trunk; ``adapter`` = with `lora`, a second adapter
            on it and a value head; null = a copy of the policy's trunk with a head of zeros. `advantage` says whether
            there is a critic at all.
        reference: folder of the reference policy; null = the policy as it starts; ``{every: n}`` = the policy as it
            was at the last iteration that n divides; ``{decay: τ}`` = its moving average over iterations.
        reference_storage: ``frozen`` holds the reference as a network of its own; ``adapter_off`` takes it from the
            policy without its adapters (needs `lora`).
        kl_coef: β, reward per nat: 0.05 (Huang et al. 2024, detail 20); 0 takes the leash off. Where `kl_target` is
            given it is the first value (0.15 in Ziegler et al. 2019).
        kl_in: ``reward`` takes the price of a token off its reward; ``loss`` adds the estimate to the loss, where
            advantages divided by their deviation (``grpo``, whitening) leave β a price in units of that, and the
            leash weaker the sharper the policy gets.
        kl_estimator: k1, k2 or k3. In the reward k1 is the one with the optimum above; in the loss k2 has it (for
            responses of several tokens at the level of sequences), k3 has GRPO's, and k1 is no leash.
        kl_target: nats a response that β is adapted to hold (6 in Ziegler et al. 2019); null = β stays.
        kl_horizon: responses over which β is adapted (10,000 in Ziegler et al. 2019).
        advantage: ``gae`` (Schulman et al. 2015, with a critic), ``reinforce`` (returns minus `baseline`), ``rloo``
            (Ahmadian et al. 2024), ``grpo`` (Shao et al. 2024), ``dr_grpo`` (Liu et al. 2025); the last three compare
            the `samples_per_prompt` responses of a prompt and have no critic.
        baseline: of ``reinforce``: none, the mean over the rollout, or the critic's value.
        level: ``token`` clips the ratio of each token; ``sequence`` that of whole responses, which are one action (a
            bandit); ``gspo`` the geometric mean over a response's tokens (Zheng et al. 2025).
        loss_mean: over ``tokens`` of the minibatch; over ``responses`` of the mean of each (GRPO); ``max_length``: over
            responses of the sum divided by `max_new_tokens` (Dr. GRPO). Of ``token`` level only.
        samples_per_prompt: responses drawn to each prompt.
        epochs: passes over a rollout (4, detail 20).
        minibatch_size: responses an update, over all ranks and accumulation steps. Those of a prompt stay together,
            which is then computed once, as far as the parts are multiples of `samples_per_prompt`.
        max_new_tokens: response tokens at the most.
        temperature: logits are divided by it, in sampling and in every log-probability.
        max_cached_tokens: tokens whose keys and values each rank holds at once while it samples; what does not fit
            waits for others to finish. null = all responses at once.
        gamma: γ, discount per token, of ``gae`` and ``reinforce`` at token level (1, detail 20).
        lam: λ of GAE (0.95, detail 20).
        clip_range: ε of the surrogate (0.2, Schulman et al. 2017).
        clip_range_high: ε above 1, where it is another (0.28 in DAPO); null = `clip_range`.
        dual_clip: c > 1: the loss of a token with a negative advantage is at most c·|A| (3, Ye et al. 2020).
        value_clip_range: how far a value may move in an iteration, in units of the returns (0.2); null = freely.
        value_coef: weight of the value loss (0.1, detail 20).
        entropy_coef: weight of the entropy bonus (0: Zheng et al. 2023 find it sensitive, and no gain).
        target_kl: nats a token since the rollout; a minibatch that finds more, and the rest of its iteration, update
            nothing (0.01 to 0.02 is usual elsewhere); null = off. The learning-rate schedule goes on.
        whiten_rewards: token rewards to variance 1 over the rollout, mean kept (off, detail 20).
        whiten_advantages: to mean 0 and variance 1 over the rollout; null = with gae and reinforce where the KL stands
            in the reward: a price in the loss is not divided along with the score, so that β would be another.
        shaping: what is made of scores before training: ``{missing_eos_score, missing_eos_penalty, overlong_buffer,
            overlong_penalty, scale, clip}``; null = nothing.
        pretraining: PPO-ptx (Ouyang et al. 2022, eq. 2): ``{path, coef, batch_size, max_tokens}`` adds the language
            model loss on text of its own to every update; null = off.
        gold_reward: a second reward that trains nothing and is logged beside the first: the judge of whether a rising
            score means better responses.
        reward_timeout: seconds that one call of a reward function may take; null = any.
        failed_rewards: ``stop`` ends the run where a reward fails or is not finite, with the prompt's id; ``skip``
            leaves the response out and counts it.
        critic_warmup: iterations at the start in which the critic learns alone.
        critic_learning_rate: of the critic; null = the optimizer's own.
        lora: fields of peft's LoraConfig, such as ``{r: 8}``, for the policy, and ``base_weights: nf4`` for its frozen
            weights in 4 bits; null = full weights.
        execution: how layers are run in training: ``{activation_checkpointing, offload_activations, compile}``, each
            true or false; null = none of it.
        optimizer: makes the optimizer from parameter groups (policy, critic).
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        seed: of sampling and of the order of prompts and minibatches; null = that of ``seed_everything``.
    """

    def __init__(
        self,
        model: str | nn.Module,
        reward: RewardSpec,
        critic: str | None = None,
        reference: str | dict[str, Any] | None = None,
        reference_storage: Literal["frozen", "adapter_off"] = "frozen",
        kl_coef: float = 0.05,
        kl_in: Place = "reward",
        kl_estimator: Estimator = "k1",
        kl_target: float | None = None,
        kl_horizon: int = 10_000,
        advantage: Advantage = "gae",
        baseline: Baseline = "mean",
        level: Level = "token",
        loss_mean: LossMean = "tokens",
        samples_per_prompt: int = 1,
        epochs: int = 4,
        minibatch_size: int = 64,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        max_cached_tokens: int | None = None,
        gamma: float = 1.0,
        lam: float = 0.95,
        clip_range: float = 0.2,
        clip_range_high: float | None = None,
        dual_clip: float | None = None,
        value_clip_range: float | None = 0.2,
        value_coef: float = 0.1,
        entropy_coef: float = 0.0,
        target_kl: float | None = None,
        whiten_rewards: bool = False,
        whiten_advantages: bool | None = None,
        shaping: ScoreShaping | None = None,
        pretraining: PretrainingMix | None = None,
        gold_reward: RewardSpec | None = None,
        reward_timeout: float | None = None,
        failed_rewards: Literal["stop", "skip"] = "stop",
        critic_warmup: int = 0,
        critic_learning_rate: float | None = None,
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
        self.shaping = checked_settings(ScoreShaping, "shaping", shaping)
        self.pretraining = checked_settings(PretrainingMix, "pretraining", pretraining)
        self.execution = checked_settings(Execution, "execution", execution)
        groups = {"shaping": self.shaping, "pretraining": self.pretraining, "execution": self.execution}
        given = {"reward": reward, "gold_reward": gold_reward}
        self.remember_arguments(model, *(name for name, spec in given.items() if not is_plain(spec)))
        # a subclass's own arguments of these names are objects still
        plain = {name: group and asdict(group) for name, group in groups.items()}
        self.hparams.update({name: value for name, value in plain.items() if name in self.hparams})
        check_numbers(locals())
        self.set_sampling(max_new_tokens, temperature, seed, max_cached_tokens)
        if whiten_advantages is None:
            whiten_advantages = advantage not in GROUP_ADVANTAGES and kl_in == "reward"
        self.credit = Credit(
            advantage=advantage,
            baseline=baseline,
            level=level,
            kl_in=kl_in,
            kl_estimator=kl_estimator,
            gamma=gamma,
            lam=lam,
            whiten_rewards=whiten_rewards,
            whiten_advantages=whiten_advantages,
        )
        self.objective = PolicyObjective(
            level=level,
            loss_mean=loss_mean,
            clip_range=clip_range,
            clip_range_high=clip_range_high,
            dual_clip=dual_clip,
            value_clip_range=value_clip_range,
            value_coef=value_coef,
            entropy_coef=entropy_coef,
            kl_in=kl_in,
            kl_estimator=kl_estimator,
            max_new_tokens=max_new_tokens,
        )
        self.kl_coef = kl_coef
        self.kl_target, self.kl_horizon = kl_target, kl_horizon
        self.target_kl = target_kl
        self.critic_warmup = critic_warmup
        self.critic_learning_rate = critic_learning_rate
        self.set_iteration(samples_per_prompt, epochs, minibatch_size, seed)
        check_together(self)

        self.set_networks(
            model, reference, reference_storage, attention, lora, critic, self.credit.wants_critic
        )
        self.set_rewards(reward, gold_reward, reward_timeout, failed_rewards)
        self.pretraining_rows: PretrainingRows | None = None
        self._score_moments: Moments | None = None
        self._observed_kl: list[float] | None = None
        self._moved: list[Tensor] = []
        self._skipping = False
        self._skipped = 0

    # --- the iteration: rollout -------------------------------------------------------------------------

    def check_rollout_size(self, responses: int) -> None:
        """Refuse an iteration in which β could change sign."""
        if self.kl_target is not None and self.kl_horizon <= 0.2 * responses:
            raise ValueError(
                f"model.kl_horizon: expected more than a fifth of an iteration's {responses} responses, "
                f"since β changes by up to 0.2 x responses / horizon, found {self.kl_horizon}."
            )

    def on_rollout_start(self, iteration: int) -> None:
        """What changes between iterations: β, a reference that moves, and the skipping of a stopped one."""
        super().on_rollout_start(iteration)
        self._skipping, self._skipped, self._moved = False, 0, []
        if self.kl_target is not None and self._observed_kl is not None:
            observed, responses = self._observed_kl
            self.kl_coef = adapted_kl_coef(
                self.kl_coef, observed, self.kl_target, int(responses), self.kl_horizon
            )

    def prepare(self, experience: Experience) -> Experience:
        """Shaped scores, the price of KL, and the advantages of it all."""
        return assign_credit(self._shaped(experience), self.credit, self.kl_coef)

    def on_rollout_end(self, experience: Experience) -> None:
        """Numbers of the rollout, logged at the end of the iteration. Runs once a rollout. Meant to be extended."""
        super().on_rollout_end(experience)
        self._rollout_metrics |= price_numbers(experience, self.kl_coef)
        self._rollout_metrics |= critic_numbers(experience, self.credit)
        self._observed_kl = [self._rollout_metrics["objective/kl"], float(len(experience))]

    def first_truths(self, experience: Experience) -> list[Truth]:
        return [
            *super().first_truths(experience),
            score_sits_on_the_eos(experience, self.credit, self.kl_coef),
        ]

    def _shaped(self, experience: Experience) -> Experience:
        if self.shaping is None:
            return experience
        scores = experience.scores.masked_fill(experience.failed, torch.nan)
        lengths = experience.response_mask.sum(1)
        shaped, self._score_moments = shape_scores(
            scores,
            experience.truncated,
            lengths,
            self.shaping,
            self.sampling.max_new_tokens,
            self._score_moments,
        )
        return replace(experience, shaped_scores=shaped.nan_to_num(0.0))

    # --- the iteration: updates -------------------------------------------------------------------------

    def compute_loss(self, batch: ExperienceBatch) -> LossOutput:
        """The clipped surrogate with its further terms, summed over what it is a mean of.

        Raises:
            ValueError: the batch is no experience.
        """
        self.refuse_other_batches(batch)
        now = self.network(
            batch.trees, self.sampling.temperature, with_entropy=self.objective.entropy_coef != 0
        )
        total, count, metrics = self.objective.loss(now, batch, self.kl_coef)
        if self.target_kl is not None:
            self._moved.append(log_ratio_moments(now, batch))
        if batch.pretraining is not None and self.pretraining is not None:
            mask = batch.pretraining.response_grid_mask()
            logprobs = self.network(batch.pretraining, with_values=False).logprobs
            total = total + self.pretraining.coef * batch.pretraining_scale * masked_sum(
                sft_loss(logprobs, mask), mask
            )
            metrics["policy/pretraining_loss"] = masked_mean(-logprobs.detach(), mask)
        return LossOutput(total, count, metrics)

    def pretraining_of(
        self, experience: Experience, minibatch: list[int], update: int
    ) -> tuple[list[Tree], float] | None:
        """The minibatch's pretraining rows, and what puts their summed loss on the scale of its own."""
        if self.pretraining_rows is None:
            return None
        trees = self.pretraining_rows.trees_of(update)
        tokens = sum(sum(mask) for tree in trees for mask in tree.response_masks)
        return trees, self.objective.counted_items(experience, minibatch) / tokens

    def training_step(self, batch: ExperienceBatch, batch_idx: int) -> Tensor:
        if self._skipping:
            self._skipped += 1
            return self._no_loss()
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """One mean over the minibatch; what is not to learn is left without a gradient: optimizers pass it by."""
        super().on_before_optimizer_step(optimizer)
        if self._moved and self.target_kl is not None:
            moved = self._sum_over_ranks(torch.stack(self._moved).sum(0))
            self._moved = []
            if moved[0] > self.target_kl * moved[1]:
                self._skipping, self._skipped = True, self._skipped + self.trainer.accumulate_grad_batches
        if self._skipping:
            _without_gradient(self.network.parameters())
        elif self.current_epoch < self.critic_warmup:
            _without_gradient(self.network.policy_parameters())

    def _no_loss(self) -> Tensor:
        """Zero, from every trained parameter, as strategies want it."""
        trained = [own_part(p) for p in self.network.parameters() if p.requires_grad]
        return torch.stack([part.sum() * 0.0 for part in trained]).sum()

    def on_train_epoch_end(self) -> None:
        if self.target_kl is not None:
            minibatches = self._skipped / self.trainer.accumulate_grad_batches
            self._rollout_metrics["policy/skipped_minibatches"] = minibatches
        super().on_train_epoch_end()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Policy, and the critic where there is one, at its own learning rate where that is given."""
        groups: list[dict[str, Any]] = [{"params": self.network.policy_parameters(), "name": "policy"}]
        if self.credit.wants_critic:
            critic: dict[str, Any] = {"params": self.network.critic_parameters(), "name": "critic"}
            if self.critic_learning_rate is not None:
                critic["lr"] = self.critic_learning_rate
            groups.append(critic)
        return groups

    # --- what is resumed --------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.pretraining is not None:
            self.pretraining_rows = PretrainingRows(self.pretraining, self.encoder, self.seed)
            self.pretraining_rows.check_positions(self.network.policy.causal_lm.config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the run knows beside its weights, as plain values."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ppo"] = {
            "kl_coef": self.kl_coef,
            "observed_kl": self._observed_kl,
            "score_moments": None if self._score_moments is None else list(self._score_moments),
            "skipping": self._skipping,
            "skipped": self._skipped,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["ppo"]
        if self.kl_target is not None:  # a fixed one is the config's, which wins
            self.kl_coef, self._observed_kl = state["kl_coef"], state["observed_kl"]
        self._score_moments = None if state["score_moments"] is None else Moments(*state["score_moments"])
        self._skipping, self._skipped = state["skipping"], state["skipped"]


def _without_gradient(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None

"""PPO against a reward, under a KL leash to where the policy started."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.seed import settled_seed
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.losses.policy import clipped_policy_loss, clipped_value_loss
from lit_rlhf.metrics import (
    NamedMeans,
    approximate_kl,
    clip_fraction,
    explained_variance,
    value_clip_fraction,
)
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.loading import check_same_vocabulary, disable_dropout, load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import Frozen
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.modules.base import Movable, check_argument, default_optimizer, prompts_of
from lit_rlhf.modules.policy_phase import SHOWN, PolicyPhase
from lit_rlhf.modules.rollout_loader import RolloutLoader
from lit_rlhf.ops.kl import k1
from lit_rlhf.ops.masking import masked_mean, masked_sum
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Experience, ExperienceBatch, LossOutput, ResponseTrees, Row
from lit_rlhf.rewards.build import RewardSpec, build_reward, finite_scores
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rollout.collect import RolloutRequest, collect_rollout
from lit_rlhf.rollout.experience import estimate_advantages, join_ranks

VALIDATION_MEANS = [
    "val/objective/scores",
    "val/objective/kl",
    "val/rollout/response_length",
    "val/rollout/eos_rate",
]


class PPOModule(PolicyPhase):
    """Proximal policy optimisation (Schulman et al. 2017, eq. 7) of E[r] − β·KL(π‖π_ref).

    An iteration is one Lightning epoch: responses are drawn and scored, each token pays β·k1 to the
    reference, advantages are estimated by GAE, and the responses are gone through `epochs` times in
    minibatches. With k1 inside the reward the optimum is π_ref·exp(r/β)/Z. Dropout is off.

    Args:
        model: folder of the policy to start from, hub name, or (from Python) a causal language model.
        reward: what scores a response: the folder of a reward model; a dotted path to a function
            ``f(prompts, completions, **columns) -> list[float]``; ``{class_path, init_args}``; a list of
            ``{reward, weight}``; or ``{ensemble: [reward, ...], combine: mean | min | mean_minus_std, k}``.
        critic: folder of the model that the critic starts from (a reward model keeps its head); null = the
            policy's trunk with a head of zeros. It is a network of its own.
        reference: folder of the reference policy; null = the policy as it starts.
        kl_coef: β, reward per nat. 0.05 in Huang et al. 2024 (detail 20); 0 takes the leash off.
        samples_per_prompt: responses drawn to each prompt.
        epochs: passes over a rollout (4, detail 20).
        minibatch_size: responses an update, over all ranks and accumulation steps.
        max_new_tokens: response tokens at the most.
        temperature: logits are divided by it, in sampling and in every log-probability.
        gamma: γ, discount per token (1, detail 20).
        lam: λ of GAE (0.95, detail 20).
        clip_range: ε of the surrogate (0.2).
        value_clip_range: how far a value may move in an iteration, in units of the returns; null = freely.
        value_coef: weight of the value loss (0.1, detail 20).
        whiten_advantages: to mean 0 and variance 1 over the whole rollout.
        missing_eos_score: score of a response that was cut off; null = what the reward says of it.
        critic_learning_rate: of the critic; null = the optimizer's own.
        optimizer: makes the optimizer from parameter groups (policy, critic).
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        seed: of sampling and of the order of prompts and minibatches; null = that of ``seed_everything``.
    """

    network: ActorCritic

    def __init__(
        self,
        model: str | nn.Module,
        reward: RewardSpec,
        critic: str | None = None,
        reference: str | None = None,
        kl_coef: float = 0.05,
        samples_per_prompt: int = 1,
        epochs: int = 4,
        minibatch_size: int = 64,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        gamma: float = 1.0,
        lam: float = 0.95,
        clip_range: float = 0.2,
        value_clip_range: float | None = 0.2,
        value_coef: float = 0.1,
        whiten_advantages: bool = True,
        missing_eos_score: float | None = None,
        critic_learning_rate: float | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: LRSchedulerCallable | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        attention: Attention = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, tokenizer, chat_template)
        self.remember_arguments(model, *(["reward"] if not isinstance(reward, str | dict | list) else []))
        check_argument("temperature", temperature, temperature > 0, "more than 0, since PPO samples")
        for name, number in (("samples_per_prompt", samples_per_prompt), ("epochs", epochs)):
            check_argument(name, number, number >= 1, "1 or more")
        check_argument("minibatch_size", minibatch_size, minibatch_size >= 1, "1 or more")
        check_argument("kl_coef", kl_coef, kl_coef >= 0, "0 or more")
        check_argument("clip_range", clip_range, clip_range > 0, "more than 0")
        check_argument(
            "value_clip_range",
            value_clip_range,
            value_clip_range is None or value_clip_range > 0,
            "more than 0",
        )
        for name, share in (("gamma", gamma), ("lam", lam)):
            check_argument(name, share, 0 <= share <= 1, "0 to 1")
        self.set_sampling(max_new_tokens, temperature, seed)
        self.kl_coef = kl_coef
        self.samples_per_prompt = samples_per_prompt
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self.gamma, self.lam = gamma, lam
        self.clip_range, self.value_clip_range = clip_range, value_clip_range
        self.value_coef = value_coef
        self.whiten_advantages = whiten_advantages
        self.missing_eos_score = missing_eos_score
        self.critic_learning_rate = critic_learning_rate
        self.seed = settled_seed(seed)

        policy = PolicyNetwork(load_causal_lm(model, attention))
        self.network = disable_dropout(ActorCritic(policy, _make_critic(critic, policy, attention)))
        if reference is None:
            self._reference = Frozen.copy_of(policy)
        else:
            self._reference = Frozen(PolicyNetwork(load_causal_lm(reference, attention)))
            check_same_vocabulary("reference", self._reference.network.causal_lm, policy.causal_lm)
        self.reward = build_reward(reward, self.tokenizer)
        self.val_means = NamedMeans(VALIDATION_MEANS)
        self._rollout_metrics: dict[str, float] = {}
        self._rollout_ended = 0.0
        self._table: list[dict[str, Any]] = []

    # --- the iteration: rollout -------------------------------------------------------------------------

    def rollout_loader(self, rows: Sequence[Row], batch_size: int | None = None) -> RolloutLoader:
        """The training loader over prompt rows, from any data module or handed to the trainer as it is.

        Args:
            rows: the prompts, with their columns for the reward.
            batch_size: prompts an iteration over all ranks; None = the data module's `batch_size`.
        """
        return RolloutLoader(self, rows, batch_size, self.seed)

    def collect(self, rows: list[Row], iteration: int) -> Experience:
        """Sample, score, price and estimate advantages, over all ranks. Meant to be overridden."""
        started = time.perf_counter()
        local = self._draw(self._request(rows, iteration))
        experience = estimate_advantages(
            join_ranks(local, self.trainer.world_size),
            self.kl_coef,
            self.gamma,
            self.lam,
            self.whiten_advantages,
        )
        self._rollout_metrics["time/rollout_seconds"] = time.perf_counter() - started
        return experience

    def score(self, completions: Completions) -> Tensor:
        """Scores ``[N]`` of responses, all finite. Meant to be overridden."""
        scores = finite_scores(self.reward, completions)
        if self.missing_eos_score is None:
            return scores
        return torch.where(torch.tensor(completions.finished), scores, self.missing_eos_score)

    def on_rollout_end(self, experience: Experience) -> None:
        """Numbers of the rollout, logged at the end of the iteration. Meant to be extended."""
        mask = experience.response_mask
        kl = k1(experience.old_logprobs, experience.reference_logprobs).sum(1)
        self._rollout_metrics |= {
            "objective/kl": kl.mean().item(),
            "objective/scores": experience.scores.mean().item(),
            "objective/rlhf_reward": (experience.scores - self.kl_coef * kl).mean().item(),
            "objective/entropy": masked_mean(experience.entropy, mask).item(),
            "objective/kl_coef": self.kl_coef,
            "rollout/response_length": mask.sum(1).float().mean().item(),
            "rollout/eos_rate": 1.0 - experience.truncated.float().mean().item(),
            "value/explained_variance": explained_variance(
                experience.values, experience.returns, mask
            ).item(),
            "episodes": float((self.current_epoch + 1) * len(experience)),
        }
        self._table = self._describe(experience)
        self._rollout_ended = time.perf_counter()

    def _request(self, rows: list[Row], iteration: int) -> RolloutRequest:
        """This rank's responses: r, r + W, r + 2W, ... of all that the iteration draws."""
        total = len(rows) * self.samples_per_prompt
        mine = torch.arange(self.global_rank, total, self.trainer.world_size)
        prompt, sample = mine // self.samples_per_prompt, mine % self.samples_per_prompt
        encoder, places = self.encoder, prompt.tolist()
        limit = getattr(self.datamodule, "max_prompt_tokens", None)
        encoded = {place: plant_tree(rows[place], encoder, limit)[0][0].prompt_ids for place in set(places)}
        keys = counter_key(self.seed, iteration, prompt, sample)
        return RolloutRequest([rows[p] for p in places], [encoded[p] for p in places], keys)

    def _draw(self, request: RolloutRequest) -> Experience:
        with self.trainer.precision_plugin.forward_context():
            return collect_rollout(
                self.network,
                self._reference,
                self.score,
                request,
                self.sampling,
                self.encoder,
                max(
                    1, self.minibatch_size // (self.trainer.world_size * self.trainer.accumulate_grad_batches)
                ),
                self.device,
            )

    # --- the iteration: updates -------------------------------------------------------------------------

    def compute_loss(self, batch: ExperienceBatch) -> LossOutput:
        """Clipped surrogate plus clipped value loss, summed over response tokens.

        Raises:
            ValueError: the batch is no experience.
        """
        if not isinstance(batch, ExperienceBatch):
            raise ValueError(
                f"PPOModule trains on what it has drawn itself, found a batch of {type(batch).__name__}. Give it a "
                "PromptDataModule, or a loader made by its rollout_loader(rows)."
            )
        mask = batch.trees.response_grid_mask()
        now = self.network(batch.trees, self.sampling.temperature)
        policy_losses = clipped_policy_loss(
            now.logprobs, batch.old_logprobs, batch.advantages, self.clip_range
        )
        value_losses = clipped_value_loss(now.values, batch.values, batch.returns, self.value_clip_range)
        total = masked_sum(policy_losses + self.value_coef * value_losses, mask)
        logprobs, values = now.logprobs.detach(), now.values.detach()
        metrics = {
            "policy/loss": masked_mean(policy_losses.detach(), mask),
            "policy/approx_kl": approximate_kl(logprobs, batch.old_logprobs, mask),
            "policy/clip_fraction": clip_fraction(
                logprobs, batch.old_logprobs, batch.advantages, mask, self.clip_range
            ),
            "policy/ratio": masked_mean((logprobs - batch.old_logprobs).exp(), mask),
            "value/loss": masked_mean(value_losses.detach(), mask),
        }
        if self.value_clip_range is not None:
            metrics["value/clip_fraction"] = value_clip_fraction(
                values, batch.values, batch.returns, mask, self.value_clip_range
            )
        return LossOutput(total, mask.sum(), metrics)

    def training_step(self, batch: ExperienceBatch, batch_idx: int) -> Tensor:
        output = self.compute_loss(batch)
        loss = self.mean_loss(output, batch.trees.row_ids)
        self.log_training(output)
        return loss

    def on_train_epoch_end(self) -> None:
        self._rollout_metrics["time/update_seconds"] = time.perf_counter() - self._rollout_ended
        shown = {"objective/scores", "objective/kl"}
        for name, value in self._rollout_metrics.items():
            self.log(name, value, prog_bar=name in shown, sync_dist=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Policy and critic, the latter at its own learning rate where one is given."""
        critic: dict[str, Any] = {"params": list(self.network.critic.parameters()), "name": "critic"}
        if self.critic_learning_rate is not None:
            critic["lr"] = self.critic_learning_rate
        return [{"params": list(self.network.policy.parameters()), "name": "policy"}, critic]

    # --- validation, samples, export --------------------------------------------------------------------

    def validation_step(self, batch: ResponseTrees, batch_idx: int) -> None:
        """Score one response to each validation prompt, drawn with the same noise every time."""
        all_rows = self.datamodule.rows("test" if self.trainer.testing else "val")
        rows = [all_rows[index] for index in batch.row_indices.tolist()]
        keys = counter_key(self.seed, -1, batch.row_indices.cpu())
        experience = self._draw(RolloutRequest(rows, prompts_of(batch), keys))
        kl = k1(experience.old_logprobs, experience.reference_logprobs).sum(1)
        self.val_means.update("val/objective/scores", experience.scores)
        self.val_means.update("val/objective/kl", kl)
        self.val_means.update("val/rollout/response_length", experience.response_mask.sum(1).float())
        self.val_means.update("val/rollout/eos_rate", (~experience.truncated).float())

    def on_validation_epoch_end(self) -> None:
        for name, value in self.val_means.compute().items():
            self.log(name, value, sync_dist=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt of the batch."""
        return self.predict_samples(batch, batch_idx)

    def sample_table(self) -> list[dict[str, Any]] | None:
        """The first responses of the last rollout."""
        return self._table or None

    def _describe(self, experience: Experience) -> list[dict[str, Any]]:
        kl = k1(experience.old_logprobs, experience.reference_logprobs).sum(1)
        return [
            {
                "prompt": self.encoder.decode(experience.prompt_ids[i]),
                "response": self.encoder.decode(experience.response_ids[i]),
                "score": round(experience.scores[i].item(), 3),
                "kl": round(kl[i].item(), 3),
                "finished": not bool(experience.truncated[i]),
            }
            for i in range(min(SHOWN, len(experience)))
        ]

    def frozen(self) -> list[Movable]:
        return [self._reference, self.reward]

    def export(self, directory: str | Path) -> None:
        """Write the policy as ``AutoModelForCausalLM`` loads it; the critic stays in the checkpoint."""
        export_policy(self.network.policy, self.tokenizer_to_export(), directory)


def _make_critic(critic: str | None, policy: PolicyNetwork, attention: Attention) -> ScorerNetwork:
    if critic is not None:
        loaded = load_scorer(critic, attention=attention)
        check_same_vocabulary("critic", loaded.trunk, policy.causal_lm)
        return loaded
    network = ScorerNetwork(copy.deepcopy(policy.causal_lm.base_model))
    network.zero_head()
    return network

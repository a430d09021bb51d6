"""Direct preference optimisation: from comparisons to a policy in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.losses.preference import dpo_loss, implicit_reward
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.loading import check_same_vocabulary, disable_dropout, load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import Frozen
from lit_rlhf.modules.base import Movable, check_argument, default_optimizer
from lit_rlhf.modules.comparison_phase import ComparisonPhase, Judgement
from lit_rlhf.modules.policy_phase import PolicyPhase
from lit_rlhf.modules.reference_cache import ReferenceCache
from lit_rlhf.records import ResponseTrees


class DPOModule(ComparisonPhase, PolicyPhase):
    """The sigmoid loss of Rafailov et al. 2023, eq. 7, on pairs and on all strict pairs of rankings.

    L = −log σ(β·[log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)]), log-probabilities summed over the
    response. Dropout is off, so that the loss starts at ln 2.

    Args:
        model: folder in Hugging Face layout, hub name, or (from Python) a causal language model already built.
        beta: β, reward per nat: small lets the policy go far from the reference. The paper uses 0.1 and 0.5.
        label_smoothing: share of labels assumed wrong (cDPO); 0 trusts them.
        reference: folder of the reference policy; null = the policy as it starts.
        reference_storage: ``frozen`` keeps a second model; ``precomputed`` looks at all rows once before
            training and keeps two numbers a pair instead.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        max_new_tokens: length limit of predicted samples.
        temperature: of predicted samples.
        seed: of predicted samples; null = that of ``seed_everything``.
    """

    network: PolicyNetwork

    def __init__(
        self,
        model: str | nn.Module,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        reference: str | None = None,
        reference_storage: Literal["frozen", "precomputed"] = "frozen",
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: LRSchedulerCallable | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        attention: Attention = "auto",
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, tokenizer, chat_template)
        self.remember_arguments(model)
        self.set_up_validation()
        self.set_sampling(max_new_tokens, temperature, seed)
        check_argument("beta", beta, beta > 0, "more than 0")
        check_argument("label_smoothing", label_smoothing, 0 <= label_smoothing < 0.5, "0 to less than 0.5")
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.network = disable_dropout(PolicyNetwork(load_causal_lm(model, attention)))
        if reference is None:
            self._reference: Frozen | None = Frozen.copy_of(self.network)
        else:
            self._reference = Frozen(PolicyNetwork(load_causal_lm(reference, attention)))
            check_same_vocabulary("reference", self._reference.network.causal_lm, self.network.causal_lm)
        self._precomputed = ReferenceCache() if reference_storage == "precomputed" else None

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Implicit rewards of the responses and the loss of every comparison between them."""
        logprobs = sequence_logprobs(self.network(batch))
        reference = self.reference_logprobs(batch)
        losses = dpo_loss(
            logprobs[batch.better],
            logprobs[batch.worse],
            reference[batch.better],
            reference[batch.worse],
            self.beta,
            batch.target,
            self.label_smoothing,
        )
        return Judgement(losses, implicit_reward(logprobs.detach(), reference, self.beta), logprobs)

    def reference_logprobs(self, batch: ResponseTrees) -> Tensor:
        """log π_ref(y|x) of each response, ``[N]``, without gradient."""
        split = "train" if self.trainer.training else "val"
        if self._precomputed is not None and split in self._precomputed and not self.trainer.testing:
            return self._precomputed.look_up(split, batch)
        return self._look_at_reference(batch)

    def _look_at_reference(self, batch: ResponseTrees) -> Tensor:
        if self._reference is None:
            raise RuntimeError(
                "The reference was let go once its log-probabilities were computed, and these rows were not among "
                "them. Make a new DPOModule for them, with reference_storage: frozen."
            )
        return sequence_logprobs(self._reference(batch))

    def frozen(self) -> list[Movable]:
        return [] if self._reference is None else [self._reference]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self._precomputed is None:
            return
        self._precompute(self._precomputed)
        self._reference = None

    def _precompute(self, cache: ReferenceCache) -> None:
        if not hasattr(self.datamodule, "trees"):
            raise ValueError(
                "model.reference_storage: precomputed needs a data module of lit_rlhf, found "
                f"{type(self.datamodule).__name__}. Use frozen with data of your own."
            )
        for split in ("train", "val"):
            trees = self.datamodule.trees(split)
            if not trees or cache.holds(split, trees):  # what came with the checkpoint is not computed again
                continue
            rank_zero_info(f"Reference log-probabilities of {len(trees)} {split} rows, once before training.")
            cache.fill(
                split,
                trees,
                self._look_at_reference,
                self.device,
                self.global_rank,
                self.trainer.world_size,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._precomputed is not None:
            checkpoint["reference_logprobs"] = self._precomputed.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._precomputed is not None and "reference_logprobs" in checkpoint:
            self._precomputed.load_state_dict(checkpoint["reference_logprobs"])

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt of the batch."""
        return self.predict_samples(batch, batch_idx)

    def export(self, directory: str | Path) -> None:
        """Write the policy as ``AutoModelForCausalLM`` loads it."""
        export_policy(self.network, self.tokenizer_to_export(), directory)

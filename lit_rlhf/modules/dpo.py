"""Direct preference optimisation and its kin: from comparisons to a policy in one step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.streaming.streamed import looked_at
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.loading import check_same_vocabulary, disable_dropout, load_causal_lm
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.quantized import quantize_base
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import AdapterOff, Frozen, check_adapter_off
from lit_rlhf.modules.base import Movable, checked_settings, default_optimizer
from lit_rlhf.modules.comparison_phase import ComparisonPhase, Judgement
from lit_rlhf.modules.direct_checks import check_reference
from lit_rlhf.modules.direct_labels import describe_balance
from lit_rlhf.modules.direct_methods import METHODS, DivergenceName, Loss, Margin, Ties
from lit_rlhf.modules.direct_objective import DirectObjective
from lit_rlhf.modules.direct_tokens import Tokens
from lit_rlhf.modules.mismatched import mismatched, refuse_one_prompt
from lit_rlhf.modules.policy_phase import PolicyPhase
from lit_rlhf.modules.precomputed_reference import PrecomputedReference
from lit_rlhf.records import ResponseTrees


class DPOModule(ComparisonPhase, PolicyPhase):
    """The direct methods, on equal terms: on pairs, on all strict pairs of rankings, and on whole rankings.

    ``kto``, ``bco`` and ``apo_zero`` also take single responses with a label, desirable or not, alone or beside pairs;
    to the other methods these say nothing, and they are refused. The mean is then over prompts of the mean over a
    prompt's labelled responses.

    By default the sigmoid loss of Rafailov et al. 2023, eq. 7:
    L = −log σ(β·[log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)]), log-probabilities summed over the
    response. Dropout is off, so that it starts at ln 2. The mean is over prompts of the mean over a prompt's
    comparisons, whatever the method; votes are soft targets of all of them but ``aot``.

    The update does not depend on how a batch is cut into micro-batches or shared out to ranks, but for two: ``aot``
    and ``aot_unpaired`` order the micro-batch of each rank, and ``kto`` estimates z₀ on the micro-batch, all ranks
    together.

    Args:
        model: folder in Hugging Face layout, hub name, or (from Python) a causal language model already built.
        loss: the method, by h = log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l). Where a β is said it is that of the
            source, which null takes; else null takes 0.1.
            ``sigmoid``: DPO, −log σ(βh), with label_smoothing cDPO, with margin ODPO, with divergence f-DPO.
            ``robust``: corrected for a known flip_rate. ``ipo``: (h − 1/2β)². ``hinge``: max(0, 1 − βh).
            ``sigmoid_norm``, ``ipo_norm``: the same of log-ratios per token (β 5, 0.1).
            ``exo``: the KL the other way round. ``discopop``: logistic and exponential.
            ``bco`` (threshold at the mean reward of all updates before), ``nca``, ``apo_zero``, ``apo_down``, ``sppo``
            (β 0.001): where each response's own reward should be. ``kto``: the better is desirable, the worse is not,
            as seen from z₀; it looks at responses of other prompts in each step, which costs one more forward of
            policy and reference.
            ``aot``, ``aot_unpaired``: the batch's quantiles; comparisons count alike.
            ``simpo`` (per token, β 2, margin β/2), ``cpo``, ``slic`` (margin 1), ``orpo``: without a reference, of
            which none is loaded. ``plackett_luce``: the likelihood of whole rankings, divided by its K − 1 choices;
            it takes a row's weight, and has no place for margins.
        beta: β, reward per nat: small lets the policy go far from the reference. The paper uses 0.1 and 0.5. Null =
            what is usual for the method; ``orpo`` and ``slic`` have none.
        label_smoothing: share of labels assumed wrong (cDPO); 0 trusts them. For sigmoid, sigmoid_norm, simpo, cpo,
            aot and exo, which takes 0.001 for 0.
        ties: what a tie says. ``drop``: nothing. ``half``: either is as likely to be better, which holds the implicit
            rewards of the two together.
        flip_rate: ``robust``: known share of flipped labels.
        margin: ``sigmoid``, ``simpo``, ``slic``: by how much the better response should win, in units of what the loss
            compares. A number for all, ``data`` for what each row says, null = the method's own (0, β/2, 1).
        sft_coef: weight of −log π(y_w)/|y_w|, the likelihood of the better response, beside any loss but orpo, which
            has it; null = the method's own, 1 for cpo and 0 else. SLiC-HF has such a term too, of a weight to be
            found.
        divergence: ``sigmoid``: the price that β is of: ``reverse_kl``, ``forward_kl``, ``jensen_shannon``, ``alpha``.
        alpha: α of divergence ``alpha``: near 0 the reverse KL, 1 the forward KL.
        desirable_weight: ``kto``: λ_D, what a better or desirable response's loss counts. The source wants
            λ_D·n_D / (λ_U·n_U) within 1 and 3/2, with n the counts; what is outside is said.
        undesirable_weight: ``kto``: λ_U, what a worse or undesirable one's counts.
        odds_coef: ``orpo``: λ, what the odds count beside the likelihood; null = 0.1.
        length_desensitization: LD-DPO: α, what the tokens of a comparison's longer response count beyond the length of
            the shorter, 0 to less than 1; null = as much as all others. For losses on pairs that take sums. Logged
            rewards are of whole responses.
        wpo: whether a comparison's loss is multiplied by how on-policy its two responses are (WPO, sampled alignment).
            For losses on pairs but kto, orpo and aot.
        reference: folder of the reference policy; null = the policy as it starts. Not for methods without one.
        reference_storage: ``frozen`` keeps a second model; ``precomputed`` looks at all rows once before
            training, keeps one number a response in a file beside the data, and holds no second model;
            ``adapter_off``, with `lora`, takes the adapters off for the reference's forward, and holds none either.
            Methods without a reference hold none. ``kto`` cannot have it precomputed: it looks at prompts with other
            prompts' responses, which no row has.
        lora: low-rank adapters in place of full weights: peft's fields, such as ``{r: 8, target_modules: all-linear}``
            (``--model.lora.help LoraConfig`` lists them; targets are peft's for the model's family, else
            all-linear), and ``base_weights: nf4`` for frozen weights in 4 bits; null = full weights. Without dropout,
            since it is off.
        execution: how layers are run in training: ``{activation_checkpointing, offload_activations, compile}``, each
            true or false; null = none of it.
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
    takes_labels = True

    def __init__(
        self,
        model: str | nn.Module,
        beta: float | None = None,
        loss: Loss = "sigmoid",
        label_smoothing: float = 0.0,
        ties: Ties = "drop",
        flip_rate: float = 0.0,
        margin: Margin = None,
        sft_coef: float | None = None,
        divergence: DivergenceName = "reverse_kl",
        alpha: float | None = None,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        odds_coef: float | None = None,
        length_desensitization: float | None = None,
        wpo: bool = False,
        reference: str | None = None,
        reference_storage: Literal["frozen", "precomputed", "adapter_off"] = "frozen",
        lora: Lora | None = None,
        execution: Execution | None = None,
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
        lora = lora_settings(lora, dropout=False)
        self.execution = checked_settings(Execution, "execution", execution)
        execution = self.execution and asdict(self.execution)  # type: ignore[assignment]  # plain, for checkpoints
        self.remember_arguments(model)
        self.set_up_validation()
        self.set_sampling(max_new_tokens, temperature, seed)
        self.objective = DirectObjective(
            loss, beta, ties, label_smoothing, flip_rate, margin, sft_coef, divergence, alpha, desirable_weight,
            undesirable_weight, odds_coef, length_desensitization, wpo,
        )  # fmt: skip
        self.loss: Loss = loss
        self.beta = self.objective.beta
        self.ties: Ties = ties
        check_reference(loss, reference, reference_storage, length_desensitization)
        if reference_storage == "adapter_off":
            check_adapter_off(lora is not None, reference, "frozen or precomputed")
        self.network = disable_dropout(PolicyNetwork(load_causal_lm(model, attention)))
        quantize_base(
            self.network.causal_lm, lora
        )  # the policy as it starts, which the reference is a copy of
        compares = self.objective.method.reference
        copies = compares and reference_storage == "frozen" and reference is None
        self._reference: Frozen | AdapterOff | None = Frozen.copy_of(self.network) if copies else None
        self.adapter = add_lora(self.network, self.network.causal_lm, lora)
        set_execution(self.network, self.execution)
        untrained = None if self.adapter is None else AdapterOff(self.network, self.adapter)
        self._precomputed: PrecomputedReference | None = None
        self._lone_batches = 0
        self._said_of_margins = False
        if reference_storage == "precomputed":
            start = model if isinstance(model, str) else None
            self._precomputed = PrecomputedReference(reference, start, attention, untrained)
        elif reference_storage == "adapter_off":
            self._reference = untrained
        elif reference is not None:
            self._reference = Frozen(PolicyNetwork(load_causal_lm(reference, attention)))
            check_same_vocabulary("reference", self._reference.network.causal_lm, self.network.causal_lm)

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Rewards of the responses as the method has them, and the losses that it is a mean of."""
        reference_point = self._reference_point(batch) if self.loss == "kto" else None
        seen = self.network(batch, with_collision=self.objective.wpo)
        logprobs = sequence_logprobs(seen)
        reference, reference_tokens = self._seen_by_reference(batch)
        tokens = Tokens(seen.logprobs, reference_tokens, seen.collision)
        if self.objective.margin != "data" and batch.margin.any():
            self._say_of_margins()
        items = self.objective(logprobs, reference, batch, reference_point, tokens, learning=self.is_learning)
        rewards = self.objective.scores(logprobs.detach(), reference, batch)
        return Judgement(
            items.losses,
            items.weights,
            rewards,
            probability=(rewards[batch.better] - rewards[batch.worse]).sigmoid(),
            disagreement=torch.zeros_like(rewards),
            logprobs=logprobs,
            metrics=items.metrics,
        )

    @torch.no_grad()
    def _reference_point(self, batch: ResponseTrees) -> Tensor:
        """KTO's z₀ = max(0, mean log π/π_ref) over prompts with other prompts' responses; in training, of all ranks.

        0 where every rank has one prompt only, which is counted and said.
        """
        assert self._reference is not None
        positions = getattr(self.network.causal_lm.config.get_text_config(), "max_position_embeddings", None)
        others = mismatched(batch, positions)
        policy, reference = sequence_logprobs(self.network(others.trees)), self._reference(others.trees)
        ratios = (policy - sequence_logprobs(reference))[others.counted]
        sums = torch.stack([ratios.sum(), others.counted.sum().to(ratios)])
        if self._trainer is not None and self.is_learning:
            sums = self._sum_over_ranks(sums)
        total, count = sums
        if count == 0:
            self._lone_batches += 1
        return (total / count.clamp(min=1)).clamp(min=0)

    def _say_of_lone_batches(self) -> None:
        if self._lone_batches:
            rank_zero_info(
                f"kto: {self._lone_batches} batches had one prompt only, and so no other prompt's response: z₀ was "
                "taken as 0 in them. A larger data.batch_size or data.max_tokens avoids it."
            )
        self._lone_batches = 0

    def _say_of_balance(self) -> None:
        trees = looked_at(self.datamodule.trees("train")) if hasattr(self.datamodule, "trees") else []
        weights = self.objective.desirable_weight, self.objective.undesirable_weight
        said = describe_balance(trees, *weights)
        if said is not None:
            rank_zero_info(said)

    def _say_of_margins(self) -> None:
        if not self._said_of_margins:
            takers = ", ".join(name for name, method in METHODS.items() if "margin" in method.takes)
            rank_zero_info(
                f"Rows have margins, which are not used: model.margin: data takes them ({takers})."
            )
        self._said_of_margins = True

    def _seen_by_reference(self, batch: ResponseTrees) -> tuple[Tensor | None, Tensor | None]:
        """log π_ref of each response ``[N]``, where there is one; and of each token ``[N, R]``, where asked for."""
        if not self.objective.method.reference:
            return None, None
        if self.objective.length_desensitization is None:
            return self.reference_logprobs(batch), None
        assert self._reference is not None
        seen = self._reference(batch)
        return sequence_logprobs(seen), seen.logprobs

    def reference_logprobs(self, batch: ResponseTrees) -> Tensor:
        """log π_ref(y|x) of each response, ``[N]``, without gradient."""
        if self._precomputed is not None:
            trainer = self.trainer
            return self._precomputed.look_up(
                "train" if trainer.training else "test" if trainer.testing else "val", batch
            )
        assert self._reference is not None
        return sequence_logprobs(self._reference(batch))

    def frozen(self) -> list[Movable]:
        return [] if self._reference is None else [self._reference]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.objective.reward_shift.forget_watched()
        if self.loss == "kto":
            refuse_one_prompt(self.datamodule, self.data_ranks)
            self._say_of_balance()
        if self._precomputed is not None:
            self._precomputed.prepare(self, "train", "val")
            self._precomputed.policy_has_moved = True  # from here on

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.objective.reward_shift.end_update(self._sum_over_ranks)

    def on_train_epoch_end(self) -> None:
        self._say_of_lone_batches()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._say_of_lone_batches()

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self._precomputed is not None and self.trainer.state.fn == "validate":
            self._precomputed.prepare(self, "val")

    def on_test_start(self) -> None:
        super().on_test_start()
        if self._precomputed is not None:
            self._precomputed.prepare(self, "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._precomputed is not None:
            checkpoint["reference_logprobs"] = self._precomputed.state_dict()
        if self.loss == "bco":
            checkpoint["reward_shift"] = self.objective.reward_shift.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._precomputed is not None:
            self._precomputed.policy_has_moved = True
            if "reference_logprobs" in checkpoint:
                self._precomputed.load_state_dict(checkpoint["reference_logprobs"])
        if "reward_shift" in checkpoint:
            self.objective.reward_shift.load_state_dict(checkpoint["reward_shift"])

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt of the batch."""
        return self.predict_samples(batch, batch_idx)

    def write_export(self, network: PolicyNetwork, adapter: LoraAdapter | None, directory: Path) -> None:
        """As ``AutoModelForCausalLM`` loads it."""
        export_policy(network, self.tokenizer_to_export(), directory, adapter)

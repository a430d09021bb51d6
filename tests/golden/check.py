#!/usr/bin/env python
"""Numbers from outside against this library's: ``python tests/golden/check.py FILE``.

A file holds ``cases``, each with a name, params, inputs (which may say ``{"ref": name}``: those of
that case, and further ones), outputs and a tolerance. A failing case gives one line with every
output that differs and by how much. A case is skipped, by name, where its loss, or a parameter of
it, is not built. The last line counts.

`CHECKS`, at the end, says which function computes which cases; it returns the outputs that the
library gives, and those that it does not give are listed as not compared.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_rlhf import metrics
from lit_rlhf.losses.absolute import bco_loss, nca_loss, sppo_loss
from lit_rlhf.losses.anchored import apo_down_loss, apo_zero_loss
from lit_rlhf.losses.contrastive import contrastive_views, simcse_loss, sinkhorn, swav_loss
from lit_rlhf.losses.differences import discopop_loss, exo_loss, hinge_loss, ipo_loss
from lit_rlhf.losses.divergences import Divergence, forward_kl, jensen_shannon, reverse_kl
from lit_rlhf.losses.length_normalized import length_normalized_dpo_loss, length_normalized_ipo_loss
from lit_rlhf.losses.lengths import length_desensitized_logprobs
from lit_rlhf.losses.meta import difference_loss
from lit_rlhf.losses.policy import LossMean, clipped_policy_loss, clipped_value_loss, loss_sum
from lit_rlhf.losses.preference import dpo_loss, implicit_reward, robust_dpo_loss
from lit_rlhf.losses.rankings import best_of_k_loss, plackett_luce_loss
from lit_rlhf.losses.reference_free import cpo_loss, odds_ratio_loss, simpo_loss, slic_loss
from lit_rlhf.losses.reward import bradley_terry_loss, centering_penalty, uniform_error_loss
from lit_rlhf.losses.sft import sft_loss
from lit_rlhf.losses.transport import aot_loss, aot_unpaired_loss
from lit_rlhf.losses.unpaired import kto_loss, kto_reference_point
from lit_rlhf.losses.weights import wpo_weights
from lit_rlhf.metrics.best_of_n import best_of_n_kl, best_of_n_probabilities
from lit_rlhf.ops import kl
from lit_rlhf.ops.advantages import generalized_advantages, kl_penalized_rewards, reinforce_returns
from lit_rlhf.ops.group_advantages import dr_grpo_advantages, grpo_advantages, rloo_advantages
from lit_rlhf.ops.kl_control import adapted_kl_coef
from lit_rlhf.ops.logprobs import log_collision, token_entropy, token_logprobs
from lit_rlhf.ops.masking import masked_mean, masked_sum, masked_whiten
from lit_rlhf.ops.moments import merge_moments
from lit_rlhf.ops.normalization import gain_and_bias
from lit_rlhf.ops.strength import preference_strength

Outputs = dict[str, Any]
"""By name a tensor, a number, a list of dicts; or ``(tensor, mask)``: compared where the mask is True."""


class NotBuiltError(Exception):
    """The library has no such loss, or not with this parameter."""


@dataclass
class Case:
    name: str
    params: dict[str, Any]
    inputs: dict[str, Any]
    """Lists as tensors, float64 or long; names ending in ``mask`` as bool."""
    outputs: dict[str, Any]
    """What is expected, as it stands in the file."""
    others: dict[str, dict[str, Any]]
    """All cases of the file as they stand there."""

    def only(self, *understood: str) -> None:
        """Skips the case if it sets any other parameter."""
        for name, value in self.params.items():
            if name not in understood and value not in (None, False, 0):
                raise NotBuiltError(f"{name} = {value}")

    def leaves(self, *names: str) -> list[Tensor]:
        return [self.inputs[name].clone().requires_grad_() for name in names]


def gradients(loss: Tensor, **leaves: Tensor) -> Outputs:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))


# ----------------------------------------------------------------------------- one function per group


def response_grid(logits: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the tokens behind the first, and which of them count; each ``[6, 8]``."""
    logprobs = token_logprobs(logits[:, :-1], case.inputs["input_ids"][:, 1:])  # each predicts the next
    return logprobs, case.inputs["completion_mask"][:, 1:]


def response_logprobs(logits: Tensor, case: Case) -> Tensor:
    grid, mask = response_grid(logits, case)
    alpha = case.params.get("ld_alpha")
    if alpha is None:
        return masked_sum(grid, mask, dim=1)
    shorter = torch.minimum(*mask.sum(dim=1).chunk(2)).repeat(2)
    return length_desensitized_logprobs(grid, mask, shorter, alpha)


def sequence_logprobs(case: Case) -> Outputs:
    return {
        "policy_logps": response_logprobs(case.inputs["policy_logits"], case),
        "ref_logps": response_logprobs(case.inputs["ref_logits"], case),
        "n_completion_tokens": case.inputs["completion_mask"].sum(1),
    }


DIVERGENCES: dict[str | None, Divergence] = {
    None: reverse_kl,
    "forward_kl": forward_kl,
    "js_divergence": jensen_shannon,
}


def trl_pair_loss(case: Case, lengths: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """Ours for TRL's `loss_type`; takes the four log-probabilities and β."""
    smoothing = case.params["label_smoothing"]
    losses: dict[str, Callable[..., Tensor]] = {
        "sigmoid": partial(dpo_loss, divergence=DIVERGENCES[case.params.get("fdiv")]),
        "robust": partial(robust_dpo_loss, flip_rate=smoothing),
        "hinge": hinge_loss,
        "ipo": lambda *pair: length_normalized_ipo_loss(*pair[:4], *lengths, *pair[4:]),
        "sigmoid_norm": lambda *pair: length_normalized_dpo_loss(*pair[:4], *lengths, *pair[4:]),
        "exo_pair": partial(exo_loss, label_smoothing=smoothing),
        "nca_pair": nca_loss,
        "bco_pair": bco_loss,
        "sppo_hard": sppo_loss,
        "apo_zero": apo_zero_loss,
        "apo_down": apo_down_loss,
        "discopop": discopop_loss,
        "aot": partial(aot_loss, label_smoothing=smoothing),
        "aot_unpaired": partial(aot_unpaired_loss, label_smoothing=smoothing),
    }
    if case.params["loss_type"] not in losses:
        raise NotBuiltError(f"loss_type = {case.params['loss_type']}")
    return losses[case.params["loss_type"]]


def dpo_from_logits(case: Case) -> Outputs:
    case.only("beta", "loss_type", "label_smoothing", "fdiv", "ld_alpha", "wpo")
    (logits,) = case.leaves("policy_logits")
    grid, mask = response_grid(logits, case)
    if case.params["loss_type"] == "sft":
        chosen = slice(len(mask) // 2)
        loss = masked_mean(sft_loss(grid, mask)[chosen], mask[chosen])
        return {"loss": loss, **gradients(loss, grad_policy_logits=logits)}
    pair_loss = trl_pair_loss(case, mask.sum(dim=1).chunk(2))
    policy, reference = (
        response_logprobs(each, case).chunk(2) for each in (logits, case.inputs["ref_logits"])
    )
    per_pair = pair_loss(*policy, *reference, case.params["beta"])
    if case.params.get("wpo"):
        better, worse = wpo_weights(grid, log_collision(logits[:, :-1]), mask).chunk(2)
        per_pair = per_pair * better * worse
    loss = per_pair.mean()
    return {"loss": loss, "per_pair_loss": per_pair, **gradients(loss, grad_policy_logits=logits)}


def dpo_from_logprobs(case: Case) -> Outputs:
    case.only("beta", "label_smoothing", "reference_free", "ipo")
    sides = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    chosen, rejected, chosen_reference, rejected_reference = (case.inputs[f"{side}_logps"] for side in sides)
    beta, smoothing = case.params["beta"], case.params.get("label_smoothing", 0.0)
    known = 0.0 if case.params.get("reference_free") else 1.0
    pair = (chosen, rejected, known * chosen_reference, known * rejected_reference)
    per_pair = (
        ipo_loss(*pair, beta) if case.params.get("ipo") else dpo_loss(*pair, beta, label_smoothing=smoothing)
    )
    return {
        "per_pair_loss": per_pair,
        "loss": per_pair.mean(),
        "chosen_rewards": implicit_reward(chosen, chosen_reference, beta),
        "rejected_rewards": implicit_reward(rejected, rejected_reference, beta),
    }


def reference_free(case: Case) -> Outputs:
    """TRL's CPO. What it calls averages comes as averages: of one token, as far as our losses see."""
    case.only("beta", "simpo_gamma", "logps", "loss_type")
    sides = case.leaves("chosen_logps", "rejected_logps")
    beta, one, zero = case.params["beta"], torch.ones(len(sides[0])), torch.zeros_like(sides[0])
    per_pair = {
        "simpo": lambda: simpo_loss(*sides, one, one, beta, case.params["simpo_gamma"]),
        "sigmoid": lambda: cpo_loss(*sides, beta),
        "hinge": lambda: beta * slic_loss(*sides, margin=1 / beta),
        "ipo": lambda: ipo_loss(*sides, zero, zero, beta),
    }[case.params["loss_type"]]()
    loss = per_pair.mean()
    slopes = gradients(loss, grad_chosen_logps=sides[0], grad_rejected_logps=sides[1])
    return {"per_pair_loss": per_pair, "loss": loss, **slopes}


def odds_ratio(case: Case) -> Outputs:
    """TRL returns λ·log σ, which its trainer subtracts; the gradients are of the term as it is added."""
    case.only("beta")
    chosen, rejected = case.leaves("chosen_avg_logps", "rejected_avg_logps")
    one = torch.ones(len(chosen))
    per_pair = case.params["beta"] * odds_ratio_loss(chosen, rejected, one, one)
    loss = per_pair.mean()
    return {
        "returned_losses": -per_pair,
        "loss_term_to_add": loss,
        **gradients(loss, grad_chosen=chosen, grad_rejected=rejected),
    }


def kto(case: Case) -> Outputs:
    case.only("beta", "desirable_weight", "undesirable_weight", "loss_type")
    (logprobs,) = case.leaves("logps")
    point: Tensor = torch.zeros(())  # what makes it `apo_zero_unpaired`
    if case.params["loss_type"] == "kto":
        point = kto_reference_point(case.inputs["KL_logps"], case.inputs["ref_KL_logps"])
    per_response = kto_loss(
        logprobs,
        case.inputs["ref_logps"],
        case.inputs["desirable"],
        point,
        case.params["beta"],
        case.params["desirable_weight"],
        case.params["undesirable_weight"],
    )
    loss = per_response.mean()
    return {"loss": loss, "kl_z0": point, **gradients(loss, grad_logps=logprobs)}


def reward_model(case: Case) -> Outputs:
    case.only("alpha", "p_uniform", "center_rewards_coefficient")
    if "strength_chosen" in case.inputs:
        chosen, rejected = (case.inputs[f"strength_{side}"].log() for side in ("chosen", "rejected"))
    else:
        chosen, rejected = case.leaves("chosen", "rejected")
    margin = case.inputs.get("margin")
    margin = 0.0 if margin is None else margin
    outputs: Outputs = {}
    if "loss_margin" in case.outputs:  # one case with both losses
        outputs["loss_margin"] = bradley_terry_loss(chosen, rejected, margin=margin).mean()
        margin = 0.0
    target = 1 - case.params.get("alpha", 0.0)
    if "p_uniform" in case.params:
        per_pair = uniform_error_loss(chosen, rejected, case.params["p_uniform"], target, margin)
    else:
        per_pair = bradley_terry_loss(chosen, rejected, target, margin)
    loss = per_pair.mean()
    coefficient = case.params.get("center_rewards_coefficient")
    if coefficient is not None:
        loss = loss + coefficient * centering_penalty(chosen, rejected).mean()
    outputs |= {"per_pair_loss": per_pair, "loss": loss, "mean_margin": (chosen - rejected).mean()}
    if chosen.requires_grad:
        outputs |= gradients(loss, grad_chosen=chosen, grad_rejected=rejected)
    accuracy = metrics.PairAccuracy()
    accuracy.update(chosen, rejected, torch.ones_like(chosen))
    return outputs | {"accuracy": accuracy.compute()}


def ranking(case: Case) -> Outputs:
    (scores,) = case.leaves("rewards")
    num_prompts, num_responses = scores.shape
    tree_index = torch.arange(num_prompts).repeat_interleave(num_responses)
    if "best" in case.inputs:
        ranks = torch.full_like(scores, 2.0).scatter(1, case.inputs["best"][:, None], 1.0)
        losses = best_of_k_loss(scores.flatten(), ranks.flatten(), tree_index, ties="half")
        return {"per_prompt_loss": losses, "loss": losses.mean()}
    best_first = case.inputs["ranking_best_first"]
    ranks = 1.0 + best_first.argsort(1)
    listwise = plackett_luce_loss(scores.flatten(), ranks.flatten(), tree_index, ties="half")
    better, worse = torch.triu_indices(num_responses, num_responses, offset=1)
    in_order = scores.gather(1, best_first)
    pairwise = bradley_terry_loss(in_order[:, better], in_order[:, worse]).mean(dim=1)
    # Prompts' gradients are kept apart: the file has that of each prompt's own loss.
    return {
        "plackett_luce_nll": listwise,
        "pairwise_mean_loss": pairwise,
        **gradients(listwise.sum(), grad_plackett_luce=scores),
        **gradients(pairwise.sum(), grad_pairwise=scores),
    }


def simcse(case: Case) -> Outputs:
    case.only("tau")
    first, second = case.leaves("h_s", "h_t")
    per_example = simcse_loss(first, second, case.params["tau"])
    loss = per_example.mean()
    return {"per_example": per_example, "loss": loss, **gradients(loss, grad_h_s=first, grad_h_t=second)}


def swav(case: Case) -> Outputs:
    case.only("tau", "epsilon", "sinkhorn_iterations", "K")
    first, second, prototypes = (case.inputs[name] for name in ("h_s", "h_t", "prototypes_unit"))
    epsilon, iterations = case.params["epsilon"], case.params["sinkhorn_iterations"]
    losses = swav_loss(first, second, prototypes, case.params["tau"], epsilon, iterations)
    scores = {side: normalize(case.inputs[f"h_{side}"]) @ prototypes.T for side in "st"}
    return {
        "scores_s": scores["s"],
        "scores_t": scores["t"],
        "q_s": sinkhorn(scores["s"], epsilon, iterations),
        "q_t": sinkhorn(scores["t"], epsilon, iterations),
        "loss_mean_of_two": losses.mean() / 2,
        "loss_sum_secrets2_eq7": losses.mean(),
    }


def views(case: Case) -> Outputs:
    features = case.inputs["f_chosen"], case.inputs["f_rejected"]
    return {
        "pairs": contrastive_views(*features, on="responses"),
        "differences": contrastive_views(*features, on="differences"),
    }


def meta_difference(case: Case) -> Outputs:
    scores = case.inputs["scores"]
    tree_index = torch.arange(len(scores)).repeat_interleave(case.params["k"])
    return {"J": difference_loss(scores.flatten(), tree_index)}


def strength(case: Case) -> Outputs:
    return dict(zip(("mean", "std"), preference_strength(case.inputs["d"]), strict=True))


def reward_norm(case: Case) -> Outputs:
    old_mean, old_std = (
        torch.as_tensor(case.inputs[name], dtype=torch.float64) for name in ("old_mean", "old_std")
    )
    return dict(zip(("gain", "bias"), gain_and_bias(old_mean, old_std, **case.params), strict=True))


def openrlhf_mean(losses: Tensor, mask: Tensor, mean: LossMean) -> Tensor:
    """Our mean, with the 1e-8 that OpenRLHF adds to a response's count of tokens."""
    if mean == "responses":
        length = mask.sum(dim=1, keepdim=True).double()
        losses = losses * (length / (length + 1e-8))
    total, count = loss_sum(losses, mask, mean, max_length=losses.shape[1])
    return total / count


def mean_over(case: Case) -> LossMean:
    return "tokens" if case.params.get("token_level_loss", True) else "responses"


def ppo_policy(case: Case) -> Outputs:
    case.only(
        "clip_eps", "clip_eps_low", "clip_eps_high", "dual_clip", "token_level_loss", "policy_loss_type"
    )
    (logprobs,) = case.leaves("logps")
    mask, old, advantages = (case.inputs[name] for name in ("action_mask", "old_logps", "advantages"))
    low = case.params.get("clip_eps_low", case.params["clip_eps"])
    high, dual = case.params.get("clip_eps_high"), case.params.get("dual_clip")
    compared: tuple[Tensor, Tensor] = (logprobs, old)
    mean = mean_over(case)
    if case.params.get("policy_loss_type") == "gspo":  # there each token keeps an advantage of its own
        now, then = (masked_mean(grid, mask, dim=1)[:, None].expand_as(grid) for grid in compared)
        compared = (now, then)
        mean = "responses"
    loss = openrlhf_mean(clipped_policy_loss(*compared, advantages, low, high, dual), mask, mean)
    return {
        "loss": loss,
        "clip_ratio": metrics.clip_fraction(*compared, advantages, mask, low, high, dual),
        "ppo_kl": masked_mean(kl.k1(old, logprobs), mask),
        **gradients(loss, grad_logps=logprobs),
    }


def ppo_value(case: Case) -> Outputs:
    case.only("clip_eps", "token_level_loss")
    (values,) = case.leaves("values")
    per_token = clipped_value_loss(
        values, case.inputs["old_values"], case.inputs["returns"], case.params["clip_eps"]
    )
    loss = openrlhf_mean(per_token, case.inputs["action_mask"], mean_over(case))
    return {"loss": loss, **gradients(loss, grad_values=values)}


def reward_placement(case: Case) -> Outputs:
    case.only("kl_coef", "reward_clip_range")
    mask, scores = case.inputs["action_mask"], case.inputs["scores"]
    if case.params["reward_clip_range"] is not None:
        scores = scores.clamp(*case.params["reward_clip_range"])
    rewards = kl_penalized_rewards(scores, case.inputs["kl_per_token"], mask, case.params["kl_coef"])
    return {"token_rewards": (rewards, mask)}  # outside OpenRLHF leaves the price, here it is 0


def kl_estimator(case: Case) -> Outputs:
    estimator = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}[case.params["estimator"]]
    per_token = estimator(case.inputs["logps"], case.inputs["ref_logps"])
    outputs: Outputs = {"per_token": per_token}
    shared = case.others.get("ppo/inputs")
    if shared is not None:  # the means of these cases are under the mask of that one
        mask = torch.tensor(shared["inputs"]["action_mask"]).bool()
        outputs["masked_mean"] = masked_mean(per_token, mask)
        outputs["seq_sum_mean"] = masked_sum(per_token, mask, dim=1).mean()
    return outputs


def advantages(case: Case) -> Outputs:
    values = case.inputs.get("values", torch.zeros_like(case.inputs["token_rewards"]))
    result = generalized_advantages(
        values,
        case.inputs["token_rewards"],
        case.inputs["action_mask"],
        gamma=case.params["gamma"],
        lam=case.params.get("lam", 1.0),
    )
    return dict(zip(("advantages", "returns"), result, strict=True))


def returns_to_go(case: Case) -> Outputs:
    grids = case.inputs["token_rewards"], case.inputs["action_mask"]
    return {"returns": reinforce_returns(*grids, gamma=case.params["gamma"])}


def whiten(case: Case) -> Outputs:
    values, mask = case.inputs["values"], case.inputs["mask"]
    shift, epsilon = case.params["shift_mean"], case.params["eps"]
    biased, unbiased = (
        masked_whiten(values, mask, shift, unbiased=unbiased, epsilon=epsilon) for unbiased in (False, True)
    )
    return {"biased": (biased, mask), "unbiased": (unbiased, mask), "valid_only": biased != 0}


def group_advantages(case: Case) -> Outputs:
    rewards = case.inputs["rewards"]
    group = torch.arange(len(rewards)) // case.params["G"]
    return {
        "grpo": grpo_advantages(rewards, group),
        "dr_grpo": dr_grpo_advantages(rewards, group),
        "rloo": rloo_advantages(rewards, group),
    }


def grpo(case: Case) -> Outputs:
    """TRL's aggregations by our names; `bnpo` and `dapo` differ over several devices, not on one."""
    means: dict[str, LossMean] = {
        "grpo": "responses",
        "bnpo": "tokens",
        "dapo": "tokens",
        "dr_grpo": "max_length",
    }
    (logprobs,) = case.leaves("logps")
    mask = case.inputs["mask"]
    advantages = case.inputs["advantages"][:, None].expand_as(logprobs)
    surrogate = clipped_policy_loss(
        logprobs, case.inputs["old_logps"], advantages, clip_range=case.params["epsilon"]
    )
    per_token = surrogate + case.params["beta"] * kl.k3(logprobs, case.inputs["ref_logps"])
    total, count = loss_sum(
        per_token, mask, means[case.params["loss_type"]], case.params["max_completion_length"]
    )
    loss = total / count
    return {"loss": loss, **gradients(loss, grad_logps=logprobs)}


def rloo(case: Case) -> Outputs:
    (logprobs,) = case.leaves("logps")
    mask = case.inputs["mask"]
    whole, whole_old = (masked_sum(grid, mask, dim=1) for grid in (logprobs, case.inputs["old_logps"]))
    loss = clipped_policy_loss(whole, whole_old, case.inputs["advantages"], case.params["epsilon"]).mean()
    return {"loss": loss, **gradients(loss, grad_logps=logprobs)}


def kl_controller(case: Case) -> Outputs:
    coef, coefs = case.params["init"], []
    for observed in case.inputs["observed_seq_kl"].tolist():
        coef = adapted_kl_coef(
            coef, observed, case.params["target"], case.params["n_steps"], case.params["horizon"]
        )
        coefs.append(coef)
    return {"coef_after_each": coefs}


def running_moments(case: Case) -> Outputs:
    """The source's variance is the biased one, its deviation is Bessel's; ours is Bessel's too."""
    moments, rows = None, []
    for batch in case.inputs["batches"]:
        moments = merge_moments(moments, torch.tensor(batch, dtype=torch.float64))
        rows.append([moments.mean, moments.squares / moments.count, moments.std])
    return {
        "mean_var_std_after_each": rows,
        "exact_final_mean": rows[-1][0],
        "exact_final_std_ddof1": rows[-1][2],
    }


def trl_masks(case: Case) -> tuple[Tensor, Tensor]:
    """Tokens to the EOS, and one more where there is one: TRL puts the score behind the EOS."""
    values = case.inputs["values"]
    position, eos = torch.arange(values.shape[1]), case.inputs["eos_index"][:, None]
    return position <= eos, position <= eos + 1


def trl_advantages(case: Case) -> Outputs:
    mask, longer = trl_masks(case)
    estimator = {"k1": kl.k1, "k3": kl.k3}[case.params["kl_estimator"]]
    price = estimator(case.inputs["logps"], case.inputs["ref_logps"]).masked_fill(~mask, 0)
    rewards = kl_penalized_rewards(case.inputs["scores"], price, longer, case.params["kl_coef"])
    if case.params["whiten_rewards"]:
        rewards = masked_whiten(rewards, longer, shift_mean=False, unbiased=True)
    raw, returns = generalized_advantages(
        case.inputs["values"], rewards, longer, case.params["gamma"], case.params["lam"]
    )
    return {
        "rewards": rewards,
        "advantages": masked_whiten(raw, mask, unbiased=True),
        "returns": returns,
    }


def trl_loss(case: Case) -> Outputs:
    mask, longer = trl_masks(case)
    # The file gives the targets as the outputs of the case that the inputs come from.
    source = case.others[case.name.replace("/loss_", "/advantages_")]["outputs"]
    targets = {name: torch.tensor(source[name], dtype=torch.float64) for name in ("advantages", "returns")}
    logprobs, values = case.leaves("new_logps", "new_values")
    policy = clipped_policy_loss(
        logprobs, case.inputs["logps"], targets["advantages"], case.params["cliprange"]
    )
    value = clipped_value_loss(
        values, case.inputs["values"], targets["returns"], case.params["cliprange_value"]
    )
    policy_loss, value_loss = masked_mean(policy, mask), masked_mean(value, longer)
    loss = policy_loss + case.params["vf_coef"] * value_loss
    return {
        "pg_loss": policy_loss,
        "vf_loss": value_loss,
        "loss": loss,
        **gradients(loss, grad_logps=logprobs, grad_values=values),
    }


def entropy_and_kl(case: Case) -> Outputs:
    logits, reference = case.inputs["logits"], case.inputs["ref_logits"]
    return {"entropy": token_entropy(logits), "kl": kl.exact_kl(logits, reference)}


def sft(case: Case) -> Outputs:
    mask = case.inputs["mask"]
    per_token = sft_loss(case.inputs["logps"], mask)
    return {
        "token_mean": openrlhf_mean(per_token, mask, "tokens"),
        "sample_mean": openrlhf_mean(per_token, mask, "responses"),
    }


def accumulation(case: Case) -> Outputs:
    mask = case.inputs["mask"]
    per_token = sft_loss(case.inputs["logps"], mask)
    parts = list(zip(per_token.chunk(case.params["split"]), mask.chunk(case.params["split"]), strict=True))
    sums = [loss_sum(losses, part, "tokens", max_length=per_token.shape[1]) for losses, part in parts]
    correct = sum(total for total, _ in sums) / sum(count for _, count in sums)
    naive = sum(masked_mean(losses, part) for losses, part in parts) / len(parts)
    return {"correct": correct, "naive_mean_of_means": naive}


def closed_form(case: Case) -> Outputs:
    """Of each given optimum: its KL, and β·log Z by way of the implicit reward, r - r̂."""
    reward, reference = case.inputs["reward"], case.inputs["pi_ref"].log()
    solutions = []
    for given in case.outputs["solutions"]:
        beta = given["beta"]
        optimum = (reference + reward / beta).log_softmax(0)
        price = kl.k1(optimum, reference)[:, None]
        mask = torch.ones_like(price, dtype=torch.bool)
        penalized = kl_penalized_rewards(reward, price, mask, beta)[:, 0]
        solutions.append(
            {
                "beta": beta,
                "pi_star": optimum.exp(),
                "kl": kl.exact_kl(optimum, reference),
                "expected_reward": optimum.exp() @ reward,
                "objective": optimum.exp() @ penalized,
                "beta_log_Z": (reward - implicit_reward(optimum, reference, beta)).mean(),
            }
        )
    return {"solutions": solutions}


def best_of_n(case: Case) -> Outputs:
    reward, reference = case.inputs["reward"], case.inputs["pi_ref"]
    solutions = []
    for given in case.outputs["solutions"]:
        kept = best_of_n_probabilities(reference, reward, given["n"])
        solutions.append(
            {
                "n": given["n"],
                "pi": kept,
                "expected_reward": kept @ reward,
                "kl": kl.exact_kl(kept.log(), reference.log()),
                "kl_upper_bound": best_of_n_kl(given["n"]),
            }
        )
    return {"solutions": solutions}


CHECKS: list[tuple[str, Callable[[Case], Outputs]]] = [
    ("seq_logps", sequence_logprobs),
    ("dpo/*", dpo_from_logits),
    ("dpo_ref/*", dpo_from_logprobs),
    ("dpo_openrlhf/*", dpo_from_logprobs),
    ("cpo/*", reference_free),
    ("orpo/*", odds_ratio),
    ("kto/*", kto),
    ("rm/*", reward_model),
    ("ranking/*", ranking),
    ("contrastive/simcse", simcse),
    ("contrastive/swav", swav),
    ("contrastive/views", views),
    ("meta_rm/*", meta_difference),
    ("preference_strength", strength),
    ("reward_norm", reward_norm),
    ("ppo/policy_*", ppo_policy),
    ("ppo/value_*", ppo_value),
    ("ppo/reward_placement*", reward_placement),
    ("kl/*", kl_estimator),
    ("gae/*", advantages),
    ("reinforce/returns*", returns_to_go),
    ("group/advantages", group_advantages),
    ("grpo/*", grpo),
    ("rloo/loss", rloo),
    ("kl_controller/*", kl_controller),
    ("running_moments", running_moments),
    ("whiten/*", whiten),
    ("trl_ppo/advantages*", trl_advantages),
    ("trl_ppo/loss*", trl_loss),
    ("entropy_and_exact_kl", entropy_and_kl),
    ("sft/*", sft),
    ("accumulation/*", accumulation),
    ("analytic/kl_bandit*", closed_form),
    ("analytic/best_of_n_*", best_of_n),
]
"""Which function computes which cases; the first pattern that fits."""


# ----------------------------------------------------------------------------- reading, comparing, telling


def tensors(name: str, value: Any) -> Any:
    if not isinstance(value, list) or name == "batches":  # of different lengths
        return value
    tensor = torch.tensor(value)
    if name.endswith("mask"):
        return tensor.bool()
    return torch.tensor(value, dtype=torch.float64) if tensor.is_floating_point() else tensor


def inputs_of(name: str, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    own = dict(cases[name]["inputs"])
    referred = own.pop("ref", None)
    return (inputs_of(referred, cases) if referred else {}) | own


def differences(expected: Any, found: Any, tolerance: float) -> Iterator[str]:
    """A line for each thing that is not as expected, relative above 1, absolute below."""
    mask = None
    if isinstance(found, tuple):
        found, mask = found
    if isinstance(expected, list) and expected and isinstance(expected[0], dict):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            for name, value in one.items():
                yield from (f"[{index}].{name} {line}" for line in differences(value, other[name], tolerance))
        return
    expected, found = (torch.as_tensor(each, dtype=torch.float64).detach() for each in (expected, found))
    if expected.shape != found.shape:
        yield f"has shape {list(found.shape)}, expected {list(expected.shape)}"
        return
    if mask is not None:
        expected, found = expected[mask], found[mask]
    scaled = (found - expected).abs() / expected.abs().clamp(min=1)
    if not bool((scaled <= tolerance).all()):  # a NaN is not within any tolerance
        yield f"differs by {scaled.max().item():.3g}, tolerance {tolerance:.3g}"


def check_case(raw: dict[str, Any], cases: dict[str, dict[str, Any]]) -> list[str]:
    """The differences of one case; those outputs that the library does not give are named aloud."""
    name, outputs = raw["name"], raw["outputs"]
    function = next((f for pattern, f in CHECKS if fnmatch.fnmatchcase(name, pattern)), None)
    if not outputs:
        raise NotBuiltError("only inputs for other cases")
    if function is None:
        raise NotBuiltError("not built")
    inputs = {key: tensors(key, value) for key, value in inputs_of(name, cases).items()}
    found = function(Case(name, raw["params"], inputs, outputs, cases))
    left_out = ", ".join(key for key in outputs if key not in found)
    if not outputs.keys() & found.keys():
        raise NotBuiltError(f"{left_out} not given here")
    if left_out:
        print(f"in part  {name}: not compared: {left_out}")
    return [
        f"{key} {line}"
        for key, expected in outputs.items()
        if key in found
        for line in differences(expected, found[key], raw["tol"])
    ]


def check_file(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Checks every case of a file and tells; gives the names that passed, failed and were skipped."""
    cases = {case["name"]: case for case in json.loads(path.read_text())["cases"]}
    passed: list[str] = []
    failed: list[str] = []
    skipped: dict[str, str] = {}
    for name, raw in cases.items():
        try:
            lines = check_case(raw, cases)
        except NotBuiltError as reason:
            skipped[name] = str(reason)
            continue
        except (KeyError, ValueError, RuntimeError) as error:
            lines = [f"raised {type(error).__name__}: {error}"]
        (failed if lines else passed).append(name)
        if lines:
            print(f"failed   {name}: " + "; ".join(lines))
    for name, why in skipped.items():
        print(f"skipped  {name} ({why})")
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return passed, failed, list(skipped)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        found = f"no file {arguments[0]}" if len(arguments) == 1 else f"{len(arguments)} arguments"
        print(f"expected one file of cases, found {found}\nusage: check.py FILE", file=sys.stderr)
        return 2
    return 1 if check_file(Path(arguments[0]))[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

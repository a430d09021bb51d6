"""What OnlineDPOModule's arguments have to be, each by itself and together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_rlhf.losses.rankings import MAX_TIED
from lit_rlhf.modules.base import check_argument
from lit_rlhf.modules.direct_methods import METHODS, QUANTILES
from lit_rlhf.rollout.judging import COMPARED


def check_judging(given: Mapping[str, Any]) -> None:
    """Refuse arguments with which nothing could be compared, or that say nothing.

    Args:
        given: the constructor's arguments by name.

    Raises:
        ValueError: by the config key.
    """
    samples, loss = given["samples_per_prompt"], given["loss"]
    check_argument("samples_per_prompt", samples, samples >= 2, "2 or more, since responses are compared")
    if given["compared"] not in COMPARED:
        raise ValueError(
            f"model.compared: expected one of {', '.join(COMPARED)}, found {given['compared']!r}."
        )
    if (given["reward"] is None) == (given["judging"] is None):
        found = "neither" if given["reward"] is None else "both"
        raise ValueError(
            f"model.reward: expected it or model.annotator to judge the responses, found {found}."
        )
    if given["judging"] is not None:
        given["judging"].check_samples(samples)
        for name, usual in (("reward_timeout", None), ("failed_rewards", "stop")):
            if given[name] != usual and given["gold_reward"] is None:
                raise ValueError(f"model.{name}: is of model.reward, and an annotator judges; leave it out.")
    if loss == "kto":
        raise ValueError(
            "model.loss: kto looks at prompts with other prompts' responses, which no rollout has. Take apo_zero, "
            "which is kto with its reference point at 0, or any other of DPOModule's."
        )
    if loss == "robust":
        raise ValueError(
            "model.loss: robust corrects for a known share of flipped labels, and the judge's is not known here. Take "
            "sigmoid with model.label_smoothing."
        )
    if given["margin"] == "data":
        raise ValueError(
            "model.margin: no row says by how much a response should win; give a number, or null."
        )
    if loss not in METHODS:
        return  # which the objective says
    takes_rankings = METHODS[loss].losses is None
    if given["compared"] == "best_worst" and takes_rankings:
        raise ValueError(f"model.compared: {loss} takes whole rankings; leave it at all.")
    if takes_rankings and samples > MAX_TIED:
        raise ValueError(
            f"model.samples_per_prompt: {loss} goes through the orders of tied responses, {MAX_TIED} at most, and a "
            f"judge may tie all of a prompt; found {samples}. Draw fewer, or take loss: sigmoid."
        )
    if given["ties"] == "half" and (takes_rankings or loss in QUANTILES):
        raise ValueError(
            f"model.ties: {loss} has no place for the ties that a rollout is full of. Leave it at drop, or take "
            "sigmoid."
        )
    if loss == "bco" and isinstance(given["reference"], dict):
        raise ValueError(
            "model.reference: bco's threshold is a mean of rewards over all of the run, which are no longer the same "
            "where the reference moves. Leave it at null, or take another loss."
        )

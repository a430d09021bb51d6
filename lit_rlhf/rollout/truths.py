"""What has to be true of a phase's first rollout, before anything has been updated.

Each of these is a mistake that trains on without a word: the numbers look like numbers. A truth that does not hold
says in a sentence what is likely wrong and what to do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.records import Experience
from lit_rlhf.rollout.credit import ESTIMATORS, Credit
from lit_rlhf.rollout.token_truths import masks_come_from_lengths, one_bos
from lit_rlhf.rollout.truth import Truth

EXACT = 1e-3
"""Tolerance in fp32, nats a token: two ways through one network differ by some 1e-5 there."""
ROUNDED = 0.05
"""Tolerance where products are rounded to bf16, fp16 or TF32."""
READ = (
    *("sampled_logprobs", "old_logprobs", "reference_logprobs", "values", "entropy"),
    *("scores", "shaped_scores", "rewards", "advantages", "returns"),
)
"""Numbers of the experience that an update reads, or that are logged."""
WORST_TOKEN = 50
"""By how many times the tolerance of the mean a single token may be off."""


def tolerance_of(precision: str) -> float:
    """How far two log-probabilities of one token may lie apart in the mean, in nats.

    Args:
        precision: the trainer's, such as ``32-true`` or ``bf16-mixed``.
    """
    full = precision.startswith(("32", "64"))
    tf32 = torch.cuda.is_available() and torch.get_float32_matmul_precision() != "highest"
    return EXACT if full and not tf32 else ROUNDED


def rollout_truths(
    experience: Experience, encoder: TextEncoder, reference_is_start: bool, tolerance: float = EXACT
) -> list[Truth]:
    """The truths that the first rollout shows by itself, without another pass through a network.

    Args:
        experience: drawn by a policy that has not been updated.
        encoder: that the prompts were encoded with.
        reference_is_start: whether the reference is the policy as it starts; only then is the KL to be 0.
        tolerance: see :func:`tolerance_of`.
    """
    return [
        numbers_are_finite(experience),
        one_bos(experience.prompt_ids, encoder),
        masks_come_from_lengths(experience, encoder),
        sampler_agrees(experience, tolerance),
        *([kl_is_zero(experience, tolerance)] if reference_is_start else []),
    ]


def first_rollout_truths(
    experience: Experience,
    encoder: TextEncoder,
    credit: Credit,
    kl_coef: float,
    reference_is_start: bool,
    tolerance: float = EXACT,
) -> list[Truth]:
    """The same of PPO's, with what it made of the scores.

    Args:
        experience: drawn by a policy that has not been updated, with its rewards.
        encoder: that the prompts were encoded with.
        credit: how rewards were made of scores and KL.
        kl_coef: β, at which they were.
        reference_is_start: see :func:`rollout_truths`.
        tolerance: see :func:`tolerance_of`.
    """
    return [
        *rollout_truths(experience, encoder, reference_is_start, tolerance),
        score_sits_on_the_eos(experience, credit, kl_coef),
    ]


def numbers_are_finite(experience: Experience) -> Truth:
    """Whether every number that an update reads is one."""
    wrong = [name for name in READ if not bool(getattr(experience, name).isfinite().all())]
    where = {"reference_logprobs": "the reference's weights", "values": "the critic's weights"}
    blamed = sorted(
        {where.get(name, "the policy's weights") for name in wrong if "logprobs" in name or name in where}
    )
    return Truth(
        "every number is finite",
        not wrong,
        f"{', '.join(wrong)} hold numbers that are not. Look at {' and '.join(blamed or ['what the reward gives'])}, "
        "or train in another precision (trainer.precision: bf16-mixed or 32-true)."
        if wrong
        else f"{len(experience)} responses",
    )


def sampler_agrees(experience: Experience, tolerance: float = EXACT) -> Truth:
    """Whether the tokens were drawn from the distribution that the update scores them with."""
    looked_at = experience.response_mask & ~experience.recomputed_logprobs.isnan()
    mean, worst = _difference(experience.sampled_logprobs, experience.recomputed_logprobs, looked_at)
    holds = mean <= tolerance and worst <= WORST_TOKEN * tolerance
    found = f"{mean:.2g} nats a token apart, {worst:.2g} at the most"
    return Truth(
        "sampled and recomputed log-probabilities agree",
        holds,
        found
        if holds
        else f"they are {found}. Sampling uses another temperature, drops tokens (top-p, top-k, a ban) or drops out, "
        "or the model's attention reads padding. Sample at model.temperature with nothing else; compare with "
        "model.attention: padded.",
    )


def ratio_is_one(
    policy_logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor, tolerance: float = EXACT
) -> Truth:
    """Whether the forward that an update makes gives the log-probabilities that its ratio is taken to.

    Args:
        policy_logprobs: of the first training forward, grid ``[N, R]``.
        old_logprobs: of the experience, grid.
        response_mask: bool grid.
        tolerance: see :func:`tolerance_of`.
    """
    mean, worst = _difference(policy_logprobs, old_logprobs, response_mask)
    holds = mean <= tolerance and worst <= WORST_TOKEN * tolerance
    ratio = (policy_logprobs - old_logprobs)[response_mask].exp().mean().item()
    return Truth(
        "the first ratio of new to old policy is 1",
        holds,
        f"{ratio:.6f} in the mean"
        if holds
        else f"log-probabilities are {mean:.2g} nats a token apart, {worst:.2g} at the most (mean ratio {ratio:.4f}). "
        "Training forwards drop out, or run in another precision or at another temperature than the rollout. Set the "
        "policy's dropout to 0, and train and sample in one precision.",
    )


def kl_is_zero(experience: Experience, tolerance: float = EXACT) -> Truth:
    """Whether a reference that is the policy's start gives the policy's own log-probabilities."""
    mean, worst = _difference(
        experience.old_logprobs, experience.reference_logprobs, experience.response_mask
    )
    holds = mean <= tolerance and worst <= WORST_TOKEN * tolerance
    return Truth(
        "the KL to the reference is 0",
        holds,
        f"{mean:.2g} nats a token"
        if holds
        else f"log-probabilities are {mean:.2g} nats a token apart, {worst:.2g} at the most. The reference is another "
        "model than the policy starts from, or one of the two drops out or has adapters that do not start at 0. Leave "
        "model.reference out, or give the folder that model.model names.",
    )


def score_sits_on_the_eos(experience: Experience, credit: Credit, kl_coef: float) -> Truth:
    """Whether the rewards, without the price of KL, are 0 everywhere but at each response's last token."""
    lengths = torch.tensor([len(ids) for ids in experience.response_ids])
    places = torch.arange(experience.rewards.shape[1])[None, :]
    estimate = ESTIMATORS[credit.kl_estimator](experience.old_logprobs, experience.reference_logprobs)
    price = kl_coef * estimate if credit.kl_in == "reward" else torch.zeros_like(estimate)
    expected = torch.where(places == lengths[:, None] - 1, experience.shaped_scores[:, None], 0.0) - price
    expected = expected.masked_fill((places >= lengths[:, None]) | experience.failed[:, None], 0.0)
    if credit.whiten_rewards:
        expected = _rescaled(expected, experience.rewards, experience.counted_mask)
    off = (experience.rewards - expected).abs().amax(1)
    wrong = (~(off <= 1e-4 * expected.abs().amax().clamp(min=1.0))).nonzero().flatten().tolist()
    said = f"on the last token of {len(experience)} responses"
    if wrong:
        said = (
            f"rewards of {len(wrong)} of {len(experience)} responses are not -kl_coef x KL with the score on the last "
            f"token (response {wrong[0]} is off by {off[wrong[0]].item():.2g}). The score stands at another position, "
            "such as a padded end or the prompt's, or `collect` changes rewards after the score was put there."
        )
    return Truth("the score sits on the EOS", not wrong, said)


def _difference(one: Tensor, other: Tensor, mask: Tensor) -> tuple[float, float]:
    """Mean and largest |one − other| over the counted tokens; NaN where something is none."""
    apart = (one - other).abs()[mask]
    return apart.mean().item(), apart.max().item()


def _rescaled(expected: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """`expected` on the scale of `found`, as whitening moves it: one slope, at least 0, and one shift."""
    x, y = expected[mask], found[mask]
    spread = (x - x.mean()).square().sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / torch.where(spread > 0, spread, 1.0)
    return ((expected - x.mean()) * slope.clamp(min=0) + y.mean()).masked_fill(~mask, 0.0)

"""Rollouts against `generate`, and whole iterations of PPO and GRPO against TRL's, on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks import ppo, rollout
from benchmarks.speed.contest import BANDWIDTH_SHARE, MEMORY, RESPONSE_SPEED, Contest, Line, Runs
from benchmarks.speed.job import JSON, Job

NOTE = (
    "new tokens per second, prefill included; bf16 weights; `generate` has all rows in one batch, padded on the left, "
    "and runs until the longest is done; ours gives the log-probability of each token too. bf16 rounds too coarsely "
    "for the tokens of both sides to be the same: that is held in fp32, on a CPU"
)
READ = (
    "bytes per second of decoding steps: the weights but the embeddings, and the keys and values of each row's tokens "
    "so far; prefill is left out. Against the best of several copies of a large tensor, read and written"
)
BF16 = (
    "Under bf16 autocast; TRL's frozen models are in bf16, since it runs them outside, and its `generate` is put "
    "under autocast"
)
KL_WITHIN = 1.0
"""Nats a response, of bf16: the policy and the reference round differently where they are packed differently."""


@dataclass(frozen=True)
class Amounts:
    """How much is sampled.

    Args:
        rows: prompts of a rollout.
        prompt: their mean tokens.
        tail: mean and largest new tokens of the heavy tail.
        equal: new tokens where all are as long.
        samples: prompts of eight responses, of an eighth of their tokens.
        sampled_prompt: tokens of those prompts, and of GRPO's.
        prompts: of a PPO iteration.
        lengths: mean and largest new tokens of PPO and GRPO.
        microbatch: responses of one forward and backward.
    """

    rows: int
    prompt: int
    tail: tuple[int, int]
    equal: int
    samples: int
    sampled_prompt: int
    prompts: int
    lengths: tuple[int, int]
    microbatch: int


FULL = Amounts(64, 512, (256, 1024), 512, 8, 2048, 32, (160, 512), 4)
QUICK = Amounts(8, 32, (8, 32), 16, 2, 64, 4, (8, 32), 4)


def contests(job: Job, amounts: Amounts, with_trl: bool, with_trl_ppo: bool) -> list[Contest]:
    """Works that sample.

    Args:
        job: any: size, device, precision, threads and steps are taken from it.
        amounts: how much.
        with_trl: whether TRL's GRPO runs.
        with_trl_ppo: whether TRL's PPO runs.
    """
    heavy = replace(
        job, phase="rollout", responses=1, prompt=amounts.prompt, batch=amounts.rows, lengths=amounts.tail
    )
    heavy = replace(heavy, jitter=0.5, greedy=True)
    equal = replace(heavy, lengths=(amounts.equal,) * 2, jitter=0.0, with_peak=True)
    length = amounts.sampled_prompt // 8
    samples = replace(
        equal, responses=8, prompt=amounts.sampled_prompt, batch=amounts.samples, lengths=(length, length)
    )
    samples = replace(samples, greedy=False, with_peak=False)
    return [
        against_generate("heavy tail", heavy),
        with_bandwidth(against_generate("equal lengths", equal)),
        against_generate("n=8", samples),
        ppo_iteration(job, amounts, with_trl_ppo),
        grpo_iteration(job, amounts, with_trl),
    ]


def against_generate(work: str, job: Job) -> Contest:
    mean, largest = job.lengths
    tail = f"of {largest}" if mean == largest else f"lognormal, σ 1, mean {mean}, 4 to {largest}"
    return rollout.against_generate(
        work,
        job,
        NOTE,
        f"{job.batch} prompts of {job.prompt} tokens ± {job.jitter:.0%}; {job.responses} responses to each, {tail}",
    )


def with_bandwidth(contest: Contest) -> Contest:
    """The same with the share of the memory's rate that decoding has."""
    line = Line("decode bandwidth share", "copy", "ours", "ours", BANDWIDTH_SHARE, READ, theirs_too)
    return replace(contest, lines=[*contest.lines, line])


def theirs_too(runs: Runs) -> JSON:
    """The share of `generate`, for the conditions."""
    shares = [BANDWIDTH_SHARE.ours(run) / BANDWIDTH_SHARE.theirs(run) for run in runs["generate"]]
    return {"generate_share_each_repeat": [round(share, 4) for share in shares]}


def ppo_iteration(job: Job, amounts: Amounts, with_trl: bool) -> Contest:
    """One response a prompt, four epochs; a critic, a reward model and a reference of the policy's size."""
    return whole_iterations(
        replace(
            job,
            phase="ppo",
            prompt=amounts.prompt,
            responses=1,
            batch=amounts.prompts,
            lengths=amounts.lengths,
            microbatch=amounts.microbatch,
            epochs=4,
            jitter=0.0,
            clip=None,
        ),
        "ppo geometric",
        "trl 1.12" if with_trl else None,
        ppo.PPO,
    )


def grpo_iteration(job: Job, amounts: Amounts, with_trl: bool) -> Contest:
    """Eight responses of long prompts, no critic, one update."""
    return whole_iterations(
        replace(
            job,
            phase="grpo",
            prompt=amounts.sampled_prompt,
            responses=8,
            batch=amounts.samples,
            lengths=amounts.lengths,
            microbatch=amounts.microbatch,
            epochs=1,
            jitter=0.0,
            clip=1.0,
        ),
        "grpo n=8",
        "trl" if with_trl else None,
        ppo.GRPO,
    )


def whole_iterations(job: Job, work: str, trl: str | None, note: str) -> Contest:
    """Trees against padded rows, and against TRL where it is there."""
    sides = {"ours": job, "padded": replace(job, attention="padded")}
    lines = [Line(work, "padded", "ours", "padded", RESPONSE_SPEED, f"{note}. {BF16}")]
    if trl is not None:
        sides["trl"] = replace(job, program="trl")
        lines.append(Line(work, trl, "ours", "trl", RESPONSE_SPEED, f"{note}. {BF16}"))
        lines.append(Line(f"{work} memory", trl, "ours", "trl", MEMORY, "most memory allocated by torch"))
    mean, largest = job.lengths
    return Contest(
        sides,
        lines,
        f"prompts {job.prompt}, responses geometric of mean {mean}, capped at {largest}",
        kl_within=KL_WITHIN,
    )

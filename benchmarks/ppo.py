"""PPO iterations against TRL's PPOTrainer and GRPOTrainer: ``python -m benchmarks.ppo --out FILE.json``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.speed.compare import main
from benchmarks.speed.contest import MEMORY, RESPONSE_SPEED, Contest, Line
from benchmarks.speed.job import TRL_PPO_VERSION, Job

AGAINST = "trl 1.12"
PROMPT = 64
GEOMETRIC, FULL = (40, 128), (64, 64)
"""Mean and largest number of response tokens."""
PROMPTS = {"A": 32, "B": 16}
MICROBATCH = {"A": 8, "B": 4}
STEPS = {"A": 3, "B": 2}
"""Timed iterations."""
PPO = (
    "response tokens per second of whole iterations. Both sides: the same lengths, set by the benchmark and by no EOS; "
    "a reward model, a critic and a reference of the policy's size, k1 in the reward, GAE, AdamW at 1e-6, no clipping "
    "of gradients (TRL's PPO cannot). TRL pads all rows to the rollout's longest response, puts the score one token "
    "behind the end, and whitens with the unbiased variance; orders and noise are each side's own"
)
SHARED = (
    f"{PPO}. Ours has a value head on the policy's trunk in place of the critic: another algorithm, not to be mixed "
    "with the other lines"
)
GRPO = (
    "response tokens per second of whole iterations. Both sides: the same lengths, set by the benchmark and by no EOS; "
    "the same reward function, a reference, k3 in the loss, mean over tokens, gradients clipped at 1, one update"
)
RESIDENT = (
    "peak resident memory above what the imports hold, of the runs of `ppo geometric`, each side in a process of its "
    "own; MB of 2^20 bytes"
)


def contests(size: str) -> list[Contest]:
    """Both sizes, with memory at the larger; A alone where that is the largest."""
    sizes = ["A"] if size == "A" else ["A", "B"]
    return [
        *(geometric(each, with_memory=each == size) for each in sizes),
        *(full_length(each) for each in sizes),
        *(grpo(each) for each in sizes),
    ]


def ppo_job(size: str, lengths: tuple[int, int]) -> Job:
    """One response a prompt, four epochs of one update each."""
    return Job(
        "ppo",
        "ours",
        size,
        PROMPT,
        responses=1,
        lengths=lengths,
        batch=PROMPTS[size],
        microbatch=MICROBATCH[size],
        epochs=4,
        jitter=0.0,
        clip=None,
        steps=STEPS[size],
    )


def geometric(size: str, with_memory: bool) -> Contest:
    """Responses as of a policy that ends with the same probability at every step; an option of ours beside it."""
    job = ppo_job(size, GEOMETRIC)
    lines = [
        Line("ppo geometric", AGAINST, "ours", "trl", RESPONSE_SPEED, note=PPO),
        Line("ppo shared trunk", AGAINST, "shared", "trl", RESPONSE_SPEED, note=SHARED),
    ]
    if with_memory:
        lines.append(Line("ppo memory", AGAINST, "ours", "trl", MEMORY, note=RESIDENT))
    return against_trl({"ours": job, "shared": replace(job, critic="shared")}, lines)


def full_length(size: str) -> Contest:
    """Responses that are all as long: nothing is padded on either side."""
    return against_trl(
        {"ours": ppo_job(size, FULL)},
        [Line("ppo full length", AGAINST, "ours", "trl", RESPONSE_SPEED, note=PPO)],
    )


def grpo(size: str) -> Contest:
    """Four samples of long prompts, no critic, one update."""
    job = replace(
        ppo_job(size, GEOMETRIC),
        phase="grpo",
        prompt=512,
        responses=4,
        batch=4,
        microbatch=16,
        epochs=1,
        clip=1.0,
    )
    return against_trl({"ours": job}, [Line("grpo n=4", "trl", "ours", "trl", RESPONSE_SPEED, note=GRPO)])


def against_trl(sides: dict[str, Job], lines: list[Line]) -> Contest:
    """TRL's side is the same job, to the same lengths."""
    job = sides["ours"]
    mean, largest = job.lengths
    responses = f"all {largest}" if mean == largest else f"geometric of mean {mean}, capped at {largest}"
    return Contest(
        {**sides, "trl": replace(job, program="trl")},
        lines,
        lengths=f"prompts {job.prompt}, responses {responses}",
    )


if __name__ == "__main__":
    main("ppo", contests, f"PPO against TRL {TRL_PPO_VERSION}, GRPO against the present TRL.")

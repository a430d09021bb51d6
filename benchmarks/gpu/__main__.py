"""All of it on a GPU with one command: ``python -m benchmarks.gpu --out FILE.json``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.gpu import sampling
from benchmarks.speed.compare import arguments_of, compare
from benchmarks.speed.contest import (
    MEMORY,
    PEAK_SHARE,
    ROW_TOKENS,
    SPEED,
    STEP,
    Contest,
    Line,
    Quantity,
    Runs,
)
from benchmarks.speed.job import JSON, Job

LOSS_WITHIN = 0.05
"""Of bf16: rows that are padded and rows that are not round differently."""
ALLOCATED = "most memory allocated by torch on the device, everything included; MB of 2^20 bytes"
USEFUL = (
    "useful FLOP: each distinct token once, the head at response positions; policy forward and backward 3, reference "
    "forward 1. Against the best rate of several large bf16 multiplications in the same process"
)


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Args:
        size: of the model.
        prompt: mean prompt tokens.
        demonstration: mean and largest tokens of a demonstration.
        device: ``cuda``, or ``cpu`` to try the code.
        warm: steps before the clock: kernels are compiled in them.
        steps: timed steps.
        with_trl: whether TRL's side runs.
    """

    size: str
    prompt: int
    demonstration: tuple[int, int]
    device: str
    warm: int
    steps: int
    with_trl: bool

    def job(self, phase: str, times: int, responses: int = 2, batch: int = 2) -> Job:
        """Ours, with responses `times` shorter than prompts."""
        return Job(
            phase,  # type: ignore[arg-type]
            "ours",
            self.size,
            self.prompt,
            self.prompt // times,
            responses=responses,
            lengths=self.demonstration,
            batch=batch,
            warm=self.warm,
            steps=self.steps,
            device=self.device,
            bf16=True,
            threads=8 if self.device == "cuda" else 1,
        )


def contests(scale: Scale) -> list[Contest]:
    """The table of the CPU benchmarks, with the padded path beside TRL everywhere."""
    return [
        *(dpo(scale, times) for times in (1, 4, 8)),
        *(reward_pairs(scale, times) for times in (1, 4)),
        rankings(scale, responses=4, times=4),
        rankings(scale, responses=8, times=8),
        sft(scale),
    ]


def dpo(scale: Scale, times: int) -> Contest:
    """Two pairs a step; memory and the share of the peak at 4:1."""
    job = replace(scale.job("dpo", times), with_peak=times == 4)
    contest = against_padded_and_trl(scale, job, f"dpo {times}:1")
    if times != 4:
        return contest
    memory = [
        Line(f"dpo {times}:1 memory", line.against, line.ours, line.theirs, MEMORY, ALLOCATED)
        for line in contest.lines
    ]
    share = Line(f"dpo {times}:1 peak share", "gemm peak", "ours", "ours", PEAK_SHARE, USEFUL, shares)
    return replace(contest, lines=[*contest.lines, *memory, share])


def reward_pairs(scale: Scale, times: int) -> Contest:
    """Two pairs a step."""
    return against_padded_and_trl(scale, scale.job("reward", times), f"reward pairs {times}:1")


def against_padded_and_trl(scale: Scale, job: Job, work: str) -> Contest:
    """Trees, padded rows, and TRL where it is there, on the same pairs in the same steps."""
    sides = {"ours": job, "padded": replace(job, attention="padded")}
    if scale.with_trl:
        sides["trl"] = replace(job, program="trl", with_peak=False)
    return Contest(sides, lines(work, sides, ROW_TOKENS), lengths_of(job), loss_within=LOSS_WITHIN)


def rankings(scale: Scale, responses: int, times: int) -> Contest:
    """One prompt a step, all comparisons of its K responses."""
    job = scale.job("reward", times, responses, batch=1)
    sides = {"ours": job, "k rows": replace(job, attention="padded")}
    return Contest(
        sides,
        lines(f"reward k={responses} {times}:1", sides, "the same comparisons in the same steps", STEP),
        lengths_of(job),
        loss_within=LOSS_WITHIN,
    )


def sft(scale: Scale) -> Contest:
    """Eight demonstrations a padded step; ours packed to as many tokens on average."""
    job = scale.job("sft", times=1, batch=8)
    mean, largest = scale.demonstration
    sides = {
        "ours": replace(job, max_tokens=max(largest, job.batch * mean)),
        "padded": replace(job, attention="padded"),
    }
    if scale.with_trl:
        sides["trl packed"] = replace(job, program="trl", packed=True)
        sides["trl padded"] = replace(job, program="trl")
    return Contest(
        sides,
        lines("sft third full", sides, ROW_TOKENS),
        f"lognormal, mean {mean}, sigma 0.8, 16 to {largest} tokens; a third prompt, the rest response",
        same_batches=False,
        loss_within=LOSS_WITHIN,
        unchecked=("trl packed",),
    )


def lines(work: str, sides: dict[str, Job], note: str, quantity: Quantity = SPEED) -> list[Line]:
    """Ours against every other side."""
    return [Line(work, side, "ours", side, quantity, note) for side in sides if side != "ours"]


def shares(runs: Runs) -> JSON:
    """The padded path's share of the peak, for the conditions."""
    return {
        "padded_share_each_repeat": [
            round(PEAK_SHARE.ours(run) / PEAK_SHARE.theirs(run), 4) for run in runs["padded"]
        ]
    }


def lengths_of(job: Job) -> str:
    return f"prompts {job.prompt}, responses {job.response} tokens on average, ± {job.jitter:.0%}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = arguments_of(
        "gpu",
        "Trees, padded rows, generate and TRL on a GPU: bf16, a Llama of 1.1 billion, prompts of 512 to 2048.",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the code, with --quick"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        require_cuda()
    elif not arguments.quick:
        raise SystemExit("--device cpu: expected --quick with it; the full size is for a GPU.")
    with_trl = arguments.trl_python.exists()
    if not with_trl:
        print(f"without TRL: there is no {arguments.trl_python}; `make bench-envs` makes it")
    on_gpu = arguments.device == "cuda"
    amounts = sampling.QUICK if arguments.quick else sampling.FULL
    if arguments.quick:
        scale = Scale("A", 256, (80, 256), arguments.device, 3 if on_gpu else 1, 2, with_trl)
    else:
        scale = Scale("1B", 2048, (640, 2048), arguments.device, 5, 20, with_trl)
    iterations = replace(scale.job("rollout", times=1), warm=1 if arguments.quick else 2, steps=2)
    with_trl_ppo = arguments.trl_ppo_python.exists()
    if not with_trl_ppo:
        print(f"without TRL's PPO: there is no {arguments.trl_ppo_python}; `make bench-envs` makes it")
    works = [*contests(scale), *sampling.contests(iterations, amounts, with_trl, with_trl_ppo)]
    compare(works, arguments)


def require_cuda() -> None:
    """Say at once what is missing.

    Raises:
        SystemExit: torch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            f"benchmarks.gpu: expected a CUDA device, torch {torch.__version__} sees none. Run it on a machine with a "
            "GPU and a CUDA build of torch; --device cpu --quick tries the code without one."
        )


if __name__ == "__main__":
    main()

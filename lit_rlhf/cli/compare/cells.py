"""The steps of a comparison as command lines: of the start, and of each method with each seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_rlhf.cli.compare.functions import code_of, functions_of, is_function
from lit_rlhf.cli.compare.methods import Method, flag_words
from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.steps.configs import options
from lit_rlhf.cli.steps.step import Step

START_FOLDER = "start"
"""The folder of what is measured of the start itself."""
MEASURE = ("-m", "lit_rlhf.cli.steps.measure")
"""What measures gold, KL and tokens."""
SAMPLING_SEED = 0
"""Of every policy's answers."""


@dataclass(frozen=True)
class Cell:
    """One method with one seed."""

    method: Method
    seed: int

    @property
    def folder(self) -> str:
        """Inside the comparison's."""
        return f"{self.method.name}/seed-{self.seed}"


class Cells:
    """The steps.

    Args:
        comparison: the settings.
        methods: the configs, read.
    """

    def __init__(self, comparison: Comparison, methods: list[Method]) -> None:
        self.comparison, self.methods, self.out = comparison, methods, comparison.out
        self.start = str(methods[0].arguments("model")["model"])
        specs = [method.reward for method in methods]
        self.reward = comparison.reward or next((spec for spec in specs if spec is not None), None)
        """What judges answers beside gold; what has a config of its own is None here, and is told as not measured."""

    @property
    def cells(self) -> list[Cell]:
        """In their order of work: every method with the first seed, then every method with the next."""
        return [Cell(method, seed) for seed in self.comparison.seeds for method in self.methods]

    @property
    def reward_model(self) -> str | None:
        """The reward model's folder or hub name, where it is one."""
        spec = self.reward
        if not isinstance(spec, str) or self.reward_function is not None:
            return None
        return None if "://" in spec else spec

    @property
    def reward_function(self) -> str | None:
        """The reward function's dotted path, where it is one."""
        spec = self.reward
        return spec if is_function(spec) else None

    def steps_of_start(self) -> list[Step]:
        """The start's own answers, and what they are worth."""
        return self._answered(START_FOLDER, self.start, reference=None)

    def steps_of(self, cell: Cell) -> list[Step]:
        """Train, answer, measure."""
        policy = str(self.out / cell.folder / "run" / "export")
        steps = [self.fit(cell), *self._answered(cell.folder, policy, reference=self.start)]
        if self.comparison.val is not None:
            steps.append(self._score_comparisons(cell.folder, policy, self.comparison.val))
        return steps

    def fit(self, cell: Cell) -> Step:
        """The training of a method with a seed."""
        method, run = cell.method, self.out / cell.folder / "run"
        words = ["fit", "--config", str(method.config), *flag_words(method.flags)]
        words += flag_words(dict.fromkeys(method.seed_flags, cell.seed))
        data = method.arguments("data").get("path")
        files = [data] if isinstance(data, str) else [each for each in data or [] if isinstance(each, str)]
        inputs = [str(method.config), self.start, *files]
        reward = method.reward
        inputs += [reward] if isinstance(reward, str) and Path(reward).exists() else []
        inputs += [file for path in functions_of(method).values() for file in code_of(path)]
        return Step(cell.folder, "fit", (*words, "--out", str(run)), tuple(dict.fromkeys(inputs)), (run / "export",),
                    "fit", f"{method.class_name}, seed {cell.seed}")  # fmt: skip

    def _answered(self, folder: str, policy: str, reference: str | None) -> list[Step]:
        """Answers to the evaluation prompts, measured; nothing where there are no such prompts."""
        if self.comparison.evaluation is None:
            return []
        answers = self.out / folder / "responses.jsonl"
        steps = [self._answer(folder, policy, self.comparison.evaluation, answers)]
        given = {
            "policy": policy,
            "reference": reference,
            "gold": self.comparison.gold,
            "reward": self.reward_function,
        }
        measures = self.out / folder / "measures.json"
        words = (*MEASURE, "--responses", str(answers), *options(given), "--out", str(measures))
        inputs = tuple(
            dict.fromkeys([str(answers), *code_of(self.comparison.gold), *code_of(self.reward_function)])
        )
        steps.append(Step(folder, "measure", words, inputs, (measures,), about="what the answers are worth"))
        if self.reward_model is not None:
            scored = self.out / folder / "scored.jsonl"
            words = ("score", self.reward_model, str(answers), "--out", str(scored))
            steps.append(Step(folder, "score", words, (self.reward_model, str(answers)), (scored,), "whole file",
                              "the answers by the reward model"))  # fmt: skip
        return steps

    def _answer(self, folder: str, policy: str, prompts: str, answers: Path) -> Step:
        said = self.comparison
        words = ("sample", policy, "--prompts", prompts, "-k", "1", "--limit", str(said.samples), "--temperature", "1",
                 "--seed", str(SAMPLING_SEED), "--max-new-tokens", str(said.max_new_tokens),
                 "--out", str(answers))  # fmt: skip
        return Step(
            folder,
            "answer",
            words,
            (policy, prompts),
            (answers,),
            "whole file",
            "an answer to each evaluation prompt",
        )

    def _score_comparisons(self, folder: str, policy: str, val: str) -> Step:
        scored = self.out / folder / "comparisons.jsonl"
        words = ("score", policy, val, "--reference", self.start, "--out", str(scored))
        return Step(
            folder, "comparisons", words, (policy, self.start, val), (scored,), "whole file",
            "the held-out comparisons by the policy's implicit reward",
        )  # fmt: skip

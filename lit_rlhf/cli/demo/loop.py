"""The demo from first to last: each stage's result is a small file, so a second run goes on where one stopped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.demo import phases
from lit_rlhf.cli.demo.measure import CHUNK, draw, measure_policy, reward_scores
from lit_rlhf.cli.demo.presets import PRESETS
from lit_rlhf.cli.demo.summary import SHOWN_PROMPTS, summarise
from lit_rlhf.cli.guard import silence_adverts
from lit_rlhf.data.tokenization import load_tokenizer
from lit_rlhf.metrics.best_of_n import best_of_n_kl
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.records import Tree
from lit_rlhf.rewards.model import ModelReward, score_trees
from lit_rlhf.world.build import prompt_rows, write_data, write_model, write_rows
from lit_rlhf.world.grammar import grammatical, shuffled
from lit_rlhf.world.labellers import DataRow, Labeller, bayes_accuracy, label_pairs

LABELLER = Labeller(temperature=1.0)
SORTED_OUT = 0.9
"""Share of the pairs with a response that is no sentence that labellers never see."""


class DemoMismatch(Exception):
    """The folder holds a demo with other settings."""


class Demo:
    """One run of the demo in one folder.

    Args:
        out: the folder; made where it does not exist.
        preset: a name from the presets.
        seed: of everything.
        started: when the command began, by ``time.perf_counter``.
    """

    def __init__(self, out: Path, preset: str, seed: int, started: float) -> None:
        self.out, self.preset, self.seed, self.started = out, PRESETS[preset], seed, started
        self.settings = {"preset": preset, "seed": seed}
        self.console = Console()
        self.data = {
            name: out / "data" / f"{name}.jsonl"
            for kind in ("texts", "demonstrations", "prompts")
            for name in (kind, f"validation_{kind}")
        }
        self.data |= {name: out / "data" / f"{name}.jsonl" for name in ("pairs", "held_out_pairs")}
        self._reward: ModelReward | None = None

    def run(self) -> None:
        """Every stage, then the report, the picture and the tables.

        Raises:
            DemoMismatch: the folder holds a demo with another preset or seed.
        """
        silence_adverts()
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        torch.set_num_threads(1)
        self._claim()
        preset = self.preset
        self._stage("world", "a language of 88 words, an untrained model, data", self._make_world)
        self._stage("pretrain", f"the language, from {preset.texts:,} sentences", self._pretrain)
        self._stage("sft", f"answering, from {preset.demonstrations:,} demonstrations", self._fine_tune)
        self._stage("comparisons", f"{preset.pairs:,} pairs of samples, judged with noise", self._compare)
        self._stage("reward", "a reward model, from the comparisons", self._learn_reward)
        self._stage("best_of_n", "best of n samples by the reward model", self._best_of_n)
        for beta in preset.dpo_betas:
            self._stage(f"dpo-{beta:g}", f"DPO at β = {beta:g}", partial(self._dpo, beta))
        for beta in (*preset.ppo_betas, 0.0):
            iterations = preset.ppo_iterations if beta else preset.free_iterations
            title = f"PPO at β = {beta:g}, {iterations} iterations" + ("" if beta else ": the leash off")
            self._stage(f"ppo-{beta:g}", title, partial(self._ppo, beta, iterations))
        results = {path.stem: json.loads(path.read_text()) for path in (self.out / "stages").glob("*.json")}
        summarise(self.out, self.settings, preset, results, self.console)
        self.console.print(f"{time.perf_counter() - self.started:.0f} seconds in this run.", highlight=False)

    def _claim(self) -> None:
        """Write down what this folder is, or see that it is that already."""
        file = self.out / "demo.json"
        if file.exists():
            found = json.loads(file.read_text())
            if found != self.settings:
                raise DemoMismatch(
                    f"{self.out} holds a demo with {found}, and {self.settings} was asked for. "
                    f"Take another folder with --out, or remove {self.out} to start afresh."
                )
            if (self.out / "report.json").exists():
                self.console.print(f"This demo is complete; remove {self.out} to start afresh.")
        (self.out / "stages").mkdir(parents=True, exist_ok=True)
        write_beside_and_rename(file, json.dumps(self.settings))

    def _stage(self, name: str, title: str, work: Callable[[], dict[str, Any]]) -> None:
        file = self.out / "stages" / f"{name}.json"
        if file.exists():
            self.console.print(f"[dim]{name}: done already[/dim]")
            return
        begun = time.perf_counter()
        self.console.rule(f"{name}: {title}", align="left", characters="─")
        result = work()
        write_beside_and_rename(file, json.dumps(result, indent=1))
        self.console.print(f"{name}: {time.perf_counter() - begun:.0f} s", highlight=False)

    def _run(self, name: str) -> Path:
        return self.out / "runs" / name

    def _export(self, name: str) -> Path:
        return self._run(name) / "export"

    # --- stages -----------------------------------------------------------------------------------------

    def _make_world(self) -> dict[str, Any]:
        if not (self.out / "model").exists():
            write_model(self.out / "model", seed=self.seed)
        write_data(
            self.out / "data", self.seed, texts=self.preset.texts, demonstrations=self.preset.demonstrations
        )
        return {}

    def _pretrain(self) -> dict[str, Any]:
        spent = phases.pretrain(self._run("pretrain"), self.out / "model", self.data, self.preset.texts)
        return {"cpu_seconds": spent}

    def _fine_tune(self) -> dict[str, Any]:
        spent = phases.fine_tune(
            self._run("sft"), self._export("pretrain"), self.data, self.preset.demonstrations, self.seed
        )
        result = self._measure("sft", None)
        sentences = [text.split() for text in draw(*self._policy("sft"), self._prompts(), self.seed, 1).texts]
        mixed = [shuffled(Random(f"{self.seed} {place}"), words) for place, words in enumerate(sentences)]
        result["shuffled_grammar"] = sum(map(grammatical, mixed)) / len(mixed)
        return {**result, "cpu_seconds": spent}

    def _compare(self) -> dict[str, Any]:
        """Two samples of the fine-tuned policy to each prompt, judged by a noisy labeller.

        Most of what is no sentence is sorted out before labellers see it, as those who pay labellers do. So the
        reward model hears little of it that text should be language: the hole that a policy without a leash
        falls into.
        """
        result: dict[str, Any] = {}
        for number, (name, count) in enumerate(
            (("pairs", self.preset.pairs), ("held_out_pairs", self.preset.held_out_pairs))
        ):
            generator = Random(f"{name} {self.seed}")
            prompts = [row["prompt"] for row in prompt_rows(generator, count * 3 // 2)]
            candidates = self._candidates(prompts, number)
            shown = [c for c in candidates if _is_language(c) or generator.random() >= SORTED_OUT]
            labels = label_pairs(shown[:count], LABELLER, generator)
            write_rows(self.data[name], labels.rows)
            gaps = [row["gold_chosen"] - row["gold_rejected"] for row in labels.rows]
            result[name] = {
                "rows": len(labels.rows),
                "identical": labels.identical,
                "not_language": sum(not _is_language(candidate) for candidate in shown[:count]),
                "bayes_accuracy": bayes_accuracy(gaps, LABELLER),
            }
        return result

    def _candidates(self, prompts: list[str], number: int) -> list[DataRow]:
        policy, tokenizer = self._policy("sft")
        first, second = (draw(policy, tokenizer, prompts, self.seed, 2, number, k) for k in (0, 1))
        return [
            {"prompt": prompt, "responses": [a, b], "finished": [done_a, done_b]}
            for prompt, a, b, done_a, done_b in zip(
                prompts, first.texts, second.texts, first.finished, second.finished, strict=True
            )
        ]

    def _learn_reward(self) -> dict[str, Any]:
        pairs = self._stage_result("comparisons")["pairs"]["rows"]
        spent = phases.learn_reward(self._run("reward"), self._export("sft"), self.data, pairs, self.seed)
        rows = [json.loads(line) for line in self.data["held_out_pairs"].open()]
        margins = (self._text_scores(rows, "chosen") - self._text_scores(rows, "rejected")).tolist()
        gaps = [row["gold_chosen"] - row["gold_rejected"] for row in rows]
        decided = [(margin, gap) for margin, gap in zip(margins, gaps, strict=True) if gap != 0]
        references = [json.loads(line) for line in self.data["validation_demonstrations"].open()]
        return {
            "accuracy_labels": sum(margin > 0 for margin in margins) / len(margins),
            "accuracy_gold": sum((margin > 0) == (gap > 0) for margin, gap in decided) / len(decided),
            "bayes_accuracy": self._stage_result("comparisons")["held_out_pairs"]["bayes_accuracy"],
            "reference_mean": self._text_scores(references, "response").mean().item(),
            "cpu_seconds": spent,
        }

    def _best_of_n(self) -> dict[str, Any]:
        """The best by the reward model of n samples."""
        prompts, most = self._prompts(), max(self.preset.best_of)
        rounds = [draw(*self._policy("sft"), prompts, self.seed, 3, k) for k in range(most)]
        scores = torch.stack([reward_scores(self.reward, drawn) for drawn in rounds])
        golds = torch.tensor([drawn.golds() for drawn in rounds])
        correct = torch.tensor([drawn.correct() for drawn in rounds], dtype=torch.float)
        result = {}
        for n in self.preset.best_of:
            best = scores[:n].argmax(0, keepdim=True)
            result[str(n)] = {
                "gold": golds.gather(0, best).mean().item(),
                "grammar": correct.gather(0, best).mean().item(),
                "score": scores.gather(0, best).mean().item(),
                "kl": best_of_n_kl(n),
            }
        return result

    def _dpo(self, beta: float) -> dict[str, Any]:
        name, pairs = f"dpo-{beta:g}", self._stage_result("comparisons")["pairs"]["rows"]
        spent = phases.optimise_directly(
            self._run(name), self._export("sft"), self.data, pairs, beta, self.seed
        )
        return {**self._measure(name, self.reward), "beta": beta, "cpu_seconds": spent}

    def _ppo(self, beta: float, iterations: int) -> dict[str, Any]:
        name = f"ppo-{beta:g}"
        spent, trajectory = phases.optimise_by_ppo(
            self._run(name),
            self._export("sft"),
            self._export("reward"),
            self.data,
            beta,
            iterations,
            self.preset.ppo_prompts,
            self.seed,
        )
        measured = self._measure(name, self.reward)
        return {**measured, "beta": beta, "cpu_seconds": spent, "trajectory": trajectory}

    # --- what the stages share --------------------------------------------------------------------------

    @property
    def reward(self) -> ModelReward:
        """The reward model, once it has been learned."""
        if self._reward is None:
            tokenizer = load_tokenizer(str(self._export("sft")))
            self._reward = ModelReward(str(self._export("reward")), tokenizer)
        return self._reward

    def _policy(self, name: str) -> tuple[PolicyNetwork, Any]:
        folder = str(self._export(name))
        return PolicyNetwork(load_causal_lm(folder)).eval(), load_tokenizer(folder)

    def _prompts(self) -> list[str]:
        """The evaluation prompts, the same for every policy."""
        rows = prompt_rows(Random("evaluation"), self.preset.evaluation_prompts)
        return [row["prompt"] for row in rows]

    def _measure(self, name: str, reward: ModelReward | None) -> dict[str, Any]:
        policy, tokenizer = self._policy(name)
        drawn = draw(policy, tokenizer, self._prompts(), self.seed, 4)
        shown = draw(policy, tokenizer, SHOWN_PROMPTS, self.seed, 5)
        return {**measure_policy(drawn, self._policy("sft")[0], reward), "samples": shown.texts}

    def _text_scores(self, rows: list[DataRow], field: str) -> torch.Tensor:
        encoder = self.reward.encoder
        trees = []
        for row in rows:
            ids, counted = encoder.response_ids(row["prompt"], row[field])
            trees.append(Tree(encoder.prompt_ids(row["prompt"]), [ids], [counted]))
        return score_trees(self.reward.network, trees, CHUNK, "cpu")

    def _stage_result(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.out / "stages" / f"{name}.json").read_text())
        return result


def _is_language(candidate: DataRow) -> bool:
    """Whether both responses came to their end and are sentences."""
    return all(
        done and grammatical(text.split())
        for text, done in zip(candidate["responses"], candidate["finished"], strict=True)
    )

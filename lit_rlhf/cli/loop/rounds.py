"""The steps of a loop as command lines, round by round: who is sampled, what is learned from what, what is looked at.

Where a round's policy begins. The objective of every round is E[r] − β·KL(π || π_SFT) with the newest reward, or DPO's
form of it on the labels so far, and its optimum does not depend on where training starts. So by default each round's
policy is trained anew from the loop's model (`policy.start: first`): all rounds pay for KL from the same place,
nothing that an earlier round over-optimised is carried on, and a round can be repeated by itself. The previous policy
only draws the responses that are judged next: that is what makes the labels on-policy. Stiennon et al. 2020 and the
online runs of Bai et al. 2022 train reward models on the data of all rounds and policies against the newest one.
Ziegler et al. 2019 go on with one policy while labels come in, as iterative DPO mostly does (`policy.start:
previous`): fewer updates are needed in a round. The KL is still to the loop's model, never to the round before, which
would let the leash out a little in each round.

Reward models are trained anew from the loop's model on the labels of all rounds: on the newest alone they forget what
earlier policies did, which the next policy can go back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.cli.loop.fits import class_of, fit_command
from lit_rlhf.cli.loop.folders import Folders
from lit_rlhf.cli.loop.settings import Loop, Program
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.steps.configs import options, paths
from lit_rlhf.cli.steps.step import Step

MEASURE = ("-m", "lit_rlhf.cli.steps.measure")
"""What measures KL and gold."""


class Rounds(Folders):
    """The steps of a loop.

    Args:
        loop: the settings.
        out: the loop's folder.

    Raises:
        Refusal: the phases do not go together.
    """

    def __init__(self, loop: Loop, out: Path) -> None:
        super().__init__(loop, out)
        if self.learns_from_prompts and loop.reward is None:
            refuse("reward: null goes with DPO; PPO needs a reward model to be trained on the labels.")

    # --- responses and their labels ---------------------------------------------------------------------

    def sample(self, number: int) -> Step:
        """The round's prompts, answered by the policy of the round before."""
        here = self.folder(number)
        return self._sample(
            number, "sample", self.policy(number - 1), here / "prompts.jsonl", self.loop.responses,
            here / "candidates.jsonl", self.seed_of(number),
            f"{self.loop.responses} responses to each of {self.loop.prompts_per_round:,} prompts",
        )  # fmt: skip

    def import_(self, number: int, candidates: Path, db: Path, mode: str) -> Step:
        """Candidates into a labelling file."""
        words = ("label", "import", str(candidates), "--db", str(db), "--mode", mode)
        return Step(
            self.folder(number).name, f"import-{db.stem}", words, (str(candidates),), (db,),
            about="what is to be judged into a file of its own",
        )  # fmt: skip

    def annotate(self, number: int, db: Path, place: int, program: Program) -> Step:
        """One program's judgements."""
        noise = {
            "temperature": program.temperature, "flips": program.flips, "tie-width": program.tie_width,
            "seed": program.seed if program.seed is not None else self.seed_of(number) + 97 * (place + 1),
        }  # fmt: skip
        if "llm_model" in program.options or "llm-model" in program.options:
            del noise["seed"]
        words = (
            "label",
            "annotate",
            "--db",
            str(db),
            "--annotator",
            program.annotator,
            "--name",
            program.name,
        )
        files = (program.annotator,) if Path(program.annotator).exists() else ()
        inputs = (*files, f"overlap {self.loop.overlap}")
        name = f"annotate-{db.stem}-{place + 1}"
        argv = (*words, *options({**noise, **program.options}))
        return Step(
            self.folder(number).name, name, argv, inputs, about=f"judged by the program {program.name}"
        )

    def serve_words(self, db: Path) -> tuple[str, ...]:
        """The command that people's page is opened with."""
        overlap = ("--overlap", str(self.loop.overlap))
        return ("label", "serve", "--db", str(db), *overlap, *options(self.loop.people.serve))

    def export(self, number: int, db: Path, labels: Path, rows: str, votes: bool = True) -> Step:
        """Judgements as rows to train on."""
        said = self.loop.export
        words = ["label", "export", "--db", str(db), "--out", str(labels), "--rows", rows]
        if votes and rows != "votes":
            words += ["--votes", said.votes, *options({"min-agree": said.min_agree}), "--ties", said.ties]
        inputs = (f"overlap {self.loop.overlap}",)
        return Step(
            self.folder(number).name, f"export-{db.stem}", tuple(words), inputs, (labels,), "whole file",
            f"judgements as {rows}",
        )  # fmt: skip

    def agreement(self, number: int, db: Path, out: Path) -> Step:
        """How far annotators agree."""
        words = ("label", "agreement", "--db", str(db), "--json", str(out))
        return Step(
            self.folder(number).name,
            f"agreement-{db.stem}",
            words,
            (),
            (out,),
            "whole file",
            "annotators' agreement",
        )

    # --- what is learned --------------------------------------------------------------------------------

    def score_before(self, number: int) -> Step:
        """The reward model of the round before, on labels that it has not seen."""
        model, here = self.reward(number - 1), self.folder(number)
        labels, report = str(here / "labels.jsonl"), here / "before"
        out = report / "scores.jsonl"
        words = ("score", model, labels, "--out", str(out), "--report", str(report))
        return Step(
            here.name, "score-before", words, (model, labels), (out,), "whole file",
            "the reward model of the round before, on the new labels",
        )  # fmt: skip

    def learn_reward(self, number: int, held_out: bool) -> Step:
        """The reward model, from the labels of all rounds so far."""
        assert self.loop.reward is not None
        train = [self.folder(each) / "train.jsonl" for each in range(1, number + 1)]
        here = self.folder(number)
        given: dict[str, Any] = {"seed_everything": self.loop.seed, "model.model": self.loop.model}
        given["data.path"] = paths(train)
        given |= self._validation(here, held_out)
        words = fit_command(self.loop.reward, "reward", here / "reward", given, self._data("reward"))
        return self._fit(number, "reward", words, [*train, *([here / "held_out.jsonl"] if held_out else [])],
                         "a reward model, from the labels of all rounds so far")  # fmt: skip

    def learn_policy(self, number: int, held_out: bool) -> Step:
        """The round's policy."""
        loop, here = self.loop, self.folder(number)
        start = self.policy(number - 1) if loop.policy.start == "previous" else loop.model
        given: dict[str, Any] = {"seed_everything": loop.seed, "model.model": start}
        if start != loop.model:
            given["model.reference"] = loop.model
        inputs: list[Path | str] = [start, loop.model] if start != loop.model else [start]
        if self.learns_from_prompts:
            files = [loop.prompts] if isinstance(loop.prompts, str) else list(loop.prompts)
            given |= {"model.reward": self.reward(number), "data.path": paths([Path(file) for file in files])}
            inputs += [self.reward(number), *files]
            about = "PPO against the new reward model"
        else:
            rounds = range(1, number + 1) if loop.policy.labels == "all" else [number]
            train = [self.folder(each) / "train.jsonl" for each in rounds]
            given |= {"data.path": paths(train), **self._validation(here, held_out)}
            inputs += [*train, *([here / "held_out.jsonl"] if held_out else [])]
            about = f"DPO, from the labels of {'all rounds so far' if loop.policy.labels == 'all' else 'this round'}"
        data = None if self.learns_from_prompts else self._data("policy")
        words = fit_command(loop.policy, "policy", here / "policy", given, data)
        return self._fit(number, "policy", words, inputs, about)

    # --- what is looked at ------------------------------------------------------------------------------

    def answer(self, number: int) -> Step:
        """The evaluation prompts, answered by a round's policy; 0 = by the loop's model; by all with one seed."""
        assert self.loop.evaluation is not None
        prompts, out = Path(self.loop.evaluation.prompts), self.folder(number) / "responses.jsonl"
        return self._sample(number, "answer", self.policy(number), prompts, 1, out, self.loop.seed,
                            "a response to each evaluation prompt")  # fmt: skip

    def measure(self, number: int) -> Step | None:
        """KL and gold of those responses; None where there is nothing to measure."""
        here, kl = self.folder(number), self.draws_plainly and number > 0
        if not kl and self.loop.gold is None:
            return None
        words = [*MEASURE, "--responses", str(here / "responses.jsonl")]
        if kl:
            words += ["--policy", self.policy(number), "--reference", self.loop.model]
        if self.loop.gold is not None:
            words += ["--gold", self.loop.gold]
        out = here / "measures.json"
        return Step(here.name, "measure", (*words, "--out", str(out)), (str(here / "responses.jsonl"),), (out,),
                    about="gold and KL of those responses")  # fmt: skip

    def score_answers(self, number: int) -> Step:
        """The responses of the loop's model and of all rounds' policies, by the newest reward model."""
        files = [self.folder(each) / "responses.jsonl" for each in range(number + 1)]
        out = self.folder(number) / "scored_responses.jsonl"
        words = ("score", self.reward(number), *map(str, files), "--out", str(out))
        return Step(self.folder(number).name, "score-answers", words, (self.reward(number), *map(str, files)), (out,),
                    "whole file", "all policies' responses by the newest reward model")  # fmt: skip

    # --- what steps share -------------------------------------------------------------------------------

    def _sample(
        self, number: int, name: str, model: str, prompts: Path, k: int, out: Path, seed: int, about: str
    ) -> Step:
        words = (
            "sample",
            model,
            "--prompts",
            str(prompts),
            "-k",
            str(k),
            "--out",
            str(out),
            "--seed",
            str(seed),
        )
        return Step(self.folder(number).name, name, (*words, *options(self.loop.sampling)), (model, str(prompts)),
                    (out,), "whole file", about)  # fmt: skip

    def _fit(
        self, number: int, name: str, words: Sequence[str], inputs: Sequence[Path | str], about: str
    ) -> Step:
        config = words[words.index("--config") + 1]
        files = tuple(dict.fromkeys(map(str, [config, *inputs])))
        out = self.folder(number) / name / "export"
        return Step(self.folder(number).name, name, tuple(words), files, (out,), "fit", about)

    def _validation(self, here: Path, held_out: bool) -> dict[str, Any]:
        return {"data.val_path": str(here / "held_out.jsonl")} if held_out else {"data.val_fraction": 0}

    def _data(self, name: str) -> str | None:
        """The data class for the kind of rows, where the config has another one."""
        fit = self.loop.policy if name == "policy" else self.loop.reward
        assert fit is not None
        wanted = "RankingDataModule" if self.rows == "rankings" else "PairDataModule"
        found = class_of(fit, "data", name)
        known = {"RankingDataModule", "PairDataModule"}
        return wanted if "data" not in fit.set and found in known and found != wanted else None

"""A loop from first to last: every step in its order, what is done passed over, the page written as numbers come in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.loop.labels import split_labels, write_duels
from lit_rlhf.cli.loop.people import late_judgements, settle, wait_for_people
from lit_rlhf.cli.loop.plan import Plan
from lit_rlhf.cli.loop.results import collect
from lit_rlhf.cli.loop.rounds import Rounds
from lit_rlhf.cli.loop.settings import Loop
from lit_rlhf.cli.steps.commands import write_command
from lit_rlhf.cli.steps.rows import write_rows
from lit_rlhf.cli.steps.step import Step, Steps


class Course:
    """One loop in one folder.

    Args:
        loop: the settings.
        out: the folder.
        steps: runs commands there.
        draw: writes the page from the folder's numbers.
    """

    def __init__(self, loop: Loop, out: Path, steps: Steps, draw: Callable[[Path], None]) -> None:
        self.loop, self.out, self.steps, self.draw = loop, out, steps, draw
        self.rounds = Rounds(loop, out)
        self.plan = Plan(loop)

    def run(self) -> None:
        """Do what is not done.

        Raises:
            Refusal: something was done with other settings, or cannot be done.
            StepFailed: a command failed.
            LeaveForPeople: judgements are missing, and `people.wait` is false.
        """
        for note in self.plan.notes():
            self.steps.say(f"note: {note}")
        write_beside_and_rename(self.out / "loop.json", json.dumps(asdict(self.loop), indent=1) + "\n")
        self.prepare()
        if self.loop.evaluation is not None:
            self.do(self.rounds.answer(0))
            self.do(self.rounds.measure(0))
        for number in range(1, self.loop.rounds + 1):
            self.round(number)
            self.write_page()

    def prepare(self) -> None:
        """The rounds' prompts; what is written there already is left where it is the same."""
        for number in range(1, self.loop.rounds + 1):
            write_rows(self.rounds.folder(number) / "prompts.jsonl", self.plan.rows_of(number))

    def round(self, number: int) -> None:
        """Sample, have it judged, learn, look."""
        here = self.rounds.folder(number)
        db, labels = here / "labels.db", here / "labels.jsonl"
        self.do(self.rounds.sample(number))
        self.judge(number, here / "candidates.jsonl", db, self.rounds.mode)
        self.do(self.rounds.export(number, db, labels, self.rounds.rows))
        if late := late_judgements(db, labels):
            self.steps.say(
                f"note: {here.name}: {late:,} judgements came after {labels} was written, and are not in it"
            )
        self.do(self.rounds.agreement(number, db, here / "agreement.json"))
        held_out = split_labels(here, self.plan.held_out(number), self.steps.say)
        if self.loop.reward is not None:
            if number > 1:
                self.do(self.rounds.score_before(number))
            self.do(self.rounds.learn_reward(number, held_out))
        self.do(self.rounds.learn_policy(number, held_out))
        if self.loop.evaluation is not None:
            self.evaluate(number)

    def judge(self, number: int, candidates: Path, db: Path, mode: str) -> None:
        """Have candidates judged, by programs or by people."""
        self.do(self.rounds.import_(number, candidates, db, mode))
        programs = () if isinstance(self.loop.annotators, str) else self.loop.annotators
        settle(db, self.loop.overlap, len(programs), self.loop.seed)
        for place, program in enumerate(programs):
            self.do(self.rounds.annotate(number, db, place, program))
        if not programs:
            self.write_page()
            words = self.rounds.serve_words(db)
            wait_for_people(db, words, self.loop.people.wait, self.loop.people.seconds, self.steps.say)

    def evaluate(self, number: int) -> None:
        """Responses to the evaluation prompts: gold, KL, and who wins against the loop's model."""
        assert self.loop.evaluation is not None
        here = self.rounds.folder(number)
        self.do(self.rounds.answer(number))
        self.do(self.rounds.measure(number))
        if self.loop.reward is not None:
            self.do(self.rounds.score_answers(number))
        if self.loop.evaluation.judged:
            duels, db = here / "duels.jsonl", here / "duels.db"
            start = self.rounds.folder(0) / "responses.jsonl"
            same = write_duels(start, here / "responses.jsonl", duels, self.loop.evaluation.judged)
            if same:
                self.steps.say(
                    f"{here.name}: {same} of the responses to be compared are identical, which is a tie"
                )
            if duels.stat().st_size:
                self.judge(number, duels, db, "pairwise")
                self.do(self.rounds.export(number, db, here / "duel_labels.jsonl", "rankings", votes=False))

    def do(self, step: Step | None) -> None:
        """Run a step that is not done, and write its command down."""
        if step is None:
            return
        found = len(self.steps.done)
        self.steps.do(step)
        if len(self.steps.done) > found:
            self.steps.say(f"{step.title}: done already")
        self.remember(step)

    def remember(self, step: Step) -> None:
        """Put the step's command into ``commands.sh``, in its place."""
        behind = []
        if step.name.startswith("import-") and self.loop.annotators == "people":
            db = step.argv[step.argv.index("--db") + 1]
            serve = shlex.join(["lit-rlhf", *self.rounds.serve_words(Path(db))])
            behind = ["# until everything is judged:", serve]
        write_command(self.out / "commands.sh", "# the steps of this loop, in order", step, behind)

    def write_page(self) -> None:
        """``loop.html``, and its numbers as ``results.json``."""
        results = collect(self.loop, self.out)
        write_beside_and_rename(
            self.out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        )
        self.draw(self.out)

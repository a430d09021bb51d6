"""Steps: each one command, known again by its words and its inputs, run once, gone on with when killed."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.checkpoints import last_checkpoint
from lit_rlhf.cli.progress import duration
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.steps.fingerprint import fingerprint

Resume: TypeAlias = Literal["itself", "whole file", "fit"]
"""How a step that was killed goes on. ``itself``: the command finds its own way. ``whole file``: likewise, and where
its last output is there, it had finished. ``fit``: from the run folder's last checkpoint, if it came to one."""


@dataclass(frozen=True)
class Step:
    """One command."""

    folder: str
    """Where it belongs, inside the folder of the whole work."""
    name: str
    argv: tuple[str, ...]
    """Of ``lit-rlhf``; or ``-m MODULE …``."""
    inputs: tuple[str, ...] = ()
    """Files and folders that it reads and that do not change once it has begun; and in words what its command does not
    say, such as ``overlap 2``."""
    outputs: tuple[Path, ...] = ()
    """What it leaves; each is written beside and renamed, the last one last."""
    resume: Resume = "itself"
    about: str = ""
    """What it does, for the reader."""

    @property
    def title(self) -> str:
        """``round-1/sample``."""
        return f"{self.folder}/{self.name}"

    @property
    def command(self) -> str:
        """The line that does the same by hand."""
        words = ["python", *self.argv] if self.argv[0] == "-m" else ["lit-rlhf", *self.argv]
        return shlex.join(words)


class StepFailed(SystemExit):
    """A step's command ended with an exit code of its own, which is ours too."""


@dataclass
class Steps:
    """Runs steps in a folder and remembers what is done.

    Args:
        out: the folder of the whole work.
        run: runs a command and returns its exit code.
        say: prints a line.
    """

    out: Path
    run: Callable[[Sequence[str]], int]
    say: Callable[[str], None]
    done: list[str] = field(default_factory=list)
    """Titles of the steps that were found done."""
    ran: list[str] = field(default_factory=list)
    """Titles of the steps that were run."""

    def mark_of(self, step: Step, state: Literal["begun", "done"]) -> Path:
        """The small file that says so."""
        return self.out / step.folder / "steps" / f"{step.name}.{state}.json"

    def do(self, step: Step) -> None:
        """Run a step, unless it is done.

        Raises:
            Refusal: it was begun or done with another command or other inputs, or what it left is gone. Where it was
                begun and came to nothing, it is begun anew.
            StepFailed: its command failed.
        """
        said = said_of(step)
        done = self.mark_of(step, "done")
        if done.exists():
            self._compare(step, said, json.loads(done.read_text(encoding="utf-8")), "done")
            gone = [str(path) for path in step.outputs if not path.exists()]
            if gone:
                refuse(f"{step.title} is done, and what it left is gone: {', '.join(gone)}.",
                       f"Put it back, or remove {done} to do the step again.")  # fmt: skip
            self.done.append(step.title)
            return
        begun = self.mark_of(step, "begun")
        if begun.exists() and not came_to_nothing(step):
            self._compare(step, said, json.loads(begun.read_text(encoding="utf-8")), "begun")
        else:
            write_beside_and_rename(begun, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        self._run(step, said, done)
        begun.unlink(missing_ok=True)

    def check(self, step: Step) -> bool:
        """Whether a step is done; runs nothing.

        Raises:
            Refusal: as :meth:`do`, of settings.
        """
        for state in ("done", "begun"):
            mark = self.mark_of(step, state)
            if mark.exists():
                if state == "done" or not came_to_nothing(step):
                    self._compare(step, said_of(step), json.loads(mark.read_text(encoding="utf-8")), state)
                return state == "done"
        return False

    def _run(self, step: Step, said: dict[str, Any], done: Path) -> None:
        argv = resumed(step)
        began = time.time()
        if argv is None:
            self.say(f"{step.title}: had finished")
        else:
            words = ["python", *argv] if argv[0] == "-m" else ["lit-rlhf", *argv]
            self.say(f"\n{step.title}: {step.about}\n$ {shlex.join(words)}")
            code = self.run(argv)
            if code:
                self.say(f"\n{step.title} ended with exit code {code}; what stood before is kept.")
                raise StepFailed(code)
        gone = [str(path) for path in step.outputs if not path.exists()]
        if gone:
            refuse(f"{step.title}: its command ended well, and {', '.join(gone)} is not there.")
        seconds = round(time.time() - began, 1)
        write_beside_and_rename(
            done, json.dumps({**said, "seconds": seconds}, indent=1, ensure_ascii=False) + "\n"
        )
        self.ran.append(step.title)
        self.say(f"{step.title}: done in {duration(seconds)}")

    def _compare(self, step: Step, said: dict[str, Any], before: dict[str, Any], state: str) -> None:
        changes = changed(before, said)
        if not changes:
            return
        mark = self.mark_of(step, "done" if state == "done" else "begun")
        left = " ".join(str(path) for path in (mark, *step.outputs))
        refuse(
            f"{step.title} was {state} with something else than is asked for now, and the two are not mixed:",
            *(f"  {line}" for line in changes),
            "Put it back as it was, or take another folder with --out,",
            f"or do this step and all after it again: remove {left}",
        )


def said_of(step: Step) -> dict[str, Any]:
    """What a step is known again by."""
    return {"command": step.command, "inputs": {name: fingerprint(name) for name in step.inputs}}


def came_to_nothing(step: Step) -> bool:
    """Whether a step that was begun left neither an output nor a checkpoint, so that nothing could be mixed.

    Of a step without outputs that is not known. What commands keep of unfinished work of theirs, they hold to their
    own settings.
    """
    if not step.outputs or any(path.exists() for path in step.outputs):
        return False
    if step.resume != "fit":
        return True
    checkpoints = Path(step.argv[step.argv.index("--out") + 1]) / "checkpoints"
    return not checkpoints.is_dir() or not any(checkpoints.iterdir())


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two commands and their inputs, a line each."""
    lines = []
    if before["command"] != now["command"]:
        old, new = shlex.split(before["command"]), shlex.split(now["command"])
        gone = [word for word in pairs_of(old) if word not in pairs_of(new)]
        came = [word for word in pairs_of(new) if word not in pairs_of(old)]
        lines.append(f"then {' '.join(gone) or '-'}; now {' '.join(came) or '-'}")
    for name in sorted({*before["inputs"], *now["inputs"]}):
        one, other = before["inputs"].get(name), now["inputs"].get(name)
        if one is not None and other is not None and one != other:
            lines.append(f"{name} has another content than then")
    only = [
        sorted(one["inputs"].keys() - other["inputs"].keys()) for one, other in ((before, now), (now, before))
    ]
    if any(only):
        lines.append(f"then with {', '.join(only[0]) or '-'}; now with {', '.join(only[1]) or '-'}")
    return lines


def pairs_of(words: Sequence[str]) -> list[str]:
    """Options with their values, and what stands alone.

    >>> pairs_of(["sample", "m", "--seed", "1", "-k", "2"])
    ['sample', 'm', '--seed 1', '-k 2']
    """
    out: list[str] = []
    for word in words:
        after_option = out and out[-1].startswith("-") and " " not in out[-1] and not word.startswith("--")
        if after_option:
            out[-1] += f" {shlex.quote(word)}"
        else:
            out.append(word)
    return out


def resumed(step: Step) -> tuple[str, ...] | None:
    """The words that a step is run with now; None where it had finished and only its mark is missing."""
    if step.resume == "whole file" and step.outputs and all(path.exists() for path in step.outputs):
        return None
    if step.resume == "fit" and last_checkpoint(Path(step.argv[step.argv.index("--out") + 1])) is not None:
        return (*step.argv, "--ckpt_path", "last")
    return step.argv

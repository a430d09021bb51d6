"""``lit-rlhf loop``: sample, have it judged, learn a reward and a policy, and again; each step one of our commands."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lit_rlhf.cli.refusal import refuse

USAGE = "usage: lit-rlhf loop --config FILE [--out DIR] [--FIELD VALUE …]"


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf loop --config FILE``

    Raises:
        SystemExit: 2 for a mistake in the config, the exit code of a step that failed, 130 after Ctrl-C.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text())
        return
    config, out, flags = parse(argv)
    from lit_rlhf.cli.loop.reading import read_settings

    loop = read_settings(config, flags)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.loop.course import Course
    from lit_rlhf.cli.steps.children import Children, only_one_in
    from lit_rlhf.cli.steps.step import StepFailed, Steps
    from lit_rlhf.reports.loop import draw_loop

    again = f"go on with: {shlex.join(['lit-rlhf', 'loop', *argv])}"
    with only_one_in(out, "loop") as lock:
        children = Children(lock)
        steps = Steps(out, children.run, say)
        say(f"loop folder: {out}")
        try:
            run_guarded("loop", lambda: Course(loop, out, steps, draw_loop).run())
        except StepFailed:
            print(again, file=sys.stderr)
            raise
        except KeyboardInterrupt:
            print(f"\nstopped; what was done is kept\n{again}", file=sys.stderr)
            raise SystemExit(children.exit_code) from None
    say(
        f"\nloop: {loop.rounds} rounds are done\nreport: {out / 'loop.html'}\ncommands: {out / 'commands.sh'}"
    )


def parse(argv: Sequence[str]) -> tuple[Path, Path, list[tuple[str, str]]]:
    """The config's file, the loop's folder, and the fields that flags set."""
    config: str | None = None
    out = "runs/loop"
    flags: list[tuple[str, str]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or len(name) < 3:
            if name == "-c":
                name = "--config"
            else:
                refuse(f"expected an option, found '{word}'.", USAGE, "help: lit-rlhf loop --help")
        if not equals:
            if not words:
                refuse(f"{name}: expected a value behind it.", "help: lit-rlhf loop --help")
            value = words.pop(0)
        if name == "--config":
            config = value
        elif name == "--out":
            out = value
        else:
            flags.append((name[2:], value))
    if config is None:
        refuse("no --config was given.", USAGE, "`lit-rlhf cp loop loop.yaml` writes one to edit.")
    return Path(config), Path(out), flags


def help_text() -> str:
    """What ``lit-rlhf loop --help`` prints."""
    from lit_rlhf.cli.loop.describing import describe_fields

    about = (
        "Rounds of: a policy answers prompts; people (or programs with stated noise) compare the answers; a reward "
        "model learns from all labels so far; PPO or DPO makes the next policy, which answers the next prompts. Each "
        "round has a folder of its own, each step is one of our commands, which is printed and written to "
        "commands.sh, and loop.html shows what was gained. What was stopped or killed goes on when the same command "
        "is given again; a config that has changed since is noticed."
    )
    lines = [USAGE, "", *textwrap.wrap(about, 100), ""]
    lines += [
        "  --config FILE    YAML with the fields below",
        "  --out DIR        the loop's folder (runs/loop)",
    ]
    lines += [
        "  --FIELD VALUE    a field, over the config, such as --rounds 4 or --policy.set.model.beta 0.2",
        "",
        "fields:",
    ]
    for name, said in describe_fields():
        wrapped = textwrap.wrap(said, 100, initial_indent="      ", subsequent_indent="      ")
        lines += [f"  {name}", *wrapped]
    return "\n".join(lines)


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)

"""``lit-rlhf compare``: several methods from one start on the same data and budget, over seeds, on one page."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_rlhf.cli.compare.options import help_text, parse
from lit_rlhf.cli.compare.settings import Comparison

if TYPE_CHECKING:
    from lit_rlhf.cli.steps.logged import LoggedChildren


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf compare --configs A.yaml B.yaml … --seconds S``

    Raises:
        SystemExit: 2 for a mistake in the arguments or a config, 1 where a method failed with a seed, 130 after Ctrl-C.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text())
        return
    comparison = parse(argv)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.steps.children import only_one_in
    from lit_rlhf.cli.steps.logged import LoggedChildren
    from lit_rlhf.cli.steps.step import StepFailed

    command = ["lit-rlhf", "compare", *argv]
    again = f"go on with: {shlex.join(command)}"
    with only_one_in(comparison.out, "comparison") as lock:
        children = LoggedChildren(lock, say)
        say(f"comparison's folder: {comparison.out}")
        try:
            run_guarded("compare", lambda: compare(comparison, children, command))
        except StepFailed as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            print(f"{children.reason(code)}\nall it said: {children.log}\n{again}", file=sys.stderr)
            raise
        except KeyboardInterrupt:
            print(f"\nstopped; what was done is kept\n{again}", file=sys.stderr)
            raise SystemExit(children.exit_code) from None


def compare(comparison: Comparison, children: LoggedChildren, command: list[str]) -> None:
    """Read every config, do every step, say what came of it.

    Args:
        comparison: the settings.
        children: runs the steps.
        command: the words that asked for it.

    Raises:
        SystemExit: see :func:`main`.
    """
    from lit_rlhf.cli.compare.beforehand import check_beforehand
    from lit_rlhf.cli.compare.cells import Cells
    from lit_rlhf.cli.compare.course import Course
    from lit_rlhf.cli.compare.equal_terms import check_same
    from lit_rlhf.cli.compare.files import read_held_out
    from lit_rlhf.cli.compare.methods import read_methods
    from lit_rlhf.cli.compare.notes import notes_on
    from lit_rlhf.cli.compare.table import failures_of, table_of
    from lit_rlhf.cli.main import import_from_here
    from lit_rlhf.reports.compare import draw_compare

    import_from_here()
    methods = read_methods(comparison)
    check_same(methods)
    check_beforehand(comparison, methods)
    notes = [*notes_on(comparison, methods), *read_held_out(comparison, methods)]
    for note in notes:
        say(f"note: {note}")
    course = Course(Cells(comparison, methods), children, say, draw_compare, command, notes)
    is_done = course.run()
    results = json.loads((comparison.out / "results.json").read_text(encoding="utf-8"))
    say("\n" + "\n".join(table_of(results)) + "\na number is the mean over seeds, with its 95 % interval")
    for note in results["notes"][len(notes) :]:
        say(f"note: {note}")
    say(f"\npage: {comparison.out / 'compare.html'}\ncommands: {comparison.out / 'commands.sh'}")
    if not is_done:
        print("\n".join([*failures_of(results), f"go on with: {shlex.join(command)}"]), file=sys.stderr)
        raise SystemExit(1)


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)

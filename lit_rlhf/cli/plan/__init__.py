"""``lit-rlhf plan``: memory a rank before anything is loaded, and what would make a run fit.

It takes what ``fit`` takes. Of each model its ``config.json`` is read and nothing else, so that a plan can be made of a
model that is not there yet; the data is not read, and rows are taken to be as long as its limits allow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.fit import CommandLine, say
from lit_rlhf.cli.guard import run_guarded
from lit_rlhf.cli.plan.options import fitting
from lit_rlhf.cli.plan.report import GIBIBYTE, as_json, device_bytes, heading, lines, plan_of, verdict
from lit_rlhf.cli.plan.settings import Settings


class PlanCommandLine(CommandLine):
    """Takes what ``fit`` takes, and builds nothing of it."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__("fit", argv)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``--memory`` and ``--json``, beside what ``fit`` has."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--memory",
            type=str | None,
            default=None,
            help="GiB of a device, or its name: H100, A100, L40S, …",
        )
        parser.add_argument(
            "--json", type=str | None, default=None, help="A file that gets the plan too, in bytes."
        )

    def _set_seed(self) -> None:
        """Nothing: nothing is drawn."""

    def before_instantiate_classes(self) -> None:
        """Nothing: there is no run folder."""

    def instantiate_classes(self) -> None:
        """Nothing: the arguments are all that is looked at."""

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.config.fit
        memory = device_bytes(config.memory)
        settings = Settings(config)
        plan = plan_of(settings.run(), memory)
        for line in (*heading(plan, config.trainer.precision), "", *lines(plan), "", *verdict(plan)):
            say(line)
        say("assumed: " + "\n         ".join(settings.notes))
        options = [] if plan.fits or memory is None else fitting(config, memory)
        if not plan.fits:
            say("\nit would fit with:" if options else "\nnothing that plan knows of would make it fit.")
            for flags, peak in options:
                say(f"  {GIBIBYTE.write(peak):>6} GiB  {' '.join(flags)}")
        if config.json is not None:
            content = json.dumps(as_json(plan, settings.notes, options), indent=2) + "\n"
            write_beside_and_rename(Path(config.json), content)
        if not plan.fits:
            raise SystemExit(1)


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf plan``"""
    run_guarded("plan", lambda: PlanCommandLine(argv))

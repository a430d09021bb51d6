"""``lit-rlhf label serve``: the page where people compare responses."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lit_rlhf.cli.given_files import check_model_folder, check_rows
from lit_rlhf.cli.label.announcing import announce, warn
from lit_rlhf.cli.refusal import near_files, refuse
from lit_rlhf.labelling.items import Settings
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.server.access_file import AccessFileError, open_access
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.server.names import checked_name, known_annotators, other_spelling
from lit_rlhf.labelling.server.running import (
    AddressError,
    end_at_once,
    hosts_of,
    listen,
    serve_until_told,
)
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.texts import counted
from lit_rlhf.labelling.verdicts import MODES, MOST_RANKED

if TYPE_CHECKING:
    import socket

    from lit_rlhf.labelling.candidates import ItemsRead

LIVE_RESPONSES = 4


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label serve [FILE…] --db F``"""
    arguments = parse(argv)
    check_arguments(arguments)
    try:
        with closing(listen(arguments.host, arguments.port)) as listening:
            serve(arguments, listening)
    except (StoreError, AccessFileError, AddressError) as error:
        refuse(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; of the settings that the labelling file keeps, None = as they are there."""
    parser = argparse.ArgumentParser(
        "lit-rlhf label serve",
        allow_abbrev=False,
        description="Serve a page on which people compare responses. Everything is kept in the labelling file: the "
        "next start needs no FILE, and settings that are not given stay as they are. Judgements reach the disk before "
        "they are acknowledged. Who has the printed address can judge; Ctrl-C or SIGTERM ends the server.",
    )
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="candidates, such as `lit-rlhf sample` writes; added to the file",
    )
    add("--db", required=True, metavar="F", help="the labelling file; made where it does not exist")
    add(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="0.0.0.0 is every network of this machine (%(default)s)",
    )
    add("--port", type=int, default=8765, metavar="N", help="0 takes a free one (%(default)s)")
    add("--mode", choices=MODES, help="how FILEs are judged (default: by the number of different responses: 1 rating, "
        "2 pairwise, more ranking)")  # fmt: skip
    add("--annotators", nargs="+", default=[], metavar="NAME", help="an address of her own for each")
    add(
        "--live", metavar="MODEL", help="a policy's folder: prompts can be typed in, and its responses ranked"
    )
    add("-k", dest="k", type=int, metavar="K", help=f"responses to a prompt typed in ({LIVE_RESPONSES})")
    kept = parser.add_argument_group("settings, kept in the labelling file").add_argument
    first = Settings()
    kept("--guidelines", metavar="F.md", help="what annotators are told; Markdown")
    kept(
        "--overlap", type=int, metavar="N", help=f"annotators that are asked for each item ({first.overlap})"
    )
    kept("--quota", type=int, metavar="N", help="judgements of one annotator; 0 = no limit (0)")
    kept("--lease-minutes", type=float, metavar="M",
         help=f"an item is kept so long for who sees it ({first.lease_seconds / 60:g})")  # fmt: skip
    kept("--repeats", type=float, metavar="P",
         help=f"share of items seen twice, half of them swapped ({first.repeats})")  # fmt: skip
    kept("--gold", nargs="+", default=[], metavar="FILE", help="test items: rows with their known judgement")
    kept("--gold-share", type=float, metavar="P", help=f"share of items that are tests ({first.gold_share})")
    kept("--practice", type=int, metavar="N",
         help=f"test items that an annotator begins with, told if she was right ({first.practice})")  # fmt: skip
    kept("--order", choices=("random", "active"),
         help=f"active = what a reward model is least sure of first ({first.order})")  # fmt: skip
    kept("--seed", type=int, metavar="N", help=f"of orders and draws ({first.seed})")
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything is loaded or written."""
    ranges = {
        "port": (0, 65535), "overlap": (1, None), "quota": (0, None), "practice": (0, None),
        "repeats": (0, 1), "gold_share": (0, 1), "k": (2, MOST_RANKED),
    }  # fmt: skip
    for name, (least, most) in ranges.items():
        found = getattr(arguments, name)
        if found is not None and not least <= found <= (found if most is None else most):
            option = "-k" if name == "k" else f"--{name.replace('_', '-')}"
            expected = f"{least} or more" if most is None else f"{least} to {most}"
            refuse(f"{option}: expected {expected}, found {found}.")
    if arguments.lease_minutes is not None and not 0 < arguments.lease_minutes < 1e6:
        refuse(f"--lease-minutes: expected more than 0, found {arguments.lease_minutes:g}.")
    if arguments.mode is not None and not arguments.files and not arguments.gold:
        refuse("--mode: says how FILEs are judged, and no FILE is given.")
    if arguments.k is not None and arguments.live is None:
        refuse("-k: is for prompts that are typed in, with --live MODEL.")
    try:
        arguments.annotators = [checked_name(name) for name in arguments.annotators]
    except ValueError as error:
        refuse(f"--annotators: {error}.")
    for option, names in (("FILE", arguments.files), ("--gold", arguments.gold)):
        for name in names:
            check_rows(option, name)
    if arguments.guidelines is not None and not Path(arguments.guidelines).is_file():
        refuse(f"--guidelines {arguments.guidelines}: no such file.", *near_files(arguments.guidelines))
    if arguments.live is not None:
        check_model_folder("--live", arguments.live)


def serve(arguments: argparse.Namespace, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    given = bool(arguments.files or arguments.gold or arguments.live)
    guidelines = read_guidelines(arguments.guidelines)
    read = read_files(arguments)  # all of it, before anything is written
    with LabelStore(arguments.db, create=given) as store:
        for names, items in read:
            add_items(store, names, items)
        configure(store, arguments, guidelines)
        for name in arguments.annotators:
            if alike := other_spelling(name, [*known_annotators(store), *arguments.annotators]):
                refuse(f"--annotators {name}: {alike} is there too, and readers would take them for one.",
                       "Write it like that, or take a name that differs more.")  # fmt: skip
            store.add_annotator(name)
        access = open_access(store.path, arguments.annotators)
        live = None if arguments.live is None else loaded(arguments)
        app = create_app(store, access, hosts_of(arguments.host, listening), live)
        announce(store, access, listening)
        is_busy = serve_until_told(app, listening)
        progress = store.progress()
        judged = counted(sum(progress.by_annotator.values()), "judgement")
        print(
            f"\nended; {store.path} has {judged}, of those that are wanted "
            f"{progress.given:,} of {progress.wanted:,}",
            flush=True,
        )
        if is_busy:
            end_at_once()


def read_files(arguments: argparse.Namespace) -> list[tuple[str, ItemsRead]]:
    """The rows of the files, with what to call each kind."""
    found: list[tuple[str, ItemsRead]] = []
    if not (arguments.files or arguments.gold):
        return found  # nothing heavy is loaded then
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.labelling.candidates import read_items

    def read() -> None:
        if arguments.files:
            found.append((", ".join(arguments.files), read_items(arguments.files, arguments.mode)))
        if arguments.gold:
            found.append((", ".join(arguments.gold), read_items(arguments.gold, arguments.mode, gold=True)))

    run_guarded("label serve", read)
    return found


def add_items(store: LabelStore, names: str, read: ItemsRead) -> None:
    """Put rows into the store, and say what came of them."""
    known = {item.number for item in store.items()}
    added = {item.number for item in store.add_items(read.items)} - known
    gold = read.items[0].gold is not None
    counts = Counter(item.mode for item in read.items).most_common()
    modes = ", ".join(f"{count:,} {mode}" for mode, count in counts)
    items = counted(len(read.items), "test item" if gold else "item")
    print(f"read {names}: {items} ({modes}), {len(added):,} of them new")
    for note in read.notes:
        print(f"  {note}")
    if read.judged and not gold:
        print(f"  judged already: {counted(len(read.judged), 'row')}, and that is not used here: "
              "`lit-rlhf label import` takes it over")  # fmt: skip


def loaded(arguments: argparse.Namespace) -> LiveModel:
    """The model that answers prompts typed in."""
    from lit_rlhf.cli.guard import run_guarded

    models: list[LiveModel] = []

    def load() -> None:
        from lit_rlhf.cli.label.live import load_live

        models.append(load_live(arguments.live, arguments.k or LIVE_RESPONSES))

    run_guarded("label serve", load)
    return models[0]


def read_guidelines(name: str | None) -> str | None:
    """The text of the file; None where none is given."""
    if name is None:
        return None
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"--guidelines {name}: expected UTF-8 text: {error}.")


def configure(store: LabelStore, arguments: argparse.Namespace, guidelines: str | None) -> None:
    """Keep the settings that are given."""
    before = store.settings
    changes = {name: getattr(arguments, name)
               for name in ("overlap", "repeats", "gold_share", "practice", "order", "seed")}  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    if arguments.quota is not None:
        changes["quota"] = arguments.quota or None
    if arguments.lease_minutes is not None:
        changes["lease_seconds"] = arguments.lease_minutes * 60
    if guidelines is not None:
        changes["guidelines"] = guidelines
    settings = replace(before, **changes)
    if settings != before:
        store.configure(settings)
    tests = sum(item.gold is not None for item in store.items())
    if settings.practice > tests:
        warn(
            f"--practice {settings.practice}: there are {tests} test items to practise on; --gold FILE adds more."
        )
    if settings.order == "active" and not any(item.priority is not None for item in store.items()):
        warn(
            "--order active: no item has scores, so the order is random; `lit-rlhf score` writes a file with scores"
        )

"""What ``label serve`` prints when it begins: where to go, and what is next."""

from __future__ import annotations

import shlex
import socket
import sys

from lit_rlhf.labelling.server.access import Access
from lit_rlhf.labelling.server.access_file import access_path
from lit_rlhf.labelling.server.running import base_address, is_loopback
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.texts import counted


def announce(store: LabelStore, access: Access, listening: socket.socket) -> None:
    """What waits, where to go, and where judgements go."""
    progress, settings, address = store.progress(), store.settings, base_address(listening)
    items, each = counted(progress.items, "item"), f"{counted(settings.overlap, 'annotator')} for each"
    print(f"{store.path}: {items} to judge, {each}; {progress.given:,} of {progress.wanted:,} "
          "judgements are there")  # fmt: skip
    print(f"open  {address}/?token={access.owner}")
    for name, token in access.annotators.items():
        print(f"  {name}: {address}/?token={token}")
    if access.annotators:
        print("the first is yours, for any name and with the agreement page; give each annotator her own")
    print("in a browser, and judge by mouse or by keys (? lists them); who has an address can judge (they are kept in "
          f"{access_path(store.path).name})")  # fmt: skip
    if not progress.items:
        print("there is nothing to judge yet: give a FILE, such as `lit-rlhf sample` writes")
    db = shlex.quote(str(store.path))
    print(f"judgements go to {store.path}; next, also while this runs:")
    print(f"  lit-rlhf label agreement --db {db}                      how far annotators agree")
    print(f"  lit-rlhf label export --db {db} --out judged.jsonl      what is judged, to train on")
    print("Ctrl-C ends the server; the same command goes on", flush=True)
    if not is_loopback(listening):
        host, port = listening.getsockname()[:2]
        warn(
            f"{host} can be reached from other machines, and what is sent, tokens too, is not encrypted. Keep it "
            "within a network that you trust, or stay on 127.0.0.1 and let annotators come through an SSH tunnel: "
            f"ssh -L {port}:127.0.0.1:{port} THIS-MACHINE"
        )


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {message}", file=sys.stderr, flush=True)

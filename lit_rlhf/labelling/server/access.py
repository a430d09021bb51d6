"""Who is let in: tokens in printed addresses, the signed cookie that takes their place, and the mark against forgery.

Nothing of a session is kept on the server: a restart, or a second server on the same file, goes on with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

LIFE_SECONDS = 7 * 24 * 3600
"""Of a cookie; opening the page gives a new one."""


@dataclass(frozen=True)
class Session:
    """One browser that came in by a token."""

    id: str
    """Random; the mark against forged requests hangs on it."""
    fingerprint: str
    """Of the token by which it came."""
    annotator: str | None
    """Who sits there; None until the owner's token is told a name."""
    named: bool
    """The name belongs to the token."""
    expires: int
    """Seconds since 1970."""

    @property
    def may_see_agreement(self) -> bool:
        """Whether how annotators compare is shown: not to one who is compared."""
        return not self.named


class Access:
    """The tokens of a store, and the sessions that they open.

    Args:
        secret: signs cookies; at least 32 bytes.
        owner: the token of whoever started the server, who may be any annotator and see how they agree.
        annotators: the token of each annotator who has an address of her own.
    """

    def __init__(self, secret: bytes, owner: str, annotators: Mapping[str, str] | None = None) -> None:
        if len(secret) < 32 or not owner or not all((annotators or {}).values()):
            raise ValueError("expected a secret of at least 32 bytes, and tokens that are not empty")
        self._secret = secret
        self.owner = owner
        self.annotators = dict(annotators or {})
        self._names: dict[str, str | None] = {fingerprint(owner): None}
        self._names |= {fingerprint(token): name for name, token in self.annotators.items()}
        # browsers send a cookie to every port of a host: two stores must not take each other's
        self.cookie_name = "lit_rlhf_label_" + hashlib.sha256(b"cookie name" + secret).hexdigest()[:12]

    def admit(self, token: str) -> Session | None:
        """A new session for who has the token; None = it is none of ours."""
        given, found = hashlib.sha256(token.encode(errors="replace")).digest(), None
        for known in (self.owner, *self.annotators.values()):  # all of them, whichever it is
            if hmac.compare_digest(given, hashlib.sha256(known.encode()).digest()):
                found = known
        if found is None:
            return None
        name = self._names[fingerprint(found)]
        expires = int(time.time()) + LIFE_SECONDS
        return Session(secrets.token_urlsafe(18), fingerprint(found), name, name is not None, expires)

    def belongs(self, session: Session, token: str) -> bool:
        """Whether the session came by this very token."""
        return hmac.compare_digest(session.fingerprint, fingerprint(token))

    def renewed(self, session: Session) -> Session:
        """The same session with its whole life before it."""
        return replace(session, expires=int(time.time()) + LIFE_SECONDS)

    def renamed(self, session: Session, annotator: str) -> Session:
        """The same session, with somebody else sitting there."""
        return replace(self.renewed(session), annotator=annotator)

    def cookie(self, session: Session) -> str:
        """What the browser keeps: the session, and its signature."""
        content = [session.id, session.fingerprint, session.annotator, session.expires]
        body = _base64(json.dumps(content).encode())
        return f"{body}.{self._sign('session', body)}"

    def session(self, cookie: str) -> Session | None:
        """The session that a cookie holds; None = not signed by us, too old, or by a token that is no more."""
        body, _, signature = cookie.partition(".")
        # as bytes: compare_digest takes no other text than ASCII
        if not hmac.compare_digest(signature.encode(), self._sign("session", body).encode()):
            return None
        padded = body + "=" * (-len(body) % 4)
        id, token, annotator, expires = json.loads(base64.urlsafe_b64decode(padded))
        if expires <= time.time() or token not in self._names:
            return None
        name = self._names[token]
        if name is None and annotator in self.annotators:
            annotator = None  # has an address of her own by now
        return Session(id, token, annotator if name is None else name, name is not None, expires)

    def csrf(self, session: Session) -> str:
        """What every request that changes something has to bring; another site cannot read it."""
        return self._sign("csrf", session.id)

    def may_post(self, session: Session, csrf: str) -> bool:
        """Whether `csrf` is the session's."""
        return hmac.compare_digest(csrf.encode(), self.csrf(session).encode())

    def _sign(self, purpose: str, text: str) -> str:
        return _base64(hmac.digest(self._secret, f"{purpose}|{text}".encode(errors="replace"), "sha256"))


def fingerprint(token: str) -> str:
    """Stands for a token where the token itself must not be."""
    return hashlib.sha256(b"fingerprint" + token.encode(errors="replace")).hexdigest()[:32]


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")

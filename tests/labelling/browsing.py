"""A server on a store, and browsers that look at it."""

from __future__ import annotations

import uuid
from typing import Any

from httpx2 import Response
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lit_rlhf.labelling.server.access import Access

ACCESS = Access(b"s" * 32, "owner-token", {"ann": "token-of-ann", "bob": "token-of-bob"})


class Browser:
    """What somebody's browser does: it keeps the cookie and sends the session's CSRF with every POST.

    Args:
        app: the server.
        token: by which it comes in; None = it does not.
        name: under which it sits down; None = the token's own, or nobody.
        client: its address.
    """

    def __init__(
        self,
        app: Starlette,
        token: str | None = "token-of-ann",
        name: str | None = None,
        client: str = "10.0.0.1",
    ) -> None:
        self.http = TestClient(
            app,
            "http://127.0.0.1:8765",
            raise_server_exceptions=False,
            client=(client, 5),
            follow_redirects=False,
        )
        self.csrf = ""
        if token is not None:
            self.opened = self.http.get(f"/?token={token}")
            if self.opened.status_code == 200:
                self.csrf = self.get("/api/session")["csrf"]
        if name is not None:
            self.post("/api/session", {"annotator": name})

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, path: str, body: Any, **headers: str) -> Response:
        return self.http.post(path, json=body, headers={"X-CSRF": self.csrf, **headers})

    def post(self, path: str, body: Any) -> Any:
        answer = self.send(path, body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def task(self) -> Any:
        return self.get("/api/task")["task"]

    def judge(self, task: Any, verdict: dict[str, Any] | None = None, **fields: Any) -> Response:
        return self.send("/api/judgements", judgement(task, verdict, **fields))


def judgement(task: Any, verdict: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The body of a POST that judges a task: what stands first is better."""
    return {
        "task": task["number"],
        "submission": str(uuid.uuid4()),
        "replaces": task["judgement"],
        "verdict": verdict or {"ranking": [[0], [1]], "strength": "better"},
        **fields,
    }

"""The JSON API between page and server. All state is in the store; each call reads or writes it in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from lit_rlhf.labelling.items import Judgement, Task
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.server.access import Access, Session
from lit_rlhf.labelling.server.agreement import AgreementPage
from lit_rlhf.labelling.server.answers import (
    feedback_answer,
    history_answer,
    progress_answer,
    prompt_parts,
    session_answer,
    task_answer,
)
from lit_rlhf.labelling.server.fields import (
    annotator_of,
    number_in_path,
    prompt_of,
    remark,
    seconds_of,
    submission_of,
    verdict_of,
    whole_number,
)
from lit_rlhf.labelling.server.gate import session_of, set_cookie
from lit_rlhf.labelling.server.limits import read_object
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.server.names import checked_name, take_name
from lit_rlhf.labelling.server.text import marked
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import MOST_RANKED, Verdict

T = TypeVar("T")
CALLS_AT_ONCE = 8
"""Of the store, in threads; more would only be in one another's way."""
SAID_BEFORE = Verdict(skip="said before")
"""Not stored: a submission that is known gives what it made the first time."""


class Api:
    """Answers everything under ``/api/``.

    Args:
        store: holds all there is.
        access: signs the sessions.
        live: draws responses to prompts that are typed in; None = there is no such page.
    """

    def __init__(self, store: LabelStore, access: Access, live: LiveModel | None = None) -> None:
        self.store, self.access, self.live = store, access, live
        self._calls = CapacityLimiter(CALLS_AT_ONCE)
        self._agreement = AgreementPage(store)

    def routes(self) -> list[BaseRoute]:
        """Where it is asked."""
        gets = {
            "/api/session": self.get_session,
            "/api/task": self.next_task,
            "/api/task/{task}": self.one_task,
            "/api/text/{task}/{position}": self.whole_response,
            "/api/text/{task}/prompt/{position}": self.whole_prompt,
            "/api/history": self.history,
            "/api/agreement": self.agreement,
        }
        posts = {
            "/api/session": self.set_session,
            "/api/judgements": self.submit,
            "/api/undo": self.undo,
            "/api/live": self.ask_live,
        }
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
        ]

    async def get_session(self, request: Request) -> Response:
        """Who sits here, and what she may do."""
        return JSONResponse(await self._in_thread(self._session, session_of(request.scope)))

    async def set_session(self, request: Request) -> Response:
        """Sits down under a name."""
        session = session_of(request.scope)
        try:
            name = checked_name((await read_object(request)).get("annotator"))
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        await self._in_thread(take_name, self.store, self.access, session, name)
        session = self.access.renamed(session, name)
        answer = await self._in_thread(self._session, session)
        return JSONResponse(answer, headers={"Set-Cookie": set_cookie(self.access, session)})

    def _session(self, session: Session) -> dict[str, Any]:
        guidelines = self.store.settings.guidelines
        return session_answer(
            session, self.access.csrf(session), guidelines, self.live.k if self.live else 0, self.store.path
        )

    async def next_task(self, request: Request) -> Response:
        """The task that she has open, or the next."""

        annotator = annotator_of(request)

        def answer() -> dict[str, Any]:
            task = self.store.next_task(annotator)
            progress = self._progress(request, annotator)
            if task is None:
                why = self.store.why_nothing(annotator)
                nothing = {} if why == "waiting" else {"left": 0, "seconds_left": None}
                return {"task": None, "why": why, "progress": progress | nothing}
            shown = task_answer(task, self.store.current(task.number))
            return {"task": shown, "why": None, "progress": progress}

        return JSONResponse(await self._in_thread(answer))

    async def one_task(self, request: Request) -> Response:
        """A task of hers, to be looked at again."""
        annotator, number = annotator_of(request), number_in_path(request, "task")

        def answer() -> dict[str, Any]:
            return {"task": task_answer(self._task(number, annotator), self.store.current(number))}

        return JSONResponse(await self._in_thread(answer))

    async def whole_response(self, request: Request) -> Response:
        """A response that was too long to be sent at once."""
        return await self._whole(request, lambda task: [task.item.responses[index] for index in task.shown])

    async def whole_prompt(self, request: Request) -> Response:
        """A prompt's message that was too long to be sent at once."""
        return await self._whole(request, lambda task: [text for _, text in prompt_parts(task.item.prompt)])

    async def _whole(self, request: Request, texts: Callable[[Task], list[str]]) -> Response:
        annotator, number = annotator_of(request), number_in_path(request, "task")
        position = number_in_path(request, "position")
        found = await self._in_thread(lambda: texts(self._task(number, annotator)))
        if position >= len(found):
            raise HTTPException(404, f"expected a position from 0 to {len(found) - 1}, found {position}")
        return JSONResponse({"text": await self._in_thread(marked, found[position])})

    async def submit(self, request: Request) -> Response:
        """A judgement; on the disk when it is answered."""
        annotator, body = annotator_of(request), await read_object(request)
        number = whole_number(body, "task", least=1)
        submission = submission_of(body)
        replaces = None if body.get("replaces") is None else whole_number(body, "replaces", least=1)
        remarks = {name: remark(body, name) for name in ("comment", "flag")}
        seconds = seconds_of(body)

        def answer() -> tuple[dict[str, Any], int]:
            verdict = verdict_of(body, self._task(number, annotator))
            again = self.store.task_of(submission) is not None
            said = self.store.submit(
                number, verdict, submission=submission, replaces=replaces, seconds=seconds, **remarks
            )
            feedback = feedback_answer(said)
            made = {
                "judgement": said.number,
                "feedback": feedback,
                "progress": self._progress(request, annotator),
            }
            return made, 200 if again else 201

        return JSONResponse(*await self._in_thread(answer))

    async def undo(self, request: Request) -> Response:
        """Takes her last judgement back; the same `submission` again takes back no other."""
        annotator, body = annotator_of(request), await read_object(request)
        submission = submission_of(body)

        def answer() -> dict[str, Any]:
            known = self.store.task_of(submission)
            taken = self._last(annotator) if known is None else self._taken_back(known, submission, annotator)
            task = self.store.reopen(taken.task.number, submission)
            shown = task_answer(task, self.store.current(task.number), taken)
            return {"task": shown, "progress": self._progress(request, annotator)}

        return JSONResponse(await self._in_thread(answer))

    def _last(self, annotator: str) -> Judgement:
        """Her last judgement."""
        last = self.store.history(annotator, 1)
        if not last:
            raise HTTPException(404, "There is nothing to take back.")
        return last[0]

    def _taken_back(self, task: Task, submission: str, annotator: str) -> Judgement:
        """What an earlier request with the same `submission` took back."""
        number = self._task(task.number, annotator).number
        made = self.store.submit(number, SAID_BEFORE, submission=submission)
        if made.verdict is not None:
            raise HTTPException(400, "submission: expected a new UUID, found a judgement's")
        return next(one for one in self.store.of_task(number) if one.number == made.replaces)

    async def history(self, request: Request) -> Response:
        """What she said, latest first."""
        said = await self._in_thread(self.store.history, annotator_of(request))
        return JSONResponse({"judgements": [history_answer(judgement) for judgement in said]})

    async def agreement(self, request: Request) -> Response:
        """How annotators agree, for who does not have to be blind to it."""
        if not session_of(request.scope).may_see_agreement:
            raise HTTPException(403, "How annotators agree is not shown to one of them.")
        return Response(await self._agreement.answer(), media_type="application/json")

    async def ask_live(self, request: Request) -> Response:
        """Responses of the loaded model to a prompt, as a task."""
        annotator, body = annotator_of(request), await read_object(request)
        if self.live is None:
            raise HTTPException(404, "No model was loaded; start the server with --live MODEL.")
        prompt = prompt_of(body)
        k = self.live.k if body.get("k") is None else whole_number(body, "k", least=2, most=MOST_RANKED)
        item = await self.live.item(prompt, k)

        def answer() -> dict[str, Any]:
            task = self.store.live_task(item, annotator)
            return {"task": task_answer(task, self.store.current(task.number))}

        return JSONResponse(await self._in_thread(answer))

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """What `function` returns; the event loop is free meanwhile, and does not wait for it to end the server."""
        return await to_thread.run_sync(function, *args, limiter=self._calls, abandon_on_cancel=True)

    def _task(self, number: int, annotator: str) -> Task:
        """A task of hers; somebody else's is as good as none."""
        try:
            task = self.store.task(number)
            if task.annotator == annotator:
                return task
        except StoreError:
            pass
        raise HTTPException(404, f"There is no task {number} of {annotator}'s.")

    def _progress(self, request: Request, annotator: str) -> dict[str, Any]:
        progress, mine = self.store.progress(), self.store.judged_by(annotator)
        sees_all = session_of(request.scope).may_see_agreement
        return progress_answer(progress, self.store.settings, annotator, mine, sees_all)

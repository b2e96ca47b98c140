"""The actor through which a user talks to a running job: questions in, answers out.

It knows nothing of the job. The driver waits for questions in a thread (`ray_jobs.driver.control`),
and `python -m ray_jobs.control` asks them. Whoever has the token may call it.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
from dataclasses import dataclass

# Name of the actor in the namespace of its run.
NAME = "control"


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: what was done and when it takes effect, or why not.
        done: whether it was done.
    """

    text: str
    done: bool = True


class Mailbox:
    """Questions of users, each with its answer (an asynchronous Ray actor)."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._numbers = itertools.count()
        self._asked: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Answer]] = {}

    async def ask(self, token: str, question: str) -> Answer:
        """Ask the driver and wait for its answer."""
        if not hmac.compare_digest(token, self._token):
            return Answer("the token is not that of this run", done=False)
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._asked.put((number, question))
        try:
            return await answer
        finally:
            del self._answers[number]

    async def next(self) -> tuple[int, str]:
        """Wait for a question; return its number and its words."""
        return await self._asked.get()

    async def reply(self, number: int, answer: Answer) -> None:
        """Give the answer to a question, if somebody still waits for it."""
        waiting = self._answers.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

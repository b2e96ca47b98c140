"""The driver's side of `python -m ray_jobs.control`: a named actor, and a thread that answers.

The actor is found through `control.json` of the run folder: the address of Ray, the actor's
namespace and its token. Only the owner of the file can read it.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.mailbox import NAME, Answer, Mailbox
from cluster.refs import Handle, get, start_actor
from ray_jobs.driver import balance
from ray_jobs.driver.elastic import Elastic
from ray_jobs.driver.questions import WORDS, number_of
from ray_jobs.driver.requests import Requests
from ray_jobs.record.contact import FILE, Contact
from ray_jobs.record.run_folder import RunFolder


@contextmanager
def controlled(record: RunFolder, requests: Requests, elastic: Elastic) -> Iterator[None]:
    """Let users control the job while the block runs."""
    token = secrets.token_hex(16)
    context = ray.get_runtime_context()
    namespace = f"rayvos-{secrets.token_hex(4)}"
    options = {
        "name": NAME,
        "namespace": namespace,
        "num_cpus": 0,
        # A killed mailbox comes back by itself; who waits for an answer asks again.
        "max_restarts": -1,
        # Other nodes may leave.
        "scheduling_strategy": NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True),
    }
    mailbox = start_actor(Mailbox, options, token)
    file = record.path / FILE
    auth = os.environ.get("RAY_AUTH_MODE", "")
    Contact(context.gcs_address, namespace, token, auth).write(file)
    control = Control(record, requests, elastic)
    ended = threading.Event()
    serving = threading.Thread(target=_serve, args=(mailbox, control, ended), daemon=True)
    serving.start()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        ended.set()
        mailbox.kill()
        serving.join()


def _serve(mailbox: Handle[Mailbox], control: Control, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            number, question = get(mailbox.call(Mailbox.next))
        except ray.exceptions.RayError:
            # Killed: at the end, or it comes back in a moment.
            ended.wait(1.0)
            continue
        mailbox.call(Mailbox.reply, number, control.answer(question))


class Control:
    """Answers what users ask of a running job."""

    def __init__(self, record: RunFolder, requests: Requests, elastic: Elastic) -> None:
        self._record = record
        self._requests = requests
        self._elastic = elastic

    def answer(self, question: str) -> Answer:
        """Do what was asked, and say so. A failure is an answer, and the job goes on."""
        word, _, value = question.partition("=")
        try:
            if word == "workers":
                return Answer(self._elastic.want(number_of(value)))
            if question in WORDS:
                return Answer(getattr(self, question)())
            raise ValueError(f"{question}: expected workers=N, {', '.join(WORDS)}")
        except ValueError as error:
            return Answer(str(error), done=False)
        except Exception as error:
            return Answer(f"{question}: {type(error).__name__}: {error}", done=False)

    def pause(self) -> str:
        """Let the job wait after the step under way."""
        self._requests.pause()
        return "pause: waits after the step under way; `resume` goes on"

    def resume(self) -> str:
        """Let a paused job go on."""
        if not self._requests.paused:
            return "resume: it was not paused"
        self._requests.resume()
        return "resume: goes on now"

    def checkpoint(self) -> str:
        """Let the job write a checkpoint."""
        self._requests.ask_checkpoint()
        when = "now" if self._requests.paused else "after the step under way"
        return f"checkpoint: written {when}, in {self._record.checkpoints}"

    def stop(self) -> str:
        """Let the job end, as asked by a user: nothing starts it again."""
        self._requests.ask_stop("ray_jobs.control", code=0)
        return (
            "stop: ends after the step under way, with a checkpoint and exit code 0; "
            "the same command goes on from there"
        )

    def status(self) -> str:
        """Return what the job does, in a few lines."""
        lines = self._record.steps()
        step = lines[-1]["step"] if lines else 0
        doing = "paused, or will be after the step under way" if self._requests.paused else "runs"
        if self._requests.stop is not None:
            doing = "ends after the step under way"
        said = [f"status: {doing}; steps on record: {step}", self._elastic.status()]
        measured = balance.of_steps(lines)
        if measured is not None:
            said.append(str(measured))
        return "\n".join(said)

"""Control a running training job.

    python -m ray_jobs.control NAME status
    python -m ray_jobs.control NAME workers=6         # rollout engines, from now on
    python -m ray_jobs.control NAME pause             # after the step under way
    python -m ray_jobs.control NAME resume
    python -m ray_jobs.control NAME checkpoint        # after the step under way
    python -m ray_jobs.control NAME stop              # after it, with a checkpoint; exit code 0

NAME is the run's name below `runs`, or with a slash its folder; runs=FOLDER is another place of
runs. Several words are asked one after another. To be called by the user who started the run, on a
machine of its cluster; from elsewhere: `ray job submit -- python -m ray_jobs.control ...`.
"""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.settings import nearest
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.questions import questions_of
from ray_jobs.record.contact import FILE, Contact
from ray_jobs.record.owner import Owner, owner_of

# Seconds for the answer of a run, which answers beside its work.
ANSWER_S = 60.0


def control(argv: Sequence[str]) -> None:
    """Ask a run, and print its answers.

    Raises:
        ValueError: no such run, one that has ended or belongs to another user, a wrong word, or a
            request that the run refuses.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    name, *words = argv
    runs = "runs"
    questions = []
    for word in words:
        if word.startswith("runs="):
            runs = word.removeprefix("runs=")
        else:
            questions.append(word)
    questions = questions_of(questions)
    folder = Path(name) if "/" in name else Path(runs) / name
    contact, owner = find(folder)
    with mailbox_of(contact, owner) as mailbox:
        for question in questions:
            print(ask(mailbox, contact, owner, question), flush=True)


def find(folder: Path) -> tuple[Contact, Owner]:
    """Return the contact of the run in a folder, and the process of the run.

    Raises:
        ValueError: as `control`.
    """
    try:
        if not (folder / "config.yaml").is_file():
            raise ValueError(f"{folder}: no such run; {_hint(folder)}")
        owner = owner_of(folder)
        if owner is None:
            raise ValueError(f"{folder}: the run has ended; the command that began it goes on")
        if not (folder / FILE).is_file():
            raise ValueError(f"{folder}: {_process(owner)} starts or ends; try again in a minute")
        return Contact.read(folder / FILE), owner
    except PermissionError:
        raise ValueError(
            f"{folder}: belongs to another user than {getpass.getuser()}, and only the user who "
            "started a run may control it"
        ) from None


@contextmanager
def mailbox_of(contact: Contact, owner: Owner) -> Iterator[Any]:
    """Join the run's cluster for the block; yield its mailbox.

    Raises:
        ValueError: the cluster cannot be joined from here, or the mailbox is gone.
    """
    if contact.auth:
        os.environ["RAY_AUTH_MODE"] = contact.auth
    # Ray reads the variable when it is imported. Slow, and not needed for the errors above.
    import ray

    from actors.mailbox import NAME

    try:
        ray.init(address=contact.address, log_to_driver=False, logging_level=logging.ERROR)
        mailbox = ray.get_actor(NAME, contact.namespace)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()
        raise ValueError(
            f"{_process(owner)} cannot be reached through Ray at {contact.address} ({said[0]}); "
            "call from a machine of its cluster, with the token of its Ray, or by `ray job submit`"
        ) from None
    try:
        yield mailbox
    finally:
        ray.shutdown()


def ask(mailbox: Any, contact: Contact, owner: Owner, question: str) -> str:
    """Ask a question and return the answer.

    Raises:
        ValueError: no answer, or the run refuses.
    """
    import ray

    try:
        answer = ray.get(mailbox.ask.remote(contact.token, question), timeout=ANSWER_S)
    except ray.exceptions.RayError as error:
        kind = type(error).__name__
        raise ValueError(
            f"{question}: {_process(owner)} does not answer ({kind}); try again, or see its display"
        ) from None
    if not answer.done:
        raise ValueError(answer.text)
    return str(answer.text)


def _process(owner: Owner) -> str:
    return f"the run's process {owner.pid} on {owner.host}"


def _hint(folder: Path) -> str:
    """Return the nearest name of a run, or how to give another folder."""
    others = []
    if folder.parent.is_dir():
        others = [each.parent.name for each in folder.parent.glob("*/config.yaml")]
    near = nearest(folder.name, others)
    return f"did you mean {near}?" if near else "give runs=FOLDER if it is elsewhere"


if __name__ == "__main__":
    run_job(control)

"""What is known of an engine's process that ends while it starts, and what it leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import psutil
import pytest

from models.engine import head_start
from models.engine.engine import killed_while_starting, wait_for_exit_codes


def end(number: int) -> None:
    """Close the pipe to the parent, as a process does on its way out, and end a moment later."""
    os.closerange(3, 256)
    time.sleep(0.3)
    if number < 0:
        os.kill(os.getpid(), -number)
    os._exit(number)


@pytest.fixture
def ended(request: pytest.FixtureRequest) -> Iterator[BaseProcess]:
    """A process whose pipe has just closed on its way to an exit code."""
    process = multiprocessing.get_context("spawn").Process(target=end, args=(request.param,))
    process.start()
    assert connection.wait([process.sentinel], timeout=60)
    yield process
    process.join()


@pytest.mark.parametrize(
    ("ended", "is_killed"),
    [(-signal.SIGKILL, True), (0, True), (1, False)],
    indirect=["ended"],
)
def test_a_killed_engine_is_told_from_one_with_an_error(
    ended: BaseProcess, is_killed: bool
) -> None:
    from vllm.v1.engine.utils import CoreEngineProcManager

    wait_for_exit_codes()
    manager = object.__new__(CoreEngineProcManager)
    manager.processes = [ended]
    finished = manager.finished_procs()
    # The message of vLLM's `wait_for_engine_startup`.
    message = f"Engine core initialization failed. Failed core proc(s): {finished}"
    assert finished == {ended.name: ended.exitcode}
    assert killed_while_starting(RuntimeError(message)) == is_killed


def tell(name: str, end: connection.Connection) -> None:
    """Take a title; send a variable, what was imported, the title, and the parent's number."""
    imported = "vllm.v1.worker.cpu_worker" in sys.modules
    from vllm.utils.system_utils import set_process_title

    set_process_title("a title")
    words = psutil.Process().cmdline()
    end.send((os.environ.get(name), imported, words[0], os.getppid()))
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_engine_is_forked_with_the_newest_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    head_start.begin()
    monkeypatch.setenv("RAYVOS_TEST_LATER", "set after the fork server began")
    ours, theirs = multiprocessing.Pipe()
    process = head_start.EngineContext().Process(target=tell, args=("RAYVOS_TEST_LATER", theirs))
    process.start()
    value, imported, title, parent = ours.recv()
    process.join()
    assert imported, "the fork server has not imported vLLM for it"
    assert value == "set after the fork server began"
    assert title == "VLLM::a title"
    assert parent != os.getpid()
    assert process.exitcode == -signal.SIGKILL


def test_other_errors_of_a_start_are_no_kill() -> None:
    assert not killed_while_starting(RuntimeError("CUDA out of memory: -9 MiB free"))
    assert killed_while_starting(BrokenPipeError())


def test_an_engine_of_one_worker_locks_threads_only() -> None:
    """A lock between spawned processes would be a file, which a killed engine leaves."""
    import vllm.v1.executor.uniproc_executor as executor

    from models.engine import weight_transfer

    weight_transfer.register()
    assert isinstance(executor.Lock(), type(threading.Lock()))

"""Requests to a running job, with real signals to this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest
import ray

from ray_jobs.driver.requests import PREEMPTED, Requests, Stopped


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def wait(seconds: float = 10.0) -> None:
    """Wait as the main thread waits for an actor; a stop ends it."""
    time.sleep(seconds)


def test_a_stop_ends_the_work_under_way_at_once() -> None:
    said: list[str] = []
    again = pytest.raises(Stopped, match="SIGTERM: start the same command again")
    with again as stopped, Requests.listening(said.append):
        send(signal.SIGTERM)
        wait()
    assert stopped.value.code == PREEMPTED
    assert said == ["SIGTERM: ends after the work under way"]


def test_a_stop_ends_a_wait_for_ray(ray_env: dict[str, str]) -> None:
    endless = ray.remote(wait).options(num_cpus=0).remote(60.0)
    again = pytest.raises(Stopped, match="SIGTERM: start the same command again")
    with again as stopped, Requests.listening():
        threading.Timer(0.5, send, [signal.SIGTERM]).start()
        ray.get(endless)
    assert stopped.value.code == PREEMPTED
    ray.cancel(endless, force=True)


def test_an_exit_that_nobody_asked_for_stays_one() -> None:
    with pytest.raises(SystemExit) as end, Requests.listening():
        sys.exit(3)
    assert end.value.code == 3


def test_a_step_is_finished_first() -> None:
    done: list[str] = []
    with pytest.raises(Stopped), Requests.listening(done.append) as requests:
        with requests.patient(10.0):
            send(signal.SIGTERM)
            done.append("step")
        done.append("next step")
    assert done == ["SIGTERM: ends after the work under way", "step"]


def test_a_step_is_given_up_after_its_seconds() -> None:
    with pytest.raises(Stopped), Requests.listening() as requests, requests.patient(0.05):
        send(signal.SIGTERM)
        wait()
        pytest.fail("the step went on")


def test_from_learning_on_a_step_is_not_given_up() -> None:
    done: list[str] = []
    with pytest.raises(Stopped), Requests.listening() as requests, requests.patient(0.05):
        send(signal.SIGTERM)
        requests.be_patient()
        wait(0.1)
        done.append("learned")
    assert done == ["learned"]


def test_the_way_out_is_not_disturbed() -> None:
    with Requests.listening() as requests:
        with pytest.raises(Stopped):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        with requests.patient():
            requests.wait_while_paused()


def test_the_second_ctrl_c_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Requests.listening() as requests, requests.patient():
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_another_thread_stops_the_main_one() -> None:
    with pytest.raises(Stopped, match="ana") as stopped, Requests.listening() as requests:
        asking = threading.Timer(0.05, requests.ask_stop, ("ana", 0))
        asking.start()
        wait()
    assert stopped.value.code == 0


def test_a_paused_job_goes_on_or_stops() -> None:
    requests = Requests()
    requests.pause()
    threading.Timer(0.05, requests.resume).start()
    assert not requests.wait_while_paused()

    requests.pause()
    threading.Timer(0.05, requests.ask_checkpoint).start()
    assert requests.wait_while_paused(), "still paused, to write the checkpoint"
    threading.Timer(0.05, requests.ask_stop, ("ana",)).start()
    with pytest.raises(Stopped):
        requests.wait_while_paused()


def test_each_request_is_taken_once() -> None:
    requests = Requests()
    requests.ask_checkpoint()
    assert (requests.take_checkpoint(), requests.take_checkpoint()) == (True, False)


def test_handlers_are_those_of_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Requests.listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before

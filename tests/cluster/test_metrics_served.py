"""What Prometheus reads of a run on a real Ray: figures that were set once stay."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import ray

from cluster.metrics import addresses, shown, vllm_figures

# Ray serves a gauge that is not set again for at most two of its reports, 10 s each, and a report
# may be late.
LONGER_THAN_RAY_S = 45.0
# A busy machine starts Ray's agent slowly.
PATIENCE_S = 240.0
SERIES = re.compile(r"^ray_((?:rayvos|vllm)_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
OF = re.compile(r'\bof="(.*?)"')

RUNNING = "vllm_num_requests_running"
FIRST = {
    ("rayvos_step", ""): 1.0,
    ("rayvos_reward", ""): 1.5,
    ("rayvos_reward", "form"): 0.5,
    ("rayvos_turns", ""): 2.0,
    (RUNNING, ""): 3.0,
}
SECOND = {("rayvos_step", ""): 2.0, ("rayvos_reward", ""): 2.5, (RUNNING, ""): 3.0}

# Name and label `of` of a series -> its value.
Served = dict[tuple[str, str], float]


class Paused:
    """An engine's process whose engine has paused: vLLM sets its figures once."""

    def __init__(self) -> None:
        vllm_figures()
        from vllm.v1.metrics.ray_wrappers import RayGaugeWrapper

        self.running = RayGaugeWrapper("vllm:num_requests_running", "", ["engine"])
        self.running.labels("0").set(3)

    def is_up(self) -> bool:
        return True


@pytest.fixture
def paused(ray_env: dict[str, str]) -> Iterator[None]:
    actor = ray.remote(Paused).options(num_cpus=0).remote()
    assert ray.get(actor.is_up.remote())
    yield
    ray.kill(actor)


def served() -> Served:
    """What Ray's port serves of the run and of vLLM."""
    [address] = addresses()
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in SERIES.findall(text):
        of = OF.search(labels)
        found[name, of[1] if of else ""] = float(value)
    return found


def wait_for(is_so: Callable[[Served], bool]) -> Served:
    end = time.monotonic() + PATIENCE_S
    while True:
        now = served()
        if is_so(now):
            return now
        assert time.monotonic() < end, now
        time.sleep(1.0)


@pytest.mark.slow
def test_a_figure_stays_until_a_step_lacks_it(paused: None) -> None:
    with shown({"run": "demo", "system": "revseg"}) as figures:
        figures.show(1, {"reward": 1.5, "reward/form": 0.5, "turns": 2.0})
        wait_for(lambda now: now.items() >= FIRST.items())
        time.sleep(LONGER_THAN_RAY_S)
        # On a busy machine one scrape may come between two late reports.
        wait_for(lambda now: now.items() >= FIRST.items())

        figures.show(2, {"reward": 2.5, "reward/form": float("nan")})
        wait_for(lambda now: ("rayvos_turns", "") not in now)
        wait_for(lambda now: ("rayvos_reward", "form") not in now)
        wait_for(lambda now: now.items() >= SECOND.items())

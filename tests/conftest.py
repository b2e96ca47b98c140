"""Shared by all tests: the environment of a CPU run, their order, and one local Ray for the tests of actors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from cluster.environment import cpu_env, offline_env

ENV = cpu_env() | offline_env()
os.environ.update(ENV)  # before torch, transformers, deepspeed or vLLM are imported

import pytest

LONGEST_FIRST = (
    "tests/ray_jobs/",
    "tests/actors/",
    "tests/models/",
    "",
)  # the first three start processes
ONE_RUN = [
    f"tests/ray_jobs/test_{name}.py" for name in ("evaluate", "resume", "train")
]  # read the same finished run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[int, bool]:
        file = item.nodeid.partition("::")[0]
        return next(
            i for i, folder in enumerate(LONGEST_FIRST) if file.startswith(folder)
        ), file not in ONE_RUN

    items.sort(key=rank)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For the processes of `make test`: a file stays in one of them, as do all files that read the one finished run.

    Most tests compute on one core or wait for processes to start, so two at a time take little longer than one.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "finished run" if file in ONE_RUN else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_env() -> Iterator[dict[str, str]]:
    """A local Ray, ended with the session; yields the environment that its actors have."""
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(
            num_cpus=8,
            include_dashboard=False,
            runtime_env={"env_vars": ENV},
            log_to_driver=False,
            object_store_memory=512 << 20,
        )
    yield ENV
    if started:
        ray.shutdown()

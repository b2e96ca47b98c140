"""Shared by all tests: the environment of a CPU run, their order, and one local Ray for the tests of actors."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cluster.environment import cpu_env, offline_env

ENV = cpu_env() | offline_env()
os.environ.update(ENV)  # before torch, transformers, deepspeed or vLLM are imported

import pytest  # noqa: E402

LONGEST_FIRST = ("ray_jobs", "actors", "models")  # folders of tests that start processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For the processes of `make test`: a file stays in one of them, as do all files that read the one finished run.

    Most tests compute on one core or wait for processes to start, so two at a time take little longer than one.
    """
    one_run = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "finished run" if item.path in one_run else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    folders = [*(f"{folder}/" for folder in LONGEST_FIRST), ""]
    rank = {item.path: next(i for i, f in enumerate(folders) if f"/{f}" in item.nodeid) for item in items}
    items.sort(key=lambda item: (rank[item.path], item.path not in one_run))


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

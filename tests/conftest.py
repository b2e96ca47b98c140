"""Shared by all tests: the environment of a CPU run, and one local Ray for the tests of actors."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cluster.environment import cpu_env, offline_env

ENV = cpu_env() | offline_env()
os.environ.update(ENV)  # before torch, transformers, deepspeed or vLLM are imported

import pytest  # noqa: E402


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

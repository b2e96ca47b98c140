"""Shared by all tests: the environment of a CPU run, the order of tests, and one local Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from cluster.environment import cpu_env, offline_env

ENV = cpu_env() | offline_env()
# Set before torch, transformers, deepspeed or vLLM are imported.
os.environ.update(ENV)
# Otherwise every process of every job compiles the whole project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# A busy machine is no failure.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")

# PyTorch gives some warnings once in a process. Warnings are errors here, and which test meets one
# must not depend on the order of tests.
torch.set_warn_always(True)

# Folders in running order: the first four start processes and take longest.
LONGEST_FIRST = ("tests/chaos/", "tests/ray_jobs/", "tests/actors/", "tests/models/", "")
# Files that share something that takes long to make, by its name.
TOGETHER = {
    "tests/ray_jobs/test_evaluate.py": "finished run",
    "tests/ray_jobs/test_resume.py": "finished run",
    "tests/ray_jobs/test_train.py": "finished run",
    "tests/actors/test_drawer.py": "learner ranks",
    "tests/actors/test_learner.py": "learner ranks",
    "tests/actors/test_learner_state.py": "learner ranks",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hostile",
        type=int,
        default=400,
        help="hostile answers for tests/systems/test_hostile.py",
    )
    parser.addoption(
        "--broken", type=int, default=60, help="files for tests/data/test_broken_files.py"
    )
    parser.addoption("--chaos", type=int, default=4, help="faults for tests/chaos/test_chaos.py")


@pytest.fixture
def hostile_answers(request: pytest.FixtureRequest) -> int:
    """Number of hostile answers to play, over all systems."""
    count: int = request.config.getoption("--hostile")
    return count


@pytest.fixture
def chaos_faults(request: pytest.FixtureRequest) -> int:
    """Number of faults of the small trial."""
    count: int = request.config.getoption("--chaos")
    return count


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[int, bool]:
        file = file_of(item.nodeid)
        starts = [file.startswith(folder) for folder in LONGEST_FIRST]
        return starts.index(True), file not in TOGETHER

    items.sort(key=rank)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file in one process of `make test`, and files that share something in the same one.

    Most tests compute on one core or wait for processes, so two at a time take little longer than
    one.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return TOGETHER.get(file, file)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_env() -> Iterator[dict[str, str]]:
    """A local Ray for the session; yields the environment of its actors."""
    import ray

    from cluster.start import LOCAL_HEAD

    started = not ray.is_initialized()
    if started:
        ray.init(
            num_cpus=8,
            include_dashboard=False,
            runtime_env={"env_vars": ENV},
            log_to_driver=False,
            object_store_memory=512 << 20,
            _system_config=LOCAL_HEAD,
        )
    yield ENV
    if started:
        ray.shutdown()

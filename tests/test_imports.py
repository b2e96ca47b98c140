"""The import direction of the folders is part of the design (README, "Where things are")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from systems import SYSTEMS

ROOT = Path(__file__).parent.parent

# The folders of the product, and the ones that each may import.
MAY_IMPORT = {
    "core": set(),
    "configs": {"core"},
    "data": {"core"},
    "rewards": {"core"},
    "systems": {"core", "rewards"},
    "models": {"core", "data"},
    "cluster": {"core", "configs"},
    "actors": {"core", "configs", "data", "rewards", "systems", "models", "cluster"},
    "ray_jobs": {
        "core",
        "configs",
        "data",
        "rewards",
        "systems",
        "models",
        "cluster",
        "actors",
    },
}

# The folders around the product. Nothing in the product imports them.
GUESTS = ("tiny", "tests", "benchmarks", "examples")
OURS = {*MAY_IMPORT, *GUESTS}

# Third-party packages that a folder must not import.
NEVER = {
    "core": {"ray", "transformers", "vllm", "deepspeed", "mlflow"},
    "configs": {"ray", "torch", "transformers", "vllm"},
    "data": {"ray", "transformers", "vllm"},
    "rewards": {"ray", "transformers", "vllm"},
    "systems": {"ray", "transformers", "vllm"},
    "models": {"ray", "deepspeed", "mlflow"},
}

# Folders below ray_jobs that jobs share. They import no job.
BELOW_JOBS = ("driver", "record")

# The only file of the product with the synthetic world's name, as one string.
DOOR_OF_TINY = "data/generators.py"

# Code may name a system where the name is a default, a row of a table, or the subject of a job.
MAY_NAME_A_SYSTEM = {
    "configs/schema.py",
    "ray_jobs/driver/ablations.py",
    "ray_jobs/rate_difficulty.py",
}


def files_of(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted modules that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_import_direction(folder: str) -> None:
    files = files_of(folder)
    assert files, f"{folder}/ holds no Python files"
    for path in files:
        where = path.relative_to(ROOT)
        names = {top(module) for module in imports_of(path)}
        wrong = (names & OURS) - MAY_IMPORT[folder] - {folder}
        assert not wrong, f"{where} imports {sorted(wrong)}; {folder}/ may not"
        banned = names & NEVER.get(folder, set())
        assert not banned, f"{where} imports {sorted(banned)}; {folder}/ must not know it"


def test_the_rules_name_every_folder() -> None:
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert with_code <= OURS


def test_only_jobs_import_jobs() -> None:
    """What jobs share imports no job."""
    jobs = {f"ray_jobs.{path.stem}" for path in (ROOT / "ray_jobs").glob("*.py")}
    jobs.discard("ray_jobs.__init__")
    for folder in BELOW_JOBS:
        for path in files_of(f"ray_jobs/{folder}"):
            for module in imports_of(path):
                two = ".".join(module.split(".")[:2])
                assert two not in jobs, f"{path.relative_to(ROOT)} imports the job {two}"


def test_the_record_is_below_the_driver() -> None:
    for path in files_of("ray_jobs/record"):
        for module in imports_of(path):
            assert not module.startswith("ray_jobs.driver"), f"{path.name} imports {module}"


def test_one_door_to_the_tiny_default() -> None:
    """The product names `tiny` in one string, imported on demand, and else in paths of presets."""
    for folder in MAY_IMPORT:
        for path in files_of(folder):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                if node.value == "tiny" or node.value.startswith("tiny."):
                    where = str(path.relative_to(ROOT))
                    assert where == DOOR_OF_TINY, f"{where}, line {node.lineno}: {node.value!r}"


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_its_folder_and_tables_name_a_system(system: str) -> None:
    """Docstrings and help may name a published system; code outside its folder may not."""
    squeezed = system.replace("_", "")
    for folder in sorted(set(MAY_IMPORT) - {"systems"}):
        for path in files_of(folder):
            where = str(path.relative_to(ROOT))
            if where in MAY_NAME_A_SYSTEM:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Name, ast.Attribute)):
                    name = node.id if isinstance(node, ast.Name) else node.attr
                    plain = name.lower().replace("_", "")
                    assert squeezed not in plain, f"{where}, line {node.lineno}: {name}"
                elif isinstance(node, ast.Constant):
                    assert node.value != system, f"{where}, line {node.lineno}: {node.value!r}"

"""The import direction of the folders is part of the design, so it is tested (README, "Where things are")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from systems import SYSTEMS

ROOT = Path(__file__).parent.parent
OURS = {"core", "configs", "data", "rewards", "systems", "models", "cluster", "actors", "ray_jobs"}
MAY_IMPORT = {
    "core": set(),
    "configs": {"core"},
    "data": {"core"},
    "rewards": {"core"},
    "systems": {"core", "rewards"},
    "models": {"core", "data"},
    "cluster": {"core", "configs"},
    "actors": OURS - {"ray_jobs"},
    "ray_jobs": OURS,
}
NEVER = {  # third-party packages that a folder must not know
    "core": {"ray", "transformers", "vllm", "deepspeed", "mlflow"},
    "configs": {"ray", "torch", "transformers", "vllm"},
    "data": {"ray", "transformers", "vllm"},
    "rewards": {"ray", "transformers", "vllm"},
    "systems": {"ray", "transformers", "vllm"},
    "models": {"ray", "deepspeed", "mlflow"},
}
NO_PAPER = [
    *(
        path
        for folder in ("actors", "cluster", "core", "models", "rewards")
        for path in (ROOT / folder).rglob("*.py")
    ),
    *(
        ROOT / "ray_jobs" / f"{job}.py"
        for job in ("train", "evaluate", "session", "warm_start", "segment")
    ),
]


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", sorted(OURS))
def test_import_direction(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"{folder}/ holds no Python files"
    for path in files:
        names = imported(path)
        wrong = (names & OURS) - MAY_IMPORT[folder] - {folder}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}; {folder}/ may not"
        banned = names & NEVER.get(folder, set())
        assert not banned, (
            f"{path.relative_to(ROOT)} imports {sorted(banned)}; {folder}/ must not know it"
        )


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_paper_stands_in_one_file(system: str) -> None:
    """Only `systems/`, its presets, and tables of them name a published system in code; docstrings and help apart."""
    squeezed = system.replace("_", "")
    for path in NO_PAPER:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)} names a system"
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = node.id if isinstance(node, ast.Name) else node.attr
                assert squeezed not in name.lower().replace("_", ""), f"{where}: {name}"
            elif isinstance(node, ast.Constant):
                assert node.value != system, f"{where}: {node.value!r}, line {node.lineno}"

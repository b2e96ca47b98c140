"""Checkpoints as whole folders: `checkpoints/step_N/` is complete, with a manifest, or it is not there.

    step_N/  state.json  manifest.json  and whatever `write` puts there (policy/, optimizer/, ...)

Written beside its name, synced, then renamed. This file does not know what a policy is; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.load import resolve
from core.files import jsonable

MANIFEST = "manifest.json"
STATE = "state.json"
_NAME = re.compile(r"step_(\d+)")
_TEMPORARY = re.compile(r"\.step_\d+\.writing")


def save(
    checkpoints: Path, step: int, write: Callable[[Path], None], state: dict[str, Any]
) -> Path:
    """Write `step_<step>` and return it; `write` fills the folder, `state` (JSON-able) lies beside it.

    A checkpoint of the same step is replaced. If `write` raises, nothing is left behind.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    _sweep(checkpoints)
    fresh = checkpoints / f".step_{step}.writing"
    final = checkpoints / f"step_{step}"
    fresh.mkdir()
    try:
        write(fresh)
        (fresh / STATE).write_text(
            json.dumps(jsonable({"step": step, **state}), indent=2, allow_nan=False)
        )
        (fresh / MANIFEST).write_text(
            json.dumps({"step": step, "files": _manifest(fresh)}, indent=2)
        )
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _sync(fresh)
    if final.exists():
        shutil.rmtree(final)
    os.rename(fresh, final)
    _sync_folder(checkpoints)
    return final


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, never the one that a `best` link points to; 0 keeps all."""
    best = (checkpoints.parent / "best").resolve()
    for folder in _folders(checkpoints)[:-keep] if keep else []:
        if folder.resolve() != best:
            shutil.rmtree(folder)


def latest(checkpoints: Path) -> Path | None:
    """The newest checkpoint whose every file is what its manifest says; others are skipped with a warning."""
    for folder in reversed(_folders(checkpoints)):
        problem = damage(folder)
        if not problem:
            return folder
        warnings.warn(f"checkpoint {folder} is skipped: {problem}", stacklevel=2)
    return None


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint folder, empty if nothing is: a missing, short or changed file, by its name."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} is missing or unreadable ({error})"
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {entry['bytes']}"
        if _sha256(file) != entry["sha256"]:
            return f"{name} has changed since it was written (sha256)"
    return ""


def find(checkpoints: Path, resume: str) -> Path | None:
    """The checkpoint to go on from: `resume` is "auto" (the newest whole one, if any), "never", or a folder.

    Raises `ValueError` for a named folder that is not a whole checkpoint: a wish is not silently replaced.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return latest(checkpoints)
    folder = resolve(resume)
    problem = damage(folder) if folder.is_dir() else "there is no such folder"
    if problem:
        raise ValueError(
            f"train.resume={resume}: {problem}; give a checkpoints/step_N folder, auto or never"
        )
    return folder


def set_aside(checkpoints: Path, step: int) -> list[Path]:
    """Rename checkpoints after `step` to `step_N.left`, for a resume from an earlier one: `latest` must not return to
    the branch that was left. Nothing is deleted."""
    moved = []
    for folder in _folders(checkpoints):
        if int(folder.name.removeprefix("step_")) > step:
            left = folder.with_name(folder.name + ".left")
            if left.exists():
                shutil.rmtree(left)
            moved.append(folder.rename(left))
    return moved


def read_state(folder: Path) -> dict[str, Any]:
    """What `save` was given as `state`, with "step"."""
    return json.loads((folder / STATE).read_text())


def _folders(checkpoints: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first; half-written ones have other names."""
    named = [(_NAME.fullmatch(p.name), p) for p in checkpoints.glob("step_*") if p.is_dir()]
    return [p for _, p in sorted((int(m.group(1)), p) for m, p in named if m)]


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """All contents on disk before the name appears: else a power cut may leave a good name on empty files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file():
            with path.open("rb") as data:
                os.fsync(data.fileno())
        elif path.is_dir():
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(checkpoints: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in checkpoints.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)

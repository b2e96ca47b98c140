"""Checkpoints as whole folders: `checkpoints/step_N/` is complete, with a manifest, or absent.

    step_N/  state.json  manifest.json  and the files of `write` (policy/, optimizer/, ...)

A checkpoint is written beside its name, synced to disk, then renamed. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.load import resolve
from core.files import jsonable

MANIFEST = "manifest.json"
STATE = "state.json"

# Files that may hold Python objects, whose reading may run any code: by name, or by first bytes
# (pickle's protocols 2 to 5, and the zip of torch.save).
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")

_NAME = re.compile(r"step_(\d+)")
_TEMPORARY = re.compile(r"\.step_\d+\..*writing")


def save(
    checkpoints: Path, step: int, write: Callable[[Path], None], state: dict[str, Any]
) -> Path:
    """Write checkpoint `step_<step>` and return its folder.

    A checkpoint of the same step is replaced. If `write` raises, nothing is left behind.

    Args:
        write: fills the folder.
        state: values for state.json beside these files, convertible to JSON.

    Raises:
        RuntimeError: a file could not be written, for example on a full disk.
    """
    fresh = begin(checkpoints, step)
    with removed_on_error(fresh, step):
        write(fresh)
    return finish(fresh, step, state)


def begin(checkpoints: Path, step: int) -> Path:
    """Make the folder of a checkpoint under a name of its own until it is whole; return it."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    _remove_half_written(checkpoints)
    fresh = checkpoints / f".step_{step}.{os.getpid()}.writing"
    fresh.mkdir()
    return fresh


def finish(fresh: Path, step: int, state: dict[str, Any]) -> Path:
    """Make a filled folder of `begin` the checkpoint `step_<step>`; return its folder.

    Raises:
        RuntimeError: As `save`.
    """
    with removed_on_error(fresh, step):
        state_text = json.dumps(jsonable({"step": step, **state}), indent=2, allow_nan=False)
        (fresh / STATE).write_text(state_text)
        manifest = {"step": step, "files": _manifest(fresh)}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2))
        _sync(fresh)

    final = fresh.with_name(f"step_{step}")
    replaced = fresh.with_name(f".step_{step}.replaced.writing")
    if final.exists():
        os.rename(final, replaced)
    os.rename(fresh, final)
    _sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


@contextmanager
def removed_on_error(fresh: Path, step: int) -> Iterator[None]:
    """Remove a folder of `begin` if the block fails.

    Raises:
        RuntimeError: A file could not be written.
    """
    try:
        yield
    except BaseException as error:
        checkpoints = fresh.parent
        free_mb = shutil.disk_usage(checkpoints).free >> 20
        shutil.rmtree(fresh, ignore_errors=True)
        if not isinstance(error, (OSError, RuntimeError)):
            raise
        raise RuntimeError(
            f"checkpoint {checkpoints / f'step_{step}'} could not be written, with {free_mb} MB "
            f"free on its disk; earlier checkpoints are untouched: {error}"
        ) from error


def prune(checkpoints: Path, keep: int, in_use: Collection[int] = ()) -> None:
    """Remove checkpoints, apart from the newest `keep` and the `best` one; 0 keeps all.

    Args:
        in_use: steps whose checkpoints somebody reads.
    """
    if keep == 0:
        return
    best = (checkpoints.parent / "best").resolve()
    for folder in _folders(checkpoints)[:-keep]:
        if folder.resolve() != best and _step(folder) not in in_use:
            shutil.rmtree(folder)


def oldest(checkpoints: Path, keep: int) -> int:
    """Return the step of the oldest of the newest `keep` checkpoints, or of all; 0 without any."""
    folders = _folders(checkpoints)[-keep:]
    if not folders:
        return 0
    return _step(folders[0])


def latest(checkpoints: Path) -> Path | None:
    """Return the newest whole checkpoint; damaged ones are skipped with a warning."""
    for folder in reversed(_folders(checkpoints)):
        problem = damage(folder)
        if not problem:
            return folder
        warnings.warn(f"checkpoint {folder} is skipped: {problem}", stacklevel=2)
    return None


def damage(folder: Path) -> str:
    """Describe the first missing, short or changed file; return "" for a whole checkpoint."""
    try:
        files = _listed_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is missing or unreadable ({error})"
    if STATE not in files:
        return f"{MANIFEST} does not list {STATE}"

    for name, entry in files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            return f"{MANIFEST} lists a file outside the checkpoint, {name!r}"
        if not file.is_file():
            return f"{name} is missing"
        size = file.stat().st_size
        if size != entry.bytes:
            return f"{name} has {size} bytes, expected {entry.bytes}"
        if _sha256(file) != entry.sha256:
            return f"{name} has changed since it was written (sha256)"
    return ""


def find(checkpoints: Path, resume: str) -> Path | None:
    """Return the checkpoint to continue from, or None to start anew.

    Args:
        resume: "auto" (the newest whole one, if any), "never", or a folder.

    Raises:
        ValueError: a named folder is not a whole checkpoint, and another one is not taken
            silently; or there are checkpoints, but no whole one; or it holds pickled objects.
    """
    found = _find(checkpoints, resume)
    problem = foreign(found) if found is not None else ""
    if problem:
        raise ValueError(f"checkpoint {found} is not loaded: {problem}")
    return found


def foreign(folder: Path) -> str:
    """Say why a checkpoint is not to be loaded, although it is whole; "" if nothing is wrong."""
    if (folder / "deepspeed").exists():
        return (
            "an older release wrote it, with a pickled optimizer state; its weights can start "
            f"another run, as policy.path={folder}"
        )
    for file in sorted(folder.rglob("*")):
        if file.is_file() and _may_hold_a_pickle(file):
            name = file.relative_to(folder)
            return f"{name} may hold pickled objects, which can run code; rayvos writes none"
    return ""


def _may_hold_a_pickle(file: Path) -> bool:
    if file.suffix == ".safetensors":
        # Its reader knows nothing but tensors.
        return False
    with file.open("rb") as data:
        start = data.read(4)
    return file.suffix in PICKLES or start.startswith(PICKLED)


def _find(checkpoints: Path, resume: str) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        newest = latest(checkpoints)
        folders = _folders(checkpoints)
        # A hiccup of a shared disk must not start a long run over.
        if newest is None and folders:
            raise ValueError(
                f"{checkpoints} has {len(folders)} checkpoints, but no whole one "
                f"({folders[-1].name}: {damage(folders[-1])}): look at the disk and start again, "
                "or start over with train.resume=never, which sets the old folder aside"
            )
        return newest
    folder = resolve(resume)
    problem = damage(folder) if folder.is_dir() else "no such folder"
    if problem:
        raise ValueError(
            f"train.resume={resume}: {problem}; give a checkpoints/step_N folder, auto or never"
        )
    return folder


def set_aside(checkpoints: Path, step: int) -> list[Path]:
    """Rename checkpoints after `step` to `step_N.left` and return their new paths.

    A resume from an earlier checkpoint leaves a branch, and `latest` must not return to it.
    """
    moved = []
    for folder in _folders(checkpoints):
        if _step(folder) <= step:
            continue
        left = folder.with_name(f"{folder.name}.left")
        if left.exists():
            shutil.rmtree(left)
        moved.append(folder.rename(left))
    return moved


def read_state(folder: Path) -> dict[str, Any]:
    """Return the `state` of `save`, with "step"."""
    return json.loads((folder / STATE).read_text())


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _folders(checkpoints: Path) -> list[Path]:
    """Return checkpoint folders by step, oldest first. Half-written ones have other names."""
    by_step = {}
    for path in checkpoints.glob("step_*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            by_step[int(match.group(1))] = path
    return [by_step[step] for step in sorted(by_step)]


@dataclass(frozen=True)
class _File:
    """Size and digest of a file in the manifest."""

    bytes: int
    sha256: str


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    entries = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = str(file.relative_to(folder))
            entries[name] = asdict(_File(file.stat().st_size, _sha256(file)))
    return entries


def _listed_files(folder: Path) -> dict[str, _File]:
    """Return the files of a manifest by their path in the checkpoint."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    return {name: _File(**entry) for name, entry in files.items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Bring all contents to the disk: a power cut must not leave a good name on empty files."""
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


def _remove_half_written(checkpoints: Path) -> None:
    """Remove the unfinished folders of killed processes."""
    for path in checkpoints.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)

"""Checkpoints: half-written ones are never seen, damaged ones are skipped with a warning."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import REPOSITORY
from ray_jobs.record.checkpoint import damage, find, latest, prune, read_state, save, set_aside


def _write(folder: Path) -> None:
    (folder / "policy").mkdir()
    (folder / "policy" / "model.safetensors").write_bytes(b"weights" * 1000)


def test_save_and_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 5, _write, {"cursor": 40, "best": 0.5})
    assert folder == tmp_path / "step_5" == latest(tmp_path)
    assert read_state(folder) == {"step": 5, "cursor": 40, "best": 0.5}
    assert [p.name for p in tmp_path.iterdir()] == ["step_5"]


def test_latest_is_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (9, 10):
        save(tmp_path, step, _write, {})
    assert latest(tmp_path) == tmp_path / "step_10"
    assert latest(tmp_path / "nowhere") is None


def _flip(folder: Path) -> None:
    (folder / "policy" / "model.safetensors").write_bytes(b"weighty" * 1000)


def _cut(folder: Path) -> None:
    (folder / "policy" / "model.safetensors").write_bytes(b"weights")


def _lose(folder: Path) -> None:
    (folder / "policy" / "model.safetensors").unlink()


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_flip, "sha256"),
        (_cut, "7 bytes, expected 7000"),
        (_lose, "missing"),
        (_no_manifest, "manifest"),
    ],
)
def test_damaged_is_skipped_with_a_warning(
    tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    good = save(tmp_path, 1, _write, {})
    bad = save(tmp_path, 2, _write, {})
    harm(bad)
    assert says in damage(bad)
    with pytest.warns(UserWarning, match="step_2.*skipped"):
        assert latest(tmp_path) == good
    with pytest.raises(ValueError, match=f"train.resume={bad}"):
        find(tmp_path, str(bad))


def test_find(tmp_path: Path) -> None:
    assert find(tmp_path, "auto") is None
    first = save(tmp_path, 1, _write, {})
    second = save(tmp_path, 2, _write, {})
    assert find(tmp_path, "auto") == second
    assert find(tmp_path, "never") is None
    assert find(tmp_path, str(first)) == first
    with pytest.raises(ValueError, match="no such folder"):
        find(tmp_path, "oto")


class Forged:
    """An object whose reading from a pickle makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def _pickle(file: Path, trace: Path) -> None:
    file.write_bytes(pickle.dumps(Forged(trace)))


def _torch_save(file: Path, trace: Path) -> None:
    torch.save(Forged(trace), file)


@pytest.mark.parametrize("name", ["rng_0.pt", "policy/pytorch_model.bin", "policy/config.json"])
@pytest.mark.parametrize("forge", [_pickle, _torch_save])
def test_a_checkpoint_with_a_pickle_is_refused_by_name(
    tmp_path: Path, forge: Callable[[Path, Path], None], name: str
) -> None:
    trace = tmp_path / "trace"

    def write(folder: Path) -> None:
        _write(folder)
        forge(folder / name, trace)

    # Its manifest is in order, and its reading would run a command.
    folder = save(tmp_path / "checkpoints", 1, write, {})
    assert damage(folder) == ""
    for resume in ("auto", str(folder)):
        with pytest.raises(ValueError, match=f"step_1 is not loaded: {name} may hold pickled"):
            find(tmp_path / "checkpoints", resume)
    assert not trace.exists()
    with suppress(RuntimeError):
        torch.load(folder / name, weights_only=False)
    assert trace.exists()


def test_a_checkpoint_of_an_older_release_is_refused_with_a_remedy(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "deepspeed").mkdir()
        _write(folder)

    folder = save(tmp_path, 1, write, {})
    with pytest.raises(ValueError, match=f"older release wrote it.*policy.path={folder}"):
        find(tmp_path, "auto")


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        _write(folder)
        raise OSError("disk full")

    with pytest.raises(RuntimeError, match=r"step_1 could not be written.*MB free.*disk full"):
        save(tmp_path, 1, fail, {})
    assert list(tmp_path.iterdir()) == []


def test_a_write_of_wrong_values_keeps_its_error(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise ValueError("no such policy")

    with pytest.raises(ValueError, match="no such policy"):
        save(tmp_path, 1, fail, {})
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_damaged_checkpoints_only_is_not_started_over(tmp_path: Path) -> None:
    for step in (1, 2):
        _lose(save(tmp_path, step, _write, {}))
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match=r"2 checkpoints, but no whole one \(step_2.*resume=never"),
    ):
        find(tmp_path, "auto")
    assert find(tmp_path, "never") is None


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"files": {}}, "does not list state.json"),
        ({"files": ["state.json"]}, "unreadable"),
        ([], "unreadable"),
        ({"files": {"state.json": 3}}, "unreadable"),
        ({"files": {"state.json": {"bytes": 3}}}, "unreadable"),
        (
            {"files": {"state.json": {"bytes": 1, "sha256": ""}, "../x": {}}},
            "unreadable",
        ),
    ],
)
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, manifest: Any, says: str) -> None:
    folder = save(tmp_path, 1, _write, {})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert says in damage(folder)


def test_a_manifest_with_a_file_elsewhere_is_damage(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, _write, {})
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    (tmp_path / "secret").write_text("x")
    manifest["files"] = {"../secret": {"bytes": 1, "sha256": ""}} | manifest["files"]
    file.write_text(json.dumps(manifest))
    assert "outside the checkpoint, '../secret'" in damage(folder)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, _write, {"try": 1})
    assert read_state(save(tmp_path, 1, _write, {"try": 2}))["try"] == 2


def test_keep_removes_old_ones_but_never_the_best(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, _write, {})
    (tmp_path / "best").symlink_to("checkpoints/step_1")
    for step in (2, 3, 4):
        save(checkpoints, step, _write, {})
        prune(checkpoints, 0)
    assert len(list(checkpoints.iterdir())) == 4
    prune(checkpoints, 2)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step_1", "step_3", "step_4"]


def test_set_aside_hides_the_branch_that_was_left(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, _write, {})
    assert [p.name for p in set_aside(tmp_path, 1)] == ["step_2.left", "step_3.left"]
    assert latest(tmp_path) == tmp_path / "step_1"
    assert damage(tmp_path / "step_2.left") == ""


SLOW_WRITER = """
import pathlib, sys, time
from ray_jobs.record.checkpoint import save
def write(folder):
    (folder / "big").write_bytes(b"x" * 1000)
    print("half", flush=True)
    time.sleep(60)
save(pathlib.Path(sys.argv[1]), 2, write, {})
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    good = save(tmp_path, 1, _write, {})
    command = [sys.executable, "-c", SLOW_WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    writer.kill()
    writer.wait()
    assert (tmp_path / f".step_2.{writer.pid}.writing" / "big").exists()
    assert latest(tmp_path) == good
    assert save(tmp_path, 2, _write, {}) == latest(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_1", "step_2"]


FAST_WRITER = """
import pathlib, sys
from ray_jobs.record.checkpoint import prune, save
def write(folder):
    for i in range(20):
        (folder / f"shard_{i}").write_bytes(bytes([step % 256]) * 20000)
step = 0
while True:
    step += 1
    save(pathlib.Path(sys.argv[1]), step, write, {})
    prune(pathlib.Path(sys.argv[1]), 2)
    print(step, flush=True)
"""


def test_killed_at_any_moment_the_newest_announced_one_is_whole(tmp_path: Path) -> None:
    for round_number in range(3):
        checkpoints = tmp_path / str(round_number)
        command = [sys.executable, "-c", FAST_WRITER, str(checkpoints)]
        writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.1 + 0.037 * round_number)
        writer.kill()
        announced = int((writer.stdout.read().split() or [b"1"])[-1])
        writer.wait()
        newest = latest(checkpoints)
        assert newest is not None
        assert read_state(newest)["step"] in (announced, announced + 1)

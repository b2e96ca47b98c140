"""The run folder: lines stay readable after a kill, and a resume drops the steps it plays again."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from configs.load import REPOSITORY
from core.files import UnwritableError, append_lines, read_lines, repair_lines
from core.types import Answer, End, Episode, Group, Media, Reward, Turn, View
from ray_jobs.record.run_folder import RunFolder


def _group() -> Group:
    turn = Turn(
        prompt_ids=(1, 2),
        completion_ids=(3, 4, 5),
        logprobs=(-0.1, -0.2, -0.3),
        text="the réd circle",
        media=(Media("d", View(7, 84, 84)),),
        complete=True,
        version=4,
    )
    answer = Answer(keyframe=cast(Any, np.int64(7)))
    done = Episode("v/1", (turn,), End.DONE, answer)
    failed = Episode("v/1", (), End.FAILED, error="Traceback: engine died")
    return Group("v/1", (done, failed), (Reward(1.5, {"format": 1.0}), None), (0.5, 0.0))


def _open(tmp_path: Path, **kwargs: bool) -> RunFolder:
    return RunFolder.open(tmp_path / "run", "name: run\n", REPOSITORY, **kwargs)


def test_steps_and_episodes_come_back(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    seconds: dict[str, Any] = {"play": np.float32(1.5)}
    folder.write_step(1, {"reward": 0.5, "gap": float("nan")}, seconds)
    folder.write_episodes(1, [_group()])
    assert folder.steps() == [{"step": 1, "seconds": {"play": 1.5}, "reward": 0.5, "gap": "nan"}]
    done, failed = folder.episodes()
    assert done["turns"] == [
        {"text": "the réd circle", "tokens": 3, "complete": True, "version": 4, "frames": [7]}
    ]
    assert done["end"] == "done"
    assert done["reward"] == 1.5
    assert done["parts"] == {"format": 1.0}
    assert done["facts"] == {"frame": 7}
    assert failed["end"] == "failed"
    assert failed["reward"] is None
    assert failed["error"] == "Traceback: engine died"


def test_every_text_comes_back(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    texts = ['\u2028 \x00 \x7f \\ " / {}', "half a pair: \ud83d", ""]
    turns = [replace(_group().episodes[0].turns[0], text=text) for text in texts]
    for turn in turns:
        # Facts that look like the end of a line, and numbers of numpy.
        answer = Answer(facts={"turns": "}", "odd": {"a": {"b": np.float32(0.5)}}})
        shown = replace(turn, version=cast(Any, np.int64(4)))
        episode = Episode("v/1", (turn, shown), End.DONE, answer)
        folder.write_episodes(1, [Group("v/1", (episode,), (Reward(float("nan"), {}),), (0.5,))])
    lines = folder.episodes()
    assert [line["turns"][0]["text"] for line in lines] == texts
    for line in lines:
        assert line["turns"][0] == line["turns"][1]
        assert line["facts"] == {"turns": "}", "odd": {"a": {"b": 0.5}}, "frame": None}
        assert (line["reward"], line["parts"], line["advantage"]) == ("nan", {}, 0.5)


def test_open_again_appends_and_repairs_the_cut_line(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    folder.write_step(1, {"reward": 0.5}, {})
    with folder.metrics_file.open("a") as out:
        out.write('{"step": 2, "rew')
    assert [line["step"] for line in folder.steps()] == [1]
    again = _open(tmp_path)
    again.write_step(2, {"reward": 0.7}, {})
    assert [line["reward"] for line in again.steps()] == [0.5, 0.7]


def test_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    code = """
import pathlib, sys
from core.files import append_lines
for step in range(10**9):
    append_lines(pathlib.Path(sys.argv[1]), {"step": step, "text": "x" * 50000})
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=REPOSITORY)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if file.exists() and file.stat().st_size > 200_000:
            break
        time.sleep(0.005)
    writer.kill()
    writer.wait()
    repair_lines(file)
    append_lines(file, {"step": -1})
    steps = [line["step"] for line in read_lines(file)]
    assert steps == [*range(len(steps) - 1), -1]
    assert len(steps) > 4


def test_truncate_after_drops_later_steps(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    for step in (1, 2, 3):
        folder.write_step(step, {"reward": step}, {})
        folder.write_episodes(step, [_group()])
    folder.truncate_after(2)
    assert [line["step"] for line in folder.steps()] == [1, 2]
    assert {line["step"] for line in folder.episodes()} == {1, 2}


def test_fresh_sets_the_old_folder_aside(tmp_path: Path) -> None:
    _open(tmp_path).write_step(1, {"reward": 1.0}, {})
    assert _open(tmp_path, fresh=True).steps() == []
    assert len(RunFolder(tmp_path / "run.1").steps()) == 1


def test_best_is_a_relative_link_that_moves_on(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    for step in (1, 2):
        (folder.checkpoints / f"step_{step}").mkdir()
        folder.mark_best(folder.checkpoints / f"step_{step}")
    moved = folder.path.rename(tmp_path / "moved")
    assert (moved / "best").resolve() == (moved / "checkpoints" / "step_2").resolve()


def test_environment_tells_versions_and_commit_but_no_host(tmp_path: Path) -> None:
    environment = json.loads((_open(tmp_path).path / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["packages"]["ray"]
    assert set(environment) <= {"python", "system", "cpus", "packages", "commit", "dirty"}


def test_summary(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    assert folder.summary() is None
    folder.write_summary({"steps": 3, "jf_after": np.float64(0.5)})
    assert folder.summary() == {"steps": 3, "jf_after": 0.5}


def test_broken_files_of_the_record_are_named(tmp_path: Path) -> None:
    folder = _open(tmp_path)
    folder.write_summary({"steps": 3})
    summary = folder.path / "summary.json"
    summary.write_bytes(summary.read_bytes()[:9])
    with pytest.raises(ValueError, match=r"summary.json is broken .*: remove it and start the job"):
        folder.summary()
    append_lines(folder.episodes_file, {"step": 1}, {"sample": "v/0"})
    with pytest.raises(ValueError, match=r'episodes.jsonl, line 2: no "step" in it; remove'):
        folder.truncate_after(1)


def test_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where its folder should be; a read-only disk is told in the same words."""
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(ValueError, match=r"run folder .*/run cannot be written .* runs=\.\.\."):
        _open(tmp_path)


def test_a_full_disk_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    """The supervisor starts the job again after this error, and not after a ValueError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        with pytest.raises(UnwritableError, match="config.yaml could not be written"):
            _open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("line", "says"), [("{'a': 1}", "no JSON"), ("[1]", "no JSON object")])
def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"metrics.jsonl, line 2: {says}.*remove the line"):
        read_lines(file)

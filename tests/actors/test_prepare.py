"""Tasks and judges on Ray: results of every video, errors as results, deaths survived."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.prepare import VideoPiece, VideoResult, check, in_judges, in_tasks, pieces, tables
from cluster.placement import decide
from configs.schema import ClusterConfig, Config, PrepareConfig, SegmenterConfig
from data.load import load_samples
from data.prepare.keep import Judged
from data.prepare.tables import target_table
from tiny.world.write import write_split

CONFIG = Config(
    segmenter=SegmenterConfig(kind="sam2", path="tiny/weights/segmenter", workers=2),
    cluster=ClusterConfig(use_gpu="no"),
    prepare=PrepareConfig(workers=2),
)
PLACEMENT = decide(CONFIG, [])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[VideoPiece]:
    root = tmp_path_factory.mktemp("data")
    write_split(root, "train", seed=5, num_videos=4, expressions_per_video=2)
    return pieces(load_samples("mevis", str(root), "train", "keep"))


def by_video(results: Iterable[tuple[VideoPiece, VideoResult]]) -> dict[str, Any]:
    """Return results by the uid of their video."""
    return {piece.video.uid: result for piece, result in results}


def test_pieces_hold_all_samples_of_a_video_and_each_object_once(found: list[VideoPiece]) -> None:
    assert [len(piece.samples) for piece in found] == [2] * 4
    for piece in found:
        assert set(piece.targets) == {t.uid for s in piece.samples for t in s.targets}


def test_tasks_do_what_the_functions_do(ray_env: dict[str, str], found: list[VideoPiece]) -> None:
    made = by_video(in_tasks(CONFIG, PLACEMENT, tables, found))
    assert list(made) != []
    assert set(made) == {piece.video.uid for piece in found}
    for piece in found:
        rows, problems = made[piece.video.uid]
        assert problems == []
        assert [row.target for row in rows] == list(piece.targets)
        for row, target in zip(rows, piece.targets.values(), strict=True):
            assert (row.boxes_F4 == target_table(piece.video.uid, target).boxes_F4).all()
    for result in by_video(in_tasks(CONFIG, PLACEMENT, check, found)).values():
        assert result == (None, [])


def test_a_video_that_kills_its_process_or_takes_all_memory_is_a_result(
    ray_env: dict[str, str], found: list[VideoPiece]
) -> None:
    victim = found[1].video.uid
    hungry = found[2].video.uid

    def die_at_one(piece: VideoPiece) -> VideoResult:
        if piece.video.uid == victim:
            os._exit(1)
        if piece.video.uid == hungry:
            bytes(3 << 30)
        return VideoResult(None, [])

    results = by_video(in_tasks(CONFIG, PLACEMENT, die_at_one, found))
    assert "its process died" in results.pop(victim).problems[0].text
    [problem] = results.pop(hungry).problems
    assert "more memory than prepare.memory_mb allows" in problem.text
    assert problem.video == hungry
    assert [result.problems for result in results.values()] == [[]] * 2


def test_judges(ray_env: dict[str, str], found: list[VideoPiece], tmp_path: Path) -> None:
    """Good masks are met, and masks of other frames are not. Lost frames are a problem."""
    right, wrong, lost = found[:3]
    sample = next(sample for sample in wrong.samples if sample.targets)
    target = sample.targets[0]
    backwards = replace(target, masks_F=tuple(reversed(tuple(target.masks_F))))
    wrong = replace(wrong, samples=(replace(sample, targets=(backwards,)),))
    lost = replace(lost, video=replace(lost.video, path=str(tmp_path / "gone")))
    results = by_video(in_judges(CONFIG, PLACEMENT, [right, wrong, lost]))

    good = results[right.video.uid].made
    assert isinstance(good, Judged)
    assert good.mean_iou is not None
    assert good.mean_iou > 0.6
    visible = 0
    for target in right.targets.values():
        visible += sum(rle is not None for rle in target.masks_F)
    assert good.masks == visible

    bad = results[wrong.video.uid].made
    assert isinstance(bad, Judged)
    assert bad.mean_iou is not None
    assert bad.mean_iou < 0.45

    nothing, [problem] = results[lost.video.uid]
    assert nothing is None
    assert "gone" in problem.text
    assert problem.video == lost.video.uid


def test_the_death_of_a_judge_costs_no_video(
    ray_env: dict[str, str], found: list[VideoPiece]
) -> None:
    results = in_judges(
        replace(CONFIG, segmenter=replace(CONFIG.segmenter, workers=1)), PLACEMENT, found
    )
    done = [next(results)]
    judges = []
    for process in psutil.Process().children(recursive=True):
        # One that has just ended has no command line.
        with suppress(psutil.NoSuchProcess):
            if "JudgeActor" in "".join(process.cmdline()):
                judges.append(process)
    [judge] = judges
    judge.kill()
    done += list(results)
    assert {piece.video.uid for piece, _ in done} == {piece.video.uid for piece in found}
    assert len(done) == len(found)
    assert all(isinstance(judged, Judged) and problems == [] for _, (judged, problems) in done)


def test_judges_that_cannot_start_say_why(
    ray_env: dict[str, str], found: list[VideoPiece], tmp_path: Path
) -> None:
    cfg = replace(CONFIG, segmenter=SegmenterConfig(path=str(tmp_path / "none.pt")))
    with pytest.raises(ValueError, match="no file .*none.pt"):
        list(in_judges(cfg, PLACEMENT, found))

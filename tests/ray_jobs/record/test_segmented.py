"""What `ray_jobs.segment` says of a video, and the files of its results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.masks import encode
from core.types import Answer, End, Episode, MaskPrompt, Media, Sample, Turn, Video, View
from ray_jobs.record import segmented
from ray_jobs.segment import settings

SAMPLE = Sample("v/0", Video("v", "v.mp4", ("00000", "00001", "00002"), 4, 6), "the dog", ())
TURN = Turn(
    (),
    (),
    (),
    "<think>so</think>",
    (Media("d", View(1, 28, 28)), Media("e", View(2, 28, 28))),
    True,
    0,
)


def test_what_is_said_of_an_episode() -> None:
    rle = encode(np.ones((4, 6), bool))
    found = Episode(
        "v/0", (TURN,), End.DONE, Answer((MaskPrompt(1, (0.0, 0.0, 3.0, 3.0)),), {"frame": 1})
    )
    assert (
        segmented.verdict(found, (None, rle, rle)) == "keyframe 1; masks on 2 of 3 frames (1 to 2)"
    )
    assert "found nothing" in segmented.verdict(found, (None, None, None))
    none = Episode("v/0", (TURN,), End.UNREADABLE)
    assert "no box or point (unreadable)" in segmented.verdict(none, (None, None, None))
    assert segmented.dialogue(SAMPLE, none).splitlines()[2:4] == [
        "turn 1, shown frames 1, 2:",
        "<think>so</think>",
    ]
    held = segmented.answer(settings([]), SAMPLE, found, (None, rle, None))
    assert json.loads(json.dumps(held))["prompts"][0]["frame"] == 1
    assert held["spans_with_mask"] == [(1, 2)]
    assert segmented.spans([True, True, False, True]) == [(0, 2), (3, 4)]
    assert segmented.spans([False]) == []


def test_a_folder_holds_the_results_of_one_run(tmp_path: Path) -> None:
    written = ["keyframe.png", "keyframe_3.png", "masks/00009.png", "overlay.mp4", "answer.json"]
    for name in [*written, "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of the run before")
    segmented.remove_results(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["notes.txt"]


def test_results_are_those_of_one_video_sentence_and_policy(tmp_path: Path) -> None:
    cfg = settings([])
    assert not segmented.is_answered(tmp_path, cfg, SAMPLE)
    held = segmented.asked(cfg, SAMPLE) | {"end": "done"}
    (tmp_path / "answer.json").write_text(json.dumps(held))
    assert segmented.is_answered(tmp_path, cfg, SAMPLE)
    assert not segmented.is_answered(tmp_path, cfg, replace(SAMPLE, query="the cat"))
    assert not segmented.is_answered(tmp_path, settings(["videoseg_r1_tiny"]), SAMPLE)
    (tmp_path / "answer.json").write_text('{"video": "v.mp4"')
    assert not segmented.is_answered(tmp_path, cfg, SAMPLE)
    assert segmented.video_in(tmp_path) == ""

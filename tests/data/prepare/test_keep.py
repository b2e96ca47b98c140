"""The label filter's decision and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.types import Sample, Target, Video
from data.prepare.keep import Judged, iou, keep_content, keep_samples

JUDGED = [
    Judged("good", 10, 0.6),
    Judged("bad", 3, 0.599),
    Judged("empty", 0, None),
]


def _samples(*videos: str) -> list[Sample]:
    """Return two samples of each video."""
    samples = []
    for uid in videos:
        video = Video(uid, "nowhere", ("0",), 4, 4)
        samples.append(Sample(f"{uid}/0", video, "it", ()))
        samples.append(Sample(f"{uid}/1", video, "it", ()))
    return samples


def test_iou() -> None:
    a_HW = np.zeros((4, 4), bool)
    b_HW = np.zeros((4, 4), bool)
    assert iou(a_HW, b_HW) == 1.0
    a_HW[:2] = True
    b_HW[1:] = True
    assert iou(a_HW, b_HW) == 4 / 16
    assert iou(a_HW, np.zeros((4, 4), bool)) == 0.0


def test_all_queries_of_a_bad_video_go(tmp_path: Path) -> None:
    file = tmp_path / "keep.json"
    samples = _samples("bad", "good", "empty", "broken")
    target = Target("1", (None,))
    samples.append(replace(samples[2], uid="good/2", targets=(target,)))
    content = keep_content(JUDGED, 0.6, {"split": "train"}, samples)
    file.write_text(json.dumps(content))
    left = keep_samples(samples, file)
    assert [sample.uid for sample in left] == ["good/0", "good/1", "empty/0", "empty/1", "good/2"]
    content = json.loads(file.read_text())
    assert content["broken"] == ["broken"]
    assert content["expressions_with_target"] == 1
    assert content["drop"] == ["bad"]
    assert content["videos"]["bad"] == {"masks": 3, "mean_iou": 0.599}
    assert content["split"] == "train"
    assert content["threshold"] == 0.6


def test_a_list_made_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"keep": ["b"]}')
    kept = keep_samples(_samples("a", "b"), file)
    assert [sample.uid for sample in kept] == ["b/0", "b/1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file.*ray_jobs.prepare"),
        ("", "not JSON"),
        ("[" * 10**6, "not JSON"),
        ('{"keep": [1]}', '"keep" must be a list'),
        ("[]", '"keep" must be a list'),
        ('{"keep": ["other"]}', "keeps none of the 2 samples.*'v'.*another data set"),
        ('{"keep": ["v"], "videos": {"w": {}}}', "'v' was never judged"),
    ],
    ids=lambda text: text and text[:30],
)
def test_files_that_do_not_fit(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "keep.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        keep_samples(_samples("v"), tmp_path / "keep.json")

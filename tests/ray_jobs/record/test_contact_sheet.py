"""The contact sheet: which sentences, and that outline, box and point are where the object is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.masks import encode
from core.types import Sample, Target, Video
from data.prepare.tables import target_table
from ray_jobs.record.contact_sheet import (
    CELL,
    COLOURS,
    GAP,
    PANEL,
    choose_samples,
    sheet_row,
    stack_rows,
)


def _sample(uid: str, kind: str = "") -> Sample:
    return Sample(uid, Video(uid.split("/")[0], "nowhere", ("0",), 4, 4), "it", (), kind)


def test_kinds_take_turns_and_videos_differ() -> None:
    samples = []
    for video in range(8):
        kind = "rare" if video == 7 else "common"
        samples += [_sample(f"v{video}/{number}", kind) for number in range(3)]
    picked = choose_samples(samples, 4, seed=0)
    assert len({sample.video.uid for sample in picked}) == 4
    assert sum(sample.kind == "rare" for sample in picked) == 1
    assert picked == choose_samples(samples, 4, seed=0)
    every = choose_samples(samples, 100, seed=0)
    assert len({sample.uid for sample in every}) == 24
    assert choose_samples([], 4, seed=0) == []


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    masks = []
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((60, 80, 3), 40, np.uint8))
        mask_HW = np.zeros((60, 80), bool)
        mask_HW[10:30, 20:50] = i > 1
        masks.append(encode(mask_HW) if i > 1 else None)
    video = Video("v", str(tmp_path), ("0", "1", "2", "3"), 60, 80)
    target = Target("7", tuple(masks))
    return Sample("v/0", video, "the grey one that is there in the end", (target,), "order")


def coloured(picture_HWC: np.ndarray) -> np.ndarray:
    """Pixels in the colour of the first object."""
    return (picture_HWC == COLOURS[0]).all(-1)


def test_a_row_shows_the_object_where_it_is(sample: Sample) -> None:
    table = target_table("v", sample.targets[0])
    picture = sheet_row(sample, {table.key: table}, 2)  # frames 1 and 3
    assert picture.dtype == np.uint8
    assert picture.shape == (CELL * 60 // 80 + GAP, PANEL + 2 * (CELL + GAP), 3)
    height = CELL * 60 // 80
    left = picture[:height, PANEL : PANEL + CELL]
    right = picture[:height, PANEL + CELL + GAP :][:, :CELL]
    assert not coloured(left).any()
    drawn = np.argwhere(coloured(right))
    scale = CELL / 80
    assert drawn.min(0) == pytest.approx([10 * scale, 20 * scale], abs=2)
    assert drawn.max(0) == pytest.approx([30 * scale, 50 * scale], abs=2)
    y = round(20 * scale)
    x = round(35 * scale)
    assert coloured(right[y - 2 : y + 3, x - 2 : x + 3]).any(), "the centre point"
    assert (picture[:, :PANEL] > 100).any(), "the sentence"


def test_rows_fit_below_one_another_also_of_shorter_videos(sample: Sample) -> None:
    short = Video("w", sample.video.path, ("0",), 60, 80)
    other = Sample("w/0", short, "word " * 300, ())
    rows = [sheet_row(sample, {}, 3), sheet_row(other, {}, 3)]
    assert stack_rows(rows).shape[1] == PANEL + 3 * (CELL + GAP)


def test_a_frame_that_is_missing(sample: Sample) -> None:
    (Path(sample.video.path) / "3.png").unlink()
    with pytest.raises(ValueError, match="3.*missing"):
        sheet_row(sample, {}, 2)

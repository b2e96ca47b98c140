"""Blind guesses on a case computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from core.masks import encode
from core.types import Rle, Sample, Target, Video
from ray_jobs.driver.blind import blind_jf, blind_temporal


def _target(
    uid: str, box: tuple[int, int, int, int], visible: list[int], num_frames: int
) -> Target:
    mask = np.zeros((32, 32), bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    masks_F: list[Rle | None] = [None] * num_frames
    for frame in visible:
        masks_F[frame] = encode(mask)
    return Target(uid, tuple(masks_F))


VIDEO = Video("v", "nowhere", ("0", "1", "2", "3"), 32, 32)
# Exactly the centre box.
CENTRE = _target("centre", (8, 8, 24, 24), [0, 1, 2, 3], 4)
SMALL = _target("small", (0, 0, 4, 4), [0, 1, 2, 3], 4)


def test_masks() -> None:
    """The first query means the largest object, in the centre; the second query means the other."""
    of_centre = Sample("v/0", VIDEO, "a", (CENTRE,))
    of_small = Sample("v/1", VIDEO, "b", (SMALL,))
    objects = {"v": (SMALL, CENTRE)}
    assert blind_jf([of_centre], objects) == {
        "nothing": 0.0,
        "centre box": 100.0,
        "largest object": 100.0,
    }
    assert blind_jf([of_small], objects) == {
        "nothing": 0.0,
        "centre box": 0.0,
        "largest object": 0.0,
    }
    assert blind_jf([of_centre, of_small], objects)["largest object"] == 50.0


def test_keyframes() -> None:
    """Visible in frames 1 and 2 of 4, equally large: the other frames earn nothing."""
    sample = Sample("v/0", VIDEO, "a", (_target("t", (8, 8, 24, 24), [1, 2], 4),))
    found = blind_temporal([sample], 4)
    assert found["share of frames in which the target is visible"] == 0.5
    best = found["best frame (needs the target)"]
    assert best > 0
    assert found["random visible frame (needs the target)"] == pytest.approx(best)
    assert found["best constant frame (1)"] == pytest.approx(best)
    assert found["middle frame"] == pytest.approx(best)
    assert found["random frame"] == pytest.approx(best / 2)

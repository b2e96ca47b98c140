"""The mean IoU of masks over a video."""

from __future__ import annotations

import numpy as np

from rewards.clip_iou import clip_iou


def row(*pixels: int) -> np.ndarray:
    return np.array([pixels], dtype=bool)


def test_by_hand() -> None:
    truth_F: list[np.ndarray | None] = [row(1, 1, 0, 0), row(1, 0, 0, 0), None, None]
    masks_GF: list[list[np.ndarray | None]] = [
        truth_F,
        [row(0, 1, 1, 0), None, None, None],
        [row(1, 1, 0, 0), row(1, 0, 0, 0), row(0, 0, 0, 1), None],
        [None, None, None, None],
    ]
    assert clip_iou(masks_GF, truth_F).tolist() == [1, 1 / 6, 2 / 3, 0]


def test_nothing_to_find() -> None:
    truth_F = [None, None]
    assert clip_iou([[None, None], [row(1, 0), None]], truth_F).tolist() == [1, 0]

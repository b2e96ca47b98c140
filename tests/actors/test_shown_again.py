"""Pixels of logged groups: decoded again, and never others than the policy was shown."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.shown_again import decode, media_of
from core.types import End, Episode, Media, Turn, Video, View
from data.frames.reading import show_views


@pytest.fixture
def video(tmp_path: Path) -> Video:
    rng = np.random.default_rng(0)
    names = ("00000", "00001")
    for name in names:
        image_HWC = rng.integers(0, 255, (40, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image_HWC)
    return Video("v", str(tmp_path), names, 40, 60)


def episode_with(media: tuple[Media, ...]) -> Episode:
    turn = Turn((1,), (2,), (-0.5,), "", media, True, version=0)
    return Episode("v/1", (turn, turn), End.DONE)


def test_pixels_come_back(video: Video) -> None:
    shown = show_views(video, [View(1, 28, 56), View(0, 28, 56)])
    media = tuple(one for one, _ in shown)
    pixels = decode(video, media_of([episode_with(media), episode_with(media[:1])]))
    assert list(pixels) == [one.digest for one in media]
    for one, image_HWC in shown:
        assert np.array_equal(pixels[one.digest], image_HWC)


def test_a_video_that_changed_is_named(video: Video) -> None:
    [(media, _)] = show_views(video, [View(1, 28, 56)])
    black = np.zeros((40, 60, 3), np.uint8)
    cv2.imwrite(f"{video.path}/00001.png", black)
    with pytest.raises(ValueError) as error:
        decode(video, [media])
    assert str(error.value).startswith(f"{video.path}: frame 1 has changed since the policy was")
    assert "put the old file back, or remove the folder groups/" in str(error.value)


def test_episodes_without_images_have_no_pixels(video: Video) -> None:
    assert decode(video, media_of([episode_with(())])) == {}

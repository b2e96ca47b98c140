"""Images are read again anywhere, and never others than the policy was shown."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.batch import Tree, branch
from core.types import End, Episode, Media, MediaSource, Turn, Video, View
from data.frames.frame_store import node_store
from data.frames.reading import show_views
from data.frames.shown import images_of_row, media_of, read_shown


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
    pixels = read_shown(video, media_of([episode_with(media), episode_with(media[:1])]))
    assert list(pixels) == [one.digest for one in media]
    for one, image_HWC in shown:
        assert np.array_equal(pixels[one.digest], image_HWC)


def test_a_video_that_changed_is_named(video: Video) -> None:
    [(media, _)] = show_views(video, [View(1, 28, 56)])
    black = np.zeros((40, 60, 3), np.uint8)
    cv2.imwrite(f"{video.path}/00001.png", black)
    with pytest.raises(ValueError) as error:
        read_shown(video, [media])
    assert str(error.value).startswith(f"{video.path}: frame 1 has changed since the policy was")
    assert "put the old file back, or remove the folder groups/" in str(error.value)


def test_a_row_finds_its_images_in_videos_and_tables(video: Video) -> None:
    shown = show_views(video, [View(0, 28, 28), View(1, 28, 56), View(1, 28, 28)])
    first, second, third = (media for media, _ in shown)
    drawn = Media("drawn", View(0, 28, 28))
    image_HWC = np.zeros((28, 28, 3), np.uint8)
    leaf = branch(episode_with((second,)), (1.0, 1.0), 1.0, 0)
    forest = [
        Tree(0, (1,), (first,), (leaf,)),
        Tree(2, (1,), (third,), ()),
        Tree(5, (1,), (drawn,), ()),
    ]
    sources: dict[int, MediaSource] = {
        0: video,
        2: video,
        5: {"drawn": image_HWC, "other": image_HWC},
    }
    pixels = images_of_row(forest, sources)
    assert set(pixels) == {first.digest, second.digest, third.digest, "drawn"}
    for media, shown_HWC in shown:
        assert np.array_equal(pixels[media.digest], shown_HWC)
    assert pixels["drawn"] is image_HWC


def test_frames_that_left_the_store_are_decoded_again(video: Video) -> None:
    [(media, before_HWC)] = show_views(video, [View(1, 28, 56)])
    store = node_store()
    for file in store.folder.glob("*.npy"):
        file.unlink()
    added = store.added
    pixels = read_shown(video, [media])
    assert np.array_equal(pixels[media.digest], before_HWC)
    assert store.added == added + 1
    # Now it is there.
    read_shown(video, [media])
    assert store.added == added + 1


def test_episodes_without_images_have_no_pixels(video: Video) -> None:
    assert read_shown(video, media_of([episode_with(())])) == {}

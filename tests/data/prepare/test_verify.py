"""Damage of every kind, each named, none hiding another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.masks import decode, encode
from core.types import Rle, Sample, Target, Video
from data.prepare.verify import (
    MANY,
    Problem,
    broken_frames,
    broken_masks,
    media_under,
    oddities,
    problems_of_video,
    runs_of,
)

HEIGHT = 40
WIDTH = 60


def _picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Video:
    names = [f"{i:05d}" for i in range(6)]
    for i, name in enumerate(names):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), _picture(i))
    return Video("v", str(tmp_path), tuple(names), HEIGHT, WIDTH)


def test_a_whole_folder_has_no_problem(folder: Video) -> None:
    (Path(folder.path) / "00005.jpg").unlink()
    # The suffix may differ.
    cv2.imwrite(str(Path(folder.path) / "00005.png"), _picture())
    assert broken_frames(folder) == []


def test_every_broken_frame_is_named(folder: Video) -> None:
    path = Path(folder.path)
    (path / "00001.jpg").unlink()
    content = (path / "00002.jpg").read_bytes()
    # OpenCV reads this file, half of it grey.
    (path / "00002.jpg").write_bytes(content[: len(content) // 2])
    (path / "00003.jpg").write_bytes(b"")
    cv2.imwrite(str(path / "00004.jpg"), _picture()[: HEIGHT // 2])
    found = broken_frames(folder)
    wanted = [
        ("00001.jpg", "missing"),
        ("00002.jpg", "truncated"),
        ("00003.jpg", "damaged"),
        ("00004.jpg", f"{HEIGHT // 2} x {WIDTH}, but the masks of the video are {HEIGHT}"),
    ]
    for text, (name, problem) in zip(found, wanted, strict=True):
        assert f"/{name}" in text
        assert problem in text


def test_without_annotations_all_that_lies_in_a_folder_is_looked_at(
    folder: Video, clip: Video, tmp_path: Path
) -> None:
    images, file = media_under(tmp_path)
    assert broken_frames(images) == []
    assert broken_frames(file) == []

    content = (tmp_path / "00003.jpg").read_bytes()
    (tmp_path / "00003.jpg").write_bytes(content[:300])
    Path(clip.path).write_bytes(b"nothing")
    images, file = media_under(tmp_path)
    [text] = broken_frames(images)
    assert "00003.jpg: damaged" in text
    [text] = broken_frames(file)
    assert "v.mp4: not a video" in text


def test_neither_folder_nor_file(tmp_path: Path) -> None:
    gone = Video("v", str(tmp_path / "gone"), ("0", "1"), 4, 4)
    [text] = broken_frames(gone)
    assert "gone" in text
    assert "neither a folder" in text


@pytest.fixture
def clip(tmp_path: Path) -> Video:
    file = tmp_path / "v.mp4"
    with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = HEIGHT
        stream.width = WIDTH
        stream.pix_fmt = "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(_picture(i), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    names = tuple(str(i) for i in range(12))
    return Video("v", str(file), names, HEIGHT, WIDTH)


def test_a_video_file(clip: Video) -> None:
    assert broken_frames(clip) == []
    longer = replace(clip, frame_names=(*clip.frame_names, "12"))
    assert "12 frames, but 13 are listed" in broken_frames(longer)[0]
    wide = replace(clip, width=2 * WIDTH)
    assert f"but the masks of the video are {HEIGHT} x {2 * WIDTH}" in broken_frames(wide)[0]


def test_a_video_file_that_was_cut_short(clip: Video) -> None:
    content = Path(clip.path).read_bytes()
    Path(clip.path).write_bytes(content[: len(content) * 2 // 3])
    found = broken_frames(clip)
    assert found
    assert all("v.mp4" in text for text in found)
    Path(clip.path).write_text("not a video at all\n" * 100)
    [text] = broken_frames(clip)
    assert "not a video" in text


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_runs_are_those_of_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth_HW = cv2.resize(rng.random((5, 6)), (60, 70), interpolation=cv2.INTER_LINEAR)
    mask_HW = smooth_HW > rng.random()
    runs = runs_of(encode(mask_HW)["counts"])
    is_object = np.arange(len(runs)) % 2 == 1
    column = np.repeat(is_object, runs)
    assert np.array_equal(column, mask_HW.ravel(order="F"))
    assert np.array_equal(decode(encode(mask_HW)), mask_HW)


@pytest.mark.parametrize("counts", ["é", "0d0 ", "P", "O"])
def test_text_that_is_no_encoding(counts: str) -> None:
    with pytest.raises(ValueError):
        runs_of(counts)


def _target(*rles: Rle | None) -> Target:
    return Target("7", rles)


def test_masks(folder: Video) -> None:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[3:9, 4:20] = True
    good = encode(mask_HW)
    other = encode(mask_HW.T)
    assert broken_masks(folder, _target(good, None, *[good] * 4)) == []
    assert "2 masks for 6 frames" in broken_masks(folder, _target(good, None))[0]
    short: Rle = {"size": [HEIGHT, WIDTH], "counts": "0d0"}
    odd: Rle = {"size": [HEIGHT, WIDTH], "counts": "ü"}
    found = broken_masks(folder, _target(good, other, short, odd, None, good))
    assert len(found) == 3
    assert 'frame 1: "size" is [60, 40], but the frames are 40 x 60' in found[0]
    assert 'frame 2: "counts" fills 20 pixels of 2400' in found[1]
    assert 'frame 3: "counts" is not a run-length encoding' in found[2]
    assert len(broken_masks(folder, _target(*[other] * 6))) == MANY + 1


def test_a_store_that_fails_when_it_is_asked_is_a_problem_too(folder: Video) -> None:
    class Lazy(tuple):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise ValueError("mask_dict.json: key '7' is cut short")

    assert broken_masks(folder, Target("7", Lazy())) == ["mask_dict.json: key '7' is cut short"]


def test_odd_is_said_only_where_nothing_is_wrong(folder: Video) -> None:
    empty = encode(np.zeros((HEIGHT, WIDTH), bool))
    samples = [
        Sample("v/0", folder, " ", ()),
        Sample("v/1", folder, "it", (_target(None, *[empty] * 5),)),
    ]
    assert len(list(oddities(samples))) == 2
    found = problems_of_video(folder, samples)
    assert [p.odd for p in found] == [True, True]
    assert "not visible in any frame" in found[1].text
    (Path(folder.path) / "00001.jpg").unlink()
    [only] = problems_of_video(folder, samples)
    assert only == Problem("v", only.text)
    assert "missing" in only.text

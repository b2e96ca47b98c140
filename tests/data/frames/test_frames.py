"""Frames from real JPEG folders and video files; each tells its number by its colour."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.digest import image_digest
from core.types import Video, View
from data.frames.decoders import DECODERS
from data.frames.frame_store import FrameStore, node_store
from data.frames.probing import probe, probe_with_rate
from data.frames.reading import Clip, frame_size, read_frames, resize_to_view, show_views

# decord fails on some widths below 64.
HEIGHT = 32
WIDTH = 64


def painted(index: int) -> np.ndarray:
    """Return a frame: red tells its number, green is high, blue low, so that any swap shows."""
    image_HWC = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image_HWC[:] = (10 * index, 200, 20)
    return image_HWC


def numbers(frames_nHWC: np.ndarray) -> list[int]:
    green_and_blue = frames_nHWC[..., 1:].astype(int)
    assert abs(green_and_blue - [200, 20]).max() < 12
    found = []
    for frame_HWC in frames_nHWC:
        red = float(frame_HWC[..., 0].mean())
        found.append(round(red / 10))
    return found


def video_at(path: Path, num_frames: int = 24) -> Video:
    names = tuple(f"{index:05d}" for index in range(num_frames))
    return Video("v", str(path), names, HEIGHT, WIDTH)


def write_image(file: Path, index: int) -> None:
    assert cv2.imwrite(str(file), cv2.cvtColor(painted(index), cv2.COLOR_RGB2BGR))


@pytest.fixture
def folder(tmp_path: Path) -> Video:
    (tmp_path / "v").mkdir()
    for index in range(24):
        write_image(tmp_path / "v" / f"{index:05d}.jpg", index)
    return video_at(tmp_path / "v")


def write_mp4(path: Path, num_frames: int, first: int = 0) -> None:
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "6", "bf": "2", "crf": "1"}
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(painted(first + index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def mp4(tmp_path: Path) -> Video:
    write_mp4(tmp_path / "v.mp4", 24)
    return video_at(tmp_path / "v.mp4")


def test_folder_in_the_order_asked_for(folder: Video) -> None:
    frames_nHWC = read_frames(folder, [5, 0, 23, 5])
    assert frames_nHWC.shape == (4, HEIGHT, WIDTH, 3)
    assert frames_nHWC.dtype == np.uint8
    assert numbers(frames_nHWC) == [5, 0, 23, 5]
    assert read_frames(folder, []).shape == (0, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_video_file(mp4: Video, decoder: str) -> None:
    wanted = [17, 3, 0, 3, 23]
    assert numbers(read_frames(mp4, wanted, decoders=[decoder])) == wanted


def test_a_frame_is_decoded_once_and_a_caller_cannot_spoil_it(folder: Video, mp4: Video) -> None:
    for video in (folder, mp4):
        before = node_store().added
        first = read_frames(video, [2, 4])
        first[:] = 0
        assert numbers(read_frames(video, [4, 2])) == [4, 2]
        assert node_store().added == before + 2


def test_a_file_that_changed_is_read_again(folder: Video, mp4: Video) -> None:
    for video in (folder, mp4):
        assert numbers(read_frames(video, [2])) == [2]
    write_image(Path(folder.path) / "00002.jpg", 9)
    write_mp4(Path(mp4.path), 24, first=1)
    assert numbers(read_frames(folder, [2])) == [9]
    assert numbers(read_frames(mp4, [2])) == [3]


def test_processes_of_a_node_decode_a_frame_once_between_them(
    mp4: Video, folder: Video, tmp_path: Path
) -> None:
    """Four processes read all frames at the same time, in a store of their own."""
    code = (
        "import pathlib, sys; from core.digest import image_digest; from core.types import Video;"
        "from data.frames import frame_store; from data.frames.reading import read_frames;"
        "frame_store.SHARED_MEMORY = pathlib.Path('/none');"
        "video = Video('v', sys.argv[1], tuple(f'{i:05d}' for i in range(24)), 32, 64);"
        "pixels = read_frames(video, range(24));"
        "store = frame_store.node_store();"
        "print(store.added, image_digest(pixels), store.folder)"
    )
    store = tmp_path / f"rayvos-frames-{os.getuid()}"
    store.mkdir()
    # Held open, because the first process to end might empty it.
    held = FrameStore(store, 0)
    env = os.environ | {"TMPDIR": str(tmp_path)}
    for video in (mp4, folder):
        command = [sys.executable, "-c", code, video.path]
        processes = []
        for _ in range(4):
            processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        total = 0
        digests = set()
        for process in processes:
            added, digest, place = process.communicate()[0].split()
            total += int(added)
            digests.add(digest)
            assert Path(place) == store
        assert total == 24
        assert len(digests) == 1
    held.close()


def test_a_clip_is_read_in_pieces_and_decoded_in_blocks(mp4: Video) -> None:
    clip = Clip(mp4)
    before = node_store().added
    assert clip.shape == (24, HEIGHT, WIDTH, 3)
    assert numbers(clip[20:30]) == [20, 21, 22, 23]
    assert node_store().added == before + 24
    assert numbers(clip[3:5]) == [3, 4]
    assert node_store().added == before + 24
    assert len(clip[7:7]) == 0


def test_missing_things_are_named(folder: Video) -> None:
    (Path(folder.path) / "00007.jpg").unlink()
    with pytest.raises(ValueError, match=r"00007\.jpg: missing \(frame 7 of 24.*extract"):
        read_frames(folder, [6, 7])
    (Path(folder.path) / "00008.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"00008\.jpg is not a readable image .*; frame 8 of 24"):
        read_frames(folder, [8])
    with pytest.raises(ValueError, match="frame 24 does not exist: the video has 24 frames"):
        read_frames(folder, [24])


def test_a_frame_of_another_size_is_named(folder: Video) -> None:
    narrow_HWC = np.zeros((HEIGHT, WIDTH - 8, 3), np.uint8)
    cv2.imwrite(str(Path(folder.path) / "00009.jpg"), narrow_HWC)
    with pytest.raises(ValueError, match="frame 9 is 32 x 56 .* 32 x 64"):
        read_frames(folder, [9])


def test_a_short_video_says_where_it_stops(tmp_path: Path) -> None:
    write_mp4(tmp_path / "short.mp4", 12)
    video = video_at(tmp_path / "short.mp4")
    assert numbers(read_frames(video, [11])) == [11]
    with pytest.raises(
        ValueError, match=r"short\.mp4: the video stops after frame 12 of 24 \(frame 20 .* again"
    ):
        read_frames(video, [3, 20])


def test_a_truncated_video_gives_what_is_there(mp4: Video) -> None:
    path = Path(mp4.path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.75)])
    assert numbers(read_frames(mp4, [0, 1])) == [0, 1]
    with pytest.raises(ValueError, match=r"v\.mp4: the video stops after frame \d+ of 24"):
        read_frames(mp4, [23])


def test_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(
        ValueError, match=r"v\.mp4: pyav cannot decode it: .*Invalid data.*frame 0 was needed"
    ):
        read_frames(video_at(tmp_path / "v.mp4"), [0])


def test_a_decoder_that_hangs_is_killed(mp4: Video) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"pyav gave no frames within 0\.001 s"):
        read_frames(mp4, [0], timeout_s=0.001)
    assert time.monotonic() - start < 5


def test_frame_size(folder: Video, mp4: Video) -> None:
    for video in (folder, mp4):
        assert frame_size(video.path, video.frame_names) == (HEIGHT, WIDTH)


def test_show_resizes_and_digests(folder: Video) -> None:
    full = View(3, HEIGHT, WIDTH)
    small = View(3, 28, 28)
    large = View(4, 56, 84)
    views = [full, small, large, small]
    shown = show_views(folder, views)
    assert [media.view for media, _ in shown] == views
    for (media, image_HWC), view in zip(shown, views, strict=True):
        assert image_HWC.shape == (view.height, view.width, 3)
        assert image_HWC.dtype == np.uint8
        assert media.digest == image_digest(image_HWC)
    assert numbers(shown[1][1][None]) == [3]
    assert numbers(shown[2][1][None]) == [4]
    assert numbers(shown[3][1][None]) == [3]
    assert shown[1][0].digest == shown[3][0].digest
    assert len({media.digest for media, _ in shown}) == 3
    assert show_views(folder, []) == []


def test_the_digest_covers_the_shape() -> None:
    image = np.zeros((2, 6, 3), np.uint8)
    assert image_digest(image) != image_digest(image.reshape(6, 2, 3))


def test_shrinking_averages() -> None:
    checkers_HWC = np.zeros((8, 8, 3), np.uint8)
    checkers_HWC[::2, ::2] = 200
    checkers_HWC[1::2, 1::2] = 200
    assert (resize_to_view(checkers_HWC, View(0, 4, 4)) == 100).all()


def test_video_decoders_are_imported_only_where_a_file_is_read() -> None:
    code = "import sys, data.frames.reading; sys.exit(bool({'decord', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_probe_says_what_is_there(folder: Video, mp4: Video, tmp_path: Path) -> None:
    video, rate = probe_with_rate(mp4.path)
    assert video.uid == "v"
    assert video.num_frames == 24
    assert (video.height, video.width) == (HEIGHT, WIDTH)
    assert rate == 24
    assert numbers(read_frames(video, [23, 0])) == [23, 0]
    video, rate = probe_with_rate(folder.path)
    assert video.num_frames == 24
    assert (video.height, video.width) == (HEIGHT, WIDTH)
    assert rate is None
    assert numbers(read_frames(video, [5])) == [5]


def test_probe_of_an_image_beside_one_of_the_same_name(tmp_path: Path) -> None:
    images = {"cat.jpg": 3, "cat.png": 7, "cat.WEBP": 9}
    for name, index in images.items():
        write_image(tmp_path / name, index)
    for name, index in images.items():
        video = probe(tmp_path / name)
        assert video.num_frames == 1
        assert numbers(read_frames(video, [0])) == [index]


def test_probe_of_a_folder_counts_as_a_person_does(tmp_path: Path) -> None:
    images = {"shot 10.png": 10, "shot 2.jpg": 2, "shot 1.png": 1}
    for name, index in images.items():
        write_image(tmp_path / name, index)
    (tmp_path / "notes.txt").write_text("no frame")
    assert numbers(read_frames(probe(tmp_path), [0, 1, 2])) == [1, 2, 10]


def test_probe_refuses_in_one_line(tmp_path: Path) -> None:
    import av

    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 44100), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 44100
        container.mux([*stream.encode(sound), *stream.encode()])
    messages = {
        "text.mp4": "Invalid data.*give a video file",
        "empty.mp4": "the file is empty",
        "sound.mp4": "no moving pictures in it, only: audio",
        "none.mp4": "no such file",
        "broken.png": "not a readable image",
        "folder": "no image in this folder",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}") as caught:
            probe(tmp_path / name)
        assert "\n" not in str(caught.value)

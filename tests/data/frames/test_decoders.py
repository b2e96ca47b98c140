"""Exact frames out of every kind of clip: each frame tells its number in bright and dark bars."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from data.frames.decoders import Decoder, decode, facts
from tests.data.frames.test_drawn_videos import barred
from tiny.world.clip import write_clip

HEIGHT = 64
WIDTH = 96
# At least two groups of pictures, except in "one_group".
COUNT = 120
BAR = WIDTH // 8


def number_on(image_HWC: np.ndarray) -> int:
    number = 0
    for bit in range(8):
        start = bit * BAR
        middle = image_HWC[20:40, start + 3 : start + BAR - 3]
        if middle.mean() > 125:
            number += 1 << bit
    return number


def write(
    path: Path,
    codec: str = "libx264",
    times: list[int] | None = None,
    **options: object,
) -> Path:
    """Write a clip of `COUNT` frames.

    Args:
        times: Times of the frames in milliseconds; by default 24 frames a second.
        options: Options of the codec; "x264" is written for "x264-params".
    """
    import av

    of_container = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=of_container) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = "yuv420p"
        for key, value in options.items():
            name = "x264-params" if key == "x264" else key
            stream.options = stream.options | {name: str(value)}
        if times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(barred(number, HEIGHT, WIDTH), format="rgb24")
            if times:
                frame.pts = times[number]
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def uneven() -> list[int]:
    steps = np.random.default_rng(0).integers(5, 200, COUNT)
    times: list[int] = steps.cumsum().tolist()
    return times


def turned(path: Path) -> Path:
    """Write a clip of a phone held sideways: the header says to turn the pictures by a quarter."""
    data = bytearray(write(path, g=12).read_bytes())
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    matrix = [0, one, 0, -one, 0, 0, HEIGHT << 16, 0, 1 << 30]
    data[at : at + 36] = np.array(matrix, ">i4").tobytes()
    path.write_bytes(data)
    return path


CLIPS: dict[str, Callable[[Path], Path]] = {
    "even": lambda folder: write(folder / "even.mp4", g=12, bf=0),
    "uneven": lambda folder: write(folder / "uneven.mp4", times=uneven(), g=12, bf=2),
    "uneven_mkv": lambda folder: write(folder / "uneven.mkv", times=uneven(), g=12, bf=2),
    "one_group": lambda folder: write(folder / "one_group.mp4", g=250, bf=2),
    "b_pyramid_open_groups": lambda folder: write(
        folder / "b.mp4", g=30, bf=3, x264="open-gop=1:b-pyramid=2"
    ),
    "mpeg4_avi": lambda folder: write(folder / "a.avi", "mpeg4", g=12),
    "vp9": lambda folder: write(folder / "v.webm", "libvpx-vp9", g=30),
    "transport_stream": lambda folder: write(folder / "t.ts", g=12, bf=2),
    "without_times": lambda folder: write(folder / "bare.h264", g=12, bf=2),
}
# decord numbers the frames of the first wrongly and does not decode the second. It is asked only
# where PyAV cannot open a file.
NOT_BY_DECORD = ("transport_stream", "without_times")


def read(
    path: Path,
    indices: list[int],
    folder: Path,
    *decoders: str,
) -> list[np.ndarray]:
    folder.mkdir(exist_ok=True)
    decode(str(path), indices, folder, decoders=decoders)
    return [np.load(folder / f"{index}.npy") for index in indices]


def numbers_of(path: Path, indices: list[int], folder: Path, *decoders: str) -> list[int]:
    return [number_on(image_HWC) for image_HWC in read(path, indices, folder, *decoders)]


@pytest.mark.parametrize("kind", CLIPS)
def test_frames_are_exact_and_counted(kind: str, tmp_path: Path) -> None:
    path = CLIPS[kind](tmp_path)
    found = facts(str(path))
    assert found["frames"] == COUNT
    assert found["height"] == HEIGHT
    assert found["width"] == WIDTH

    alone = [37]
    scattered = [0, 7, 59, 60, 61, 118, 119]
    every = list(range(COUNT))
    decoders = ["pyav"] if kind in NOT_BY_DECORD else ["pyav", "decord"]
    for decoder in decoders:
        for wanted in (alone, scattered, every):
            assert numbers_of(path, wanted, tmp_path / decoder, decoder) == wanted, decoder


def test_a_long_video_takes_no_more_than_a_short_one(tmp_path: Path) -> None:
    """Each picture once kept threads of its own, and its memory, until the process had no more."""
    path = tmp_path / "long.mp4"
    write_clip(path, seconds=10)
    decoder = Decoder("pyav", str(path), 480 * 480)
    process = psutil.Process(decoder._process.pid)
    taken: list[tuple[int, int]] = []
    for frames in (range(24), range(24, 240)):
        decoder.ask({"folder": str(tmp_path), "frames": list(frames)}, timeout_s=60)
        taken.append((process.num_threads(), process.memory_info().rss))
    decoder.close()
    (threads, bytes_before), (threads_after, bytes_after) = taken
    assert threads_after == threads
    # 216 frames more, of which a dozen may wait in the codec.
    assert bytes_after - bytes_before < 20 * 480 * 480 * 3


def test_the_rate_of_uneven_times_is_their_mean(tmp_path: Path) -> None:
    times = uneven()
    path = write(tmp_path / "uneven.mp4", times=times, g=12)
    rate = Fraction(*facts(str(path))["rate"])
    seconds = (times[-1] - times[0]) / 1000
    assert float(rate) == pytest.approx((COUNT - 1) / seconds, rel=1e-3)


def test_pictures_of_a_video_held_sideways_are_turned_upright_by_both(tmp_path: Path) -> None:
    path = turned(tmp_path / "phone.mp4")
    found = facts(str(path))
    assert found["height"] == WIDTH
    assert found["width"] == HEIGHT
    for decoder in ("pyav", "decord"):
        [image_HWC] = read(path, [37], tmp_path / decoder, decoder)
        assert number_on(np.rot90(image_HWC, 1)) == 37
        assert number_on(np.rot90(image_HWC, -1)) != 37


def test_a_truncated_video_has_the_frames_before_the_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.mp4", g=12, bf=2)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.7)])
    count = facts(str(path))["frames"]
    assert 30 < count < COUNT
    found = numbers_of(path, list(range(count)), tmp_path / "out", "pyav")
    # The cut loses B-frames between two pictures that are there; players show those two.
    assert found[:-2] == list(range(count - 2))
    assert sorted(set(found)) == found
    with pytest.raises(
        ValueError, match=r"cut\.mp4: the video stops after frame \d+ of 120 \(frame 119 was needed"
    ):
        decode(str(path), [3, 119], tmp_path / "out", num_frames=COUNT)


def test_the_next_decoder_is_asked_where_one_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.h264", g=12)
    assert numbers_of(path, [5], tmp_path / "out", "decord", "pyav") == [5]
    with pytest.raises(ValueError, match=r"bare\.h264: decord cannot decode it"):
        read(path, [6], tmp_path / "out", "decord")

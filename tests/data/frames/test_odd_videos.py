"""Files that people met: of each, the pictures that a player shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data.frames.decode_video import PyavReader
from data.frames.probing import probe
from data.frames.reading import Clip, read_frames
from data.prepare.verify import broken_frames
from tests.data.frames.heic import write_heic
from tests.data.frames.test_drawn_videos import HEIGHT, PIXELS, WIDTH, barred, plain, write

COUNT = 40


def read(path: Path, numbers: list[int]) -> list[np.ndarray]:
    reader = PyavReader(str(path), path.with_suffix(".npz"), PIXELS, PIXELS)
    given: dict[int, np.ndarray] = {}
    reader.give(numbers, given.__setitem__)
    return [given[number] for number in numbers]


def number_on(image_HWC: np.ndarray) -> int:
    """The number that a picture tells, at any size."""
    height, width = image_HWC.shape[:2]
    bars = image_HWC[height // 3 : 2 * height // 3].reshape(-1, 8, width // 8, 3)
    bright = bars.mean((0, 2, 3)) > 125
    return sum(int(one) << bit for bit, one in enumerate(bright))


def numbers_on(path: Path, numbers: list[int]) -> list[int]:
    return [number_on(image_HWC) for image_HWC in read(path, numbers)]


def x264(path: Path, count: int = COUNT, bf: str = "2") -> Path:
    write(path, "libx264", count, {"g": "12", "bf": bf, "crf": "12", "preset": "ultrafast"})
    return path


def with_matrix(path: Path, *matrix: int) -> Path:
    """Write a file with a display matrix: a, b, c, d."""
    data = bytearray(x264(path).read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (one << 16 for one in matrix)
    values = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    data[at : at + 36] = np.array(values, ">i4").tobytes()
    path.write_bytes(data)
    return path


def test_anamorphic_pictures_are_given_as_stored(tmp_path: Path) -> None:
    """Masks of a data set lie on stored pixels."""
    path = tmp_path / "wide.mp4"
    square = x264(tmp_path / "square.mp4")
    options = {"g": "12", "bf": "2", "crf": "12", "preset": "ultrafast", "x264-params": "sar=2/1"}
    write(path, "libx264", COUNT, options)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    clip = probe(path)
    assert (clip.height, clip.width) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(read(path, [5, 30]), read(square, [5, 30]))


# Matrices, and what is done to a stored picture.
SHOWN: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", SHOWN)
def test_turned_and_mirrored(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = with_matrix(tmp_path / "v.mp4", *matrix)
    expected = SHOWN[matrix](plain(path)[5])
    [image_HWC] = read(path, [5])
    np.testing.assert_array_equal(image_HWC, expected)


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_a_title_in_another_encoding(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A title!"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(9):
            frame = av.VideoFrame.from_ndarray(barred(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"A title!" in data
    path.write_bytes(data.replace(b"A title!", b"\x8c TIT\xe9 !"))
    assert numbers_on(path, [0, 8]) == [0, 8]
    assert broken_frames(probe(path)) == []


def test_the_default_stream_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for size in (16, 1):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH * 2 // size, HEIGHT, "yuv420p"
            streams.append(stream)
        preview, whole = streams
        preview.disposition = 0
        whole.disposition = av.stream.Disposition.default
        small = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, 8, 3), np.uint8), format="rgb24")
        container.mux(preview.encode(small))
        for number in range(9):
            image_HWC = barred(number).repeat(2, axis=1)
            frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
            container.mux(whole.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    video = probe(path)
    assert (video.num_frames, video.width) == (9, 2 * WIDTH)
    assert numbers_on(path, [8]) == [8]


def test_another_size_on_the_way_is_scaled_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "v.ts"
    x264(path, 20)
    with av.open(str(tmp_path / "large.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 3 * WIDTH, 3 * HEIGHT, "yuv420p"
        for number in range(20, 40):
            image_HWC = barred(number).repeat(3, axis=0).repeat(3, axis=1)
            frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open(path, "ab") as file:
        file.write((tmp_path / "large.ts").read_bytes())
    video = probe(path)
    assert (video.num_frames, video.height, video.width) == (40, HEIGHT, WIDTH)
    found = [number_on(image_HWC) for image_HWC in read_frames(video, [0, 19, 20, 39])]
    assert found == [0, 19, 20, 39]


def test_a_stream_that_starts_between_key_frames(tmp_path: Path) -> None:
    path = x264(tmp_path / "v.ts", 100)
    data = path.read_bytes()
    begin = len(data) // 188 // 9 * 188
    path.write_bytes(data[begin:])
    truth = [number_on(image_HWC) for image_HWC in plain(path)]
    assert 12 <= truth[0] < 40
    video = probe(path)
    assert video.num_frames == len(truth)
    row = [number_on(image_HWC) for image_HWC in Clip(video)[: len(truth)]]
    assert row == truth
    assert numbers_on(path, [12]) == [truth[12]]


def test_a_damaged_group_in_the_middle_leaves_the_others_readable(tmp_path: Path) -> None:
    path = x264(tmp_path / "v.mp4", 60)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for packet in packets]
    data = bytearray(path.read_bytes())
    for at, size in places[24:36]:
        data[at : at + size] = bytes(size)
    path.write_bytes(data)
    truth = [number_on(image_HWC) for image_HWC in plain(path)]
    assert truth == [*range(24), *range(36, 60)]
    assert numbers_on(path, [30]) == [42]
    assert probe(path).num_frames == 48
    [text] = broken_frames(probe(path))
    assert "v.mp4: damaged at frame 2" in text


def test_a_photo_in_tiles_is_refused_with_the_remedy(tmp_path: Path) -> None:
    photo = tmp_path / "photo.heic"
    write_heic(photo, [barred(number) for number in range(4)], 2, 2)
    with av.open(str(photo)) as container:
        assert len(container.streams.video) == 4
    with pytest.raises(ValueError, match=r"photo\.heic: .* 4 tiles, .* convert it to JPEG"):
        probe(photo)
    # Beside other pictures it would be left out.
    Image.fromarray(barred(1)).save(tmp_path / "0.jpg")
    with pytest.raises(ValueError, match=r"photo\.heic: HEIC photos .* convert them to JPEG"):
        probe(tmp_path)


def test_reading_in_a_row_goes_on_where_it_was(tmp_path: Path) -> None:
    path = x264(tmp_path / "v.ts", 100)
    reader = PyavReader(str(path), tmp_path / "index.npz", PIXELS, PIXELS)
    given: dict[int, np.ndarray] = {}
    reader.give(list(range(50)), given.__setitem__)
    # What is decoded already cannot be decoded again.
    coming = reader._coming
    reader.give(list(range(50, 100)), given.__setitem__)
    assert reader._coming is coming
    assert [number_on(image_HWC) for image_HWC in given.values()] == list(range(100))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 120 MB takes no more than one of 6 MB, to index and to read."""
    code = (
        "import sys; from pathlib import Path\n"
        "from data.frames.decode_video import PyavReader\n"
        "from tests.peak_memory import peak_bytes\n"
        "pixels = 1 << 20\n"
        "reader = PyavReader(sys.argv[1], Path(sys.argv[1] + '.npz'), pixels, pixels)\n"
        "reader.give([5], lambda number, image_HWC: None)\n"
        "print(peak_bytes())"
    )
    peaks = []
    for count in (12, 240):
        path = tmp_path / f"{count}.avi"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("rawvideo", 24)
            stream.width, stream.height, stream.pix_fmt = 480, 360, "bgr24"
            for number in range(count):
                image_HWC = np.full((360, 480, 3), number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image_HWC, format="bgr24")
                container.mux(stream.encode(frame))
        assert path.stat().st_size > count * image_HWC.size
        command = [sys.executable, "-c", code, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout))
    assert peaks[1] - peaks[0] < 16 << 20, peaks

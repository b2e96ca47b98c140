"""Files drawn at random: whatever is asked for, frame n is picture n of a plain decode.

    python -m tests.data.frames.test_drawn_videos 500

draws 500 files instead of the few of the test, and counts requests and wrong pictures.
"""

from __future__ import annotations

import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from data.frames.decode_video import PyavReader

HEIGHT = 32
WIDTH = 64
BAR = WIDTH // 8
PIXELS = 1 << 20

# Containers of a codec.
CONTAINERS = {
    "libx264": ("mp4", "mov", "mkv", "ts", "avi", "flv", "h264", "nut", "3gp"),
    "mpeg4": ("mp4", "avi", "mkv", "m4v", "nut"),
    "mpeg2video": ("mpg", "ts", "mkv", "m2v", "avi"),
    "libvpx": ("webm", "mkv", "ivf", "avi"),
    "libvpx-vp9": ("webm", "mp4", "ivf", "mkv"),
    "mjpeg": ("avi", "mov", "mkv", "mjpeg"),
    "ffv1": ("mkv", "avi"),
    "wmv2": ("asf",),
    "flv1": ("flv",),
    "gif": ("gif",),
    "rawvideo": ("avi", "nut"),
}
FORMATS = {
    "gif": "rgb8",
    "mjpeg": "yuvj420p",
    "rawvideo": "pal8",
}
DAMAGES = ("none", "none", "zeros", "noise", "cut head", "cut tail", "late edit")


def barred(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture of the eight bits of its number, left to right."""
    image_HWC = np.full((height, width, 3), 30, np.uint8)
    bar = width // 8
    for bit in range(8):
        if number >> bit & 1:
            image_HWC[:, bit * bar : (bit + 1) * bar] = 220
    return image_HWC


def grey(number: int) -> av.VideoFrame:
    """The picture of a number with a palette."""
    frame = av.VideoFrame(WIDTH, HEIGHT, "pal8")
    palette = np.arange(256, dtype=np.uint32) * 0x010101 + 0xFF000000
    rows = np.zeros((HEIGHT, frame.planes[0].line_size), np.uint8)
    rows[:, :WIDTH] = barred(number)[..., 0]
    frame.planes[0].update(rows.tobytes())
    frame.planes[1].update(palette.astype("<u4").tobytes())
    return frame


def write(path: Path, codec: str, count: int, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = FORMATS.get(codec, "yuv420p")
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(barred(number), format="rgb24")
            if codec == "rawvideo":
                frame = grey(number)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def draw_options(codec: str, draw: random.Random) -> dict[str, str]:
    options = {"g": draw.choice(["1", "5", "12", "40", "300"])}
    if codec == "libx264":
        options["preset"] = "ultrafast"
        options["crf"] = "12"
        options["bf"] = draw.choice(["0", "2", "3"])
        words = ["open-gop=1", "b-pyramid=2", "intra-refresh=1", "ref=4", "interlaced=1"]
        chosen = draw.sample(words, draw.randint(0, 2))
        if chosen:
            options["x264-params"] = ":".join(chosen)
    if codec in ("mpeg4", "mpeg2video"):
        options["bf"] = draw.choice(["0", "2"])
    if codec.startswith("libvpx"):
        options |= {"deadline": "realtime", "cpu-used": "8", "b": "400k"}
        options |= {"auto-alt-ref": "1", "lag-in-frames": draw.choice(["0", "12"])}
    return options


def damage(path: Path, kind: str, draw: random.Random) -> bool:
    """Damage a file; return whether it changed."""
    data = bytearray(path.read_bytes())
    if kind in ("zeros", "noise"):
        # At the head, or anywhere.
        start = draw.choice([draw.randrange(40, 1200), draw.randrange(len(data))])
        for place in range(start, min(start + draw.choice([4, 60, 900]), len(data))):
            data[place] = draw.randrange(256) if kind == "noise" else 0
    if kind == "cut head" and path.suffix in (".ts", ".mpg", ".h264", ".m2v", ".m4v", ".mjpeg"):
        cut = draw.randrange(len(data) // 2)
        del data[: cut - cut % 188]
    if kind == "cut tail":
        del data[draw.randrange(len(data) // 2, len(data)) :]
    place = data.find(b"elst")
    if kind == "late edit" and place > 0:
        # The file begins some pictures later: phones write so when a clip was trimmed.
        at = place + 16
        later = int.from_bytes(data[at : at + 4]) + 512 * draw.randrange(1, 20)
        data[at : at + 4] = later.to_bytes(4)
    changed = bytes(data) != path.read_bytes()
    path.write_bytes(data)
    return changed


def drawn(folder: Path, seed: int) -> tuple[Path, bool]:
    """Write a file; return whether it is damaged too."""
    draw = random.Random(seed)
    codec = draw.choice(sorted(CONTAINERS))
    suffix = draw.choice(CONTAINERS[codec])
    path = folder / f"{seed}-{codec}.{suffix}"
    write(path, codec, draw.choice([1, 2, 30, 70, 150]), draw_options(codec, draw))
    return path, damage(path, draw.choice(DAMAGES), draw)


def plain(path: Path) -> list[np.ndarray]:
    """Decode a file from the start; what cannot be decoded is skipped."""
    return [image_HWC for image_HWC, _ in plain_pictures(path)]


def plain_pictures(path: Path) -> list[tuple[np.ndarray, bool]]:
    """Return the pictures of a plain decode, and whether each is complete."""
    found: list[tuple[np.ndarray, bool]] = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.FFmpegError:
                packet = None
            try:
                for frame in stream.codec_context.decode(packet):
                    size = found[0][0].shape if found else (frame.height, frame.width)
                    image = frame.to_ndarray(format="rgb24", width=size[1], height=size[0])
                    found.append((image, not frame.is_corrupt))
            except av.FFmpegError:
                pass
            if packet is None:
                break
    return found


def is_whole(image_HWC: np.ndarray) -> bool:
    """Whether a decoded picture shows one number and nothing else."""
    if image_HWC.shape != (HEIGHT, WIDTH, 3):
        return False
    bars = image_HWC.reshape(HEIGHT, 8, BAR, 3)[:, :, 2:-2].mean(-1)
    bright = bars.mean((0, 2)) > 125
    expected = np.where(bright, 220, 30)[None, :, None]
    return bool((abs(bars - expected) < 50).all())


def requests(count: int, draw: random.Random) -> list[list[int]]:
    """Some frames alone, all in a row, sixteen even ones, a few at random."""
    every = list(range(count))
    found = [[draw.randrange(count)] for _ in range(4)]
    found += [[0], [count - 1], every]
    found += [sorted({count * i // 16 for i in range(16)})]
    found += [sorted(draw.sample(every, min(5, count))) for _ in range(2)]
    found += [every[start : start + 64] for start in range(0, count, 64)]
    return found


def wrong_pictures(path: Path, is_damaged: bool, folder: Path, seed: int) -> tuple[int, list[str]]:
    """Return how many requests were made of a file, and what was wrong."""
    draw = random.Random(seed)
    found: list[tuple[np.ndarray, bool]] = []
    with suppress(av.FFmpegError, IndexError, AttributeError):
        found = plain_pictures(path)
    truth = [image_HWC for image_HWC, _ in found]
    # The decoder fills what a cut picture lacks with whatever lies in memory, an old picture too.
    comparable = []
    for image_HWC, is_complete in found:
        comparable.append(is_whole(image_HWC) and (is_complete or not is_damaged))
    index = folder / f"{seed}.npz"
    if not truth:
        with pytest.raises((av.FFmpegError, ValueError)):
            PyavReader(str(path), index, PIXELS, PIXELS).facts()
        return 1, []

    wrong = []
    asked = requests(len(truth), draw)
    # Facts may come before everything else, or last.
    first = draw.random() < 0.5
    lasting = PyavReader(str(path), index, PIXELS, PIXELS)
    if first and lasting.facts()["frames"] != len(truth):
        wrong.append(f"{path.name}: counts {lasting.facts()['frames']}, not {len(truth)}")
    for numbers in asked:
        # A new process, with the index of the one before or without, or the same one.
        kind = draw.choice(["new", "index", "same"])
        reader = lasting
        if kind != "same":
            if kind == "new":
                index.unlink(missing_ok=True)
            reader = PyavReader(str(path), index, PIXELS, PIXELS)
        given: dict[int, np.ndarray] = {}
        reader.give(numbers, given.__setitem__)
        for number in numbers:
            if number not in given:
                wrong.append(f"{path.name}: {kind} {numbers[:3]}: no frame {number}")
                break
            apart = abs(given[number].astype(int) - truth[number]).mean()
            if apart > (2 if is_damaged else 0) and comparable[number]:
                wrong.append(f"{path.name}: {kind} {numbers[:3]}: frame {number}")
                break
    counted = lasting.facts()["frames"]
    if counted != len(truth):
        wrong.append(f"{path.name}: counts {counted}, not {len(truth)}")
    return len(asked), wrong


@pytest.mark.parametrize("seed", range(24))
def test_every_request_gives_the_pictures_of_a_plain_decode(seed: int, tmp_path: Path) -> None:
    path, is_damaged = drawn(tmp_path, seed)
    _, wrong = wrong_pictures(path, is_damaged, tmp_path, seed)
    assert not wrong


def main() -> None:
    files = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    total = 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + files):
            path, is_damaged = drawn(Path(folder), seed)
            made, wrong = wrong_pictures(path, is_damaged, Path(folder), seed)
            total += made
            failed += len(wrong)
            for text in wrong:
                print(text, flush=True)
            path.unlink()
    print(f"{files} files, {total} requests, {failed} of them wrong")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

"""Broken files of every kind, through all readers and the checks of `prepare`.

    pytest tests/data/test_broken_files.py --broken 10000

breaks that many files instead of the few of the suite. Each is one file of a small data set that
is cut, flipped, emptied, nested, huge, or something else than its name says. Whatever it is: no
process may crash or take a gigabyte, and each error is a line with the file in it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from data.bounds import allow_pixels
from data.frames.reading import read_frames
from data.load import load_samples
from data.masks import png_masks
from data.memory import bounded
from data.prepare.check import read_all
from data.prepare.tables import target_table
from data.prepare.verify import broken_masks, problems_of_video
from tests.data.fixture_files import Written
from tests.data.fixtures import FIXTURES, dump
from tests.data.frames.test_drawn_videos import CONTAINERS, HEIGHT, WIDTH, barred, write
from tests.data.readers.test_fuzz import damage
from tests.peak_memory import peak_bytes

MEMORY_MB = 512
MOST_MB = 1024
# Bytes of a huge file, which takes no room on the disk.
HUGE = 3 << 29
TEXTS = (".json", ".jsonl", ".txt", ".p")
KINDS = ("cut", "cut", "flip", "flip", "zeros", "empty", "nested", "huge", "other", "junk", "gone")

# How files of other types begin.
BEGINNINGS = (b"PK\3\4", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"null", b"[]")

CLIPS = ("mp4", "mkv", "webm", "avi", "ts", "gif", "webp", "tif", "png", "jpg")


def own_clip(suffix: str, root: Path) -> Written:
    """Write a data set of your own with one clip of a type."""
    root.mkdir(parents=True, exist_ok=True)
    place = f"v.{suffix}"
    pictures = [Image.fromarray(barred(number)) for number in range(3)]
    if suffix in ("webp", "tif"):
        pictures[0].save(root / place, save_all=True, append_images=pictures[1:])
    elif suffix in ("png", "jpg"):
        place = "v"
        (root / "v").mkdir()
        for number, picture in enumerate(pictures):
            picture.save(root / "v" / f"{number}.{suffix}")
    else:
        codec = next(codec for codec, kinds in CONTAINERS.items() if suffix in kinds)
        write(root / place, codec, 3, {"g": "2"})
    masks = root / "masks"
    masks.mkdir()
    for number in range(3):
        name = f"{number}.png" if place == "v" else f"0000{number}.png"
        Image.new("L", (WIDTH, HEIGHT), 255).save(masks / name)
    expressions = [{"exp": "a dog", "objects": ["o"]}]
    entry = {"path": place, "objects": {"o": "masks"}, "expressions": expressions}
    dump(root / "val.json", {"videos": {"v": entry}})
    return Written(root, "val", {})


SETS: dict[str, tuple[str, Callable[[Path], Written]]] = {
    **{name: (name, write_set) for name, write_set in FIXTURES.items()},
    **{f"own {suffix}": ("own", partial(own_clip, suffix)) for suffix in CLIPS},
}


# Each reading of a video file starts a decoder, which takes a second.
SLOW = ("own", *(f"own {suffix}" for suffix in CLIPS[:6]))
QUICK = tuple(name for name in SETS if name not in SLOW)


def break_file(file: Path, kind: str, dice: random.Random) -> None:
    """Break a file in place."""
    data = bytearray(file.read_bytes())
    if kind == "cut":
        del data[dice.randrange(len(data)) :]
    if kind == "flip":
        for _ in range(dice.choice([1, 1, 3, 30])):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    if kind == "zeros":
        start = dice.randrange(len(data))
        stop = min(len(data), start + dice.choice([4, 40, 4000]))
        data[start:stop] = bytes(stop - start)
    if kind == "empty":
        data = bytearray()
    if kind == "nested":
        opening = dice.choice([b"[", b'{"a":', b'{"videos":{"a":', b"("])
        data = bytearray(opening * dice.choice([70, 5000, 300_000]))
    if kind == "other":
        data = bytearray(dice.choice(BEGINNINGS))
        data += dice.randbytes(dice.choice([0, 50, 5000]))
    if kind == "junk" and file.suffix == ".json":
        # Some files have an old encoding.
        content = json.loads(data.decode("utf-8", "replace"))
        damage(content, dice)
        data = bytearray(json.dumps(content).encode())
    if kind == "huge":
        enlarge(file, data, dice)
        return
    if kind == "gone":
        file.unlink()
        # A folder of its name, or nothing.
        if dice.random() < 0.5:
            file.mkdir()
        return
    file.write_bytes(data)


def enlarge(file: Path, data: bytearray, dice: random.Random) -> None:
    """Make a file that is huge, or tells that it is."""
    if file.suffix in TEXTS and dice.random() < 0.5:
        file.write_bytes(b"[" + b"[]," * 3_000_000 + b"0]")
        return
    # Width and height of a PNG; of a JPEG, behind its mark.
    at = {".png": 16, ".jpg": data.find(b"\xff\xc0") + 5}.get(file.suffix.lower(), 0)
    if at > 5 and dice.random() < 0.7:
        size = dice.choice([60_000, 65_000])
        length = 2 if file.suffix.lower() == ".jpg" else 4
        data[at : at + 2 * length] = size.to_bytes(length) * 2
        file.write_bytes(data)
        return
    file.write_bytes(data)
    os.truncate(file, HUGE)


def mend(file: Path, data: bytes) -> None:
    if file.is_dir():
        file.rmdir()
    file.write_bytes(data)


def untold(format: str, root: Path, split: str) -> list[str]:
    """Check a set and read it; return what is wrong with the errors."""
    png_masks._masks.cache_clear()
    texts = []
    with bounded(MEMORY_MB):
        samples, found = read_all(format, str(root), split)
        texts += found
        for video, own in {sample.video.uid: sample for sample in samples}.items():
            of_video = [sample for sample in samples if sample.video.uid == video]
            problems = problems_of_video(own.video, of_video)
            texts += [problem.text for problem in problems if not problem.odd]
            for target in own.targets:
                if not broken_masks(own.video, target):
                    target_table(video, target)
    # Reading for training stops at the first error.
    try:
        for sample in load_samples(format, str(root), split, no_target="keep"):
            read_frames(sample.video, [0, sample.video.num_frames - 1])
            for target in sample.targets:
                tuple(target.masks_F)
    except ValueError as error:
        texts.append(str(error))
    wrong = []
    for text in texts:
        # Images may lie beside the root.
        if "\n" in text or str(root.parent) not in text or "cannot be checked" in text:
            wrong.append(text)
    return wrong


def files_of(root: Path) -> list[Path]:
    """Return the files of a data set that people bring."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found.append(path)
    return found


def main(count: int, seed: int) -> None:
    """Break files and check them; print a line for each fault and the figures at the end."""
    allow_pixels(1 << 22)
    faults = 0
    most = MOST_MB << 20
    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for name, (_, write_set) in SETS.items():
            written = write_set(Path(folder) / name)
            places[name] = (written, files_of(written.root))
        for number in range(seed, seed + count):
            dice = random.Random(number)
            name = dice.choice(QUICK if dice.random() < 0.96 else SLOW)
            written, files = places[name]
            file = dice.choice(files)
            data = file.read_bytes()
            kind = dice.choice(KINDS)
            what = f"{number}: {kind} {file.relative_to(folder)}"
            print(f"now {what}", flush=True)
            break_file(file, kind, dice)
            try:
                wrong = untold(SETS[name][0], written.root, written.split)
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
            peak = peak_bytes()
            if peak > most:
                wrong.append(f"{peak >> 20} MB were taken")
                most = peak
            for text in wrong:
                print(f"FAULT {what}: {text[:500]}", flush=True)
            faults += len(wrong)
            mend(file, data)
    own = peak_bytes() >> 20
    others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{count} files, {faults} faults, at most {max(own, others)} MB", flush=True)
    sys.exit(faults > 0 or max(own, others) > MOST_MB)


@pytest.fixture
def broken_count(request: pytest.FixtureRequest) -> int:
    """Number of broken files."""
    count: int = request.config.getoption("--broken")
    return count


def test_broken_files_are_told_and_nothing_else_happens(broken_count: int, tmp_path: Path) -> None:
    """In a process of its own: its death would be one of the faults."""
    command = [sys.executable, "-m", "tests.data.test_broken_files", str(broken_count)]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = run.stdout.splitlines()
    faults = [line for line in lines if line.startswith("FAULT")]
    assert run.returncode == 0, "\n".join([*faults[:20], *lines[-2:], run.stderr[-2000:]])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)

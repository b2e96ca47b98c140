"""Small files that describe something huge are refused by name, before they take memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.types import Video
from data import bounds
from data.bounds import MAX_DEPTH, ShallowStream, allow_pixels, check_nesting
from data.fields import parsed_json
from data.frames.decoders import decode, facts
from data.frames.images import image_size, num_pages
from data.frames.probing import probe
from data.frames.reading import read_frames
from data.load import load_samples
from data.masks.png_masks import PngMasks
from data.masks.rle_entries import entries_of
from data.masks.rle_index import entries
from data.prepare.check import problems
from data.prepare.verify import broken_frames
from tests.data.fixtures import FIXTURES, dump, mp4

SIDE = 13_000
DEEP = 300_000
GIGABYTE = 1 << 30


@pytest.fixture
def few_pixels() -> Any:
    """Allow pictures of 500 pixels only."""
    allow_pixels(500)
    yield
    allow_pixels(bounds.MAX_PIXELS)


def large_png(file: Path) -> None:
    """Write a picture of 20 kB that takes 507 MB as RGB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("P", (SIDE, SIDE)).save(file)


def polygons(file: Path, **changes: Any) -> None:
    """Change all annotations, or all images, of refCOCO's instances.json."""
    content = json.loads(file.read_text())
    for key, value in changes.items():
        for entry in content["annotations"] + content["images"]:
            if key in entry:
                entry[key] = value
    dump(file, content)


def grown(file: Path) -> Path:
    """Write an animation with 1.5 GB of nothing behind it, which take no room on the disk."""
    pictures = [Image.new("RGB", (96, 64), (0, number, 0)) for number in range(3)]
    pictures[0].save(file, save_all=True, append_images=pictures[1:])
    os.truncate(file, 3 << 29)
    return file


def told_by_reading(root: Path) -> list[str]:
    """Return what is said about each attack; runs in a process of its own."""
    told = []

    def attack(*call: Any) -> None:
        function, *arguments = call
        try:
            told.append(str(function(*arguments)))
        except ValueError as error:
            told.append(str(error))

    mevis = FIXTURES["mevis"](root / "mevis").root
    (mevis / "valid_u/mask_dict.json").write_text('{"7":' + '{"a":' * DEEP)
    attack(load_samples, "mevis", str(mevis), "valid_u")
    (mevis / "valid_u/meta_expressions.json").write_text("[" * DEEP + "]" * DEEP)
    attack(load_samples, "mevis", str(mevis), "valid_u")

    refcoco = FIXTURES["refcoco"](root / "coco/refcoco").root
    far = [0, 0, 1e8, 0, 1e8, 1e8, 0, 1e8]
    polygons(refcoco / "instances.json", segmentation=[far])
    attack(problems, "refcoco", str(refcoco), "val")

    large_png(root / "large/00000.png")
    attack(probe, root / "large")
    attack(read_frames, Video("v", str(root / "large"), ("00000",), 64, 96), [0])
    masks_F = PngMasks(str(root / "large"), ("00000",), 1, 64, 96)
    attack(masks_F.all)

    for suffix in ("webp", "avif"):
        attack(num_pages, grown(root / f"clip.{suffix}"))
    return told


def test_attacks_stay_below_a_gigabyte(tmp_path: Path) -> None:
    code = (
        "import json, sys, pathlib\n"
        "from tests.data.test_bounds import told_by_reading\n"
        "from tests.peak_memory import peak_bytes\n"
        "told = told_by_reading(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps([peak_bytes(), told]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, told = json.loads(done.stdout.splitlines()[-1])
    assert peak < GIGABYTE
    masks, meta, polygon, folder, frame, mask, webp, avif = told
    assert f"mask_dict.json: lists and objects lie more than {MAX_DEPTH} deep" in masks
    assert "meta_expressions.json is not JSON" in meta
    assert f"more than {MAX_DEPTH} deep" in meta
    assert "instances.json: key " in polygon
    assert '"segmentation" holds the coordinate 1e+08, far outside of its image' in polygon
    assert "00000.png: 13000 x 13000 (height x width) is more than data.max_pixels=" in folder
    assert "00000.png: 13000 x 13000 (height x width) is more than data.max_pixels=" in frame
    assert "00000.png: the mask is 13000 x 13000 (height x width), but the frames" in mask
    assert "clip.webp: 1536 MB, which a WebP or AVIF takes in memory twice" in webp
    assert "clip.avif: 1536 MB" in avif


def test_a_frame_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    Image.new("P", (300, 200)).save(tmp_path / "00000.png")
    video = Video("v", str(tmp_path), ("00000",), 64, 96)
    with pytest.raises(ValueError, match=r"frame 0 is 200 x 300 .* of the video are 64 x 96"):
        read_frames(video, [0])


def test_prepare_tells_sizes_and_decodes_nothing_larger(tmp_path: Path) -> None:
    large_png(tmp_path / "frames" / "00000.png")
    video = Video("v", str(tmp_path / "frames"), ("00000",), 0, 0)
    (text,) = broken_frames(video)
    assert "00000.png: 13000 x 13000 (height x width) is more than data.max_pixels=" in text
    (text,) = broken_frames(replace(video, height=64, width=96))
    assert "00000.png: 13000 x 13000" in text
    assert "damaged" not in text

    mp4(tmp_path / "v.mp4")
    small = Video("v", str(tmp_path / "v.mp4"), ("0",), 8, 8)
    (text,) = broken_frames(small)
    assert "v.mp4: frame 0 is 24 x 32, but the masks of the video are 8 x 8" in text


def test_pixels_allowed_by_the_setting(tmp_path: Path, few_pixels: None) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: 30 x 40 .* data.max_pixels=500: scale it down"):
        image_size(tmp_path / "a.png")
    allow_pixels(1200)
    assert image_size(tmp_path / "a.png") == (30, 40)


def test_a_large_video_is_not_decoded(tmp_path: Path, few_pixels: None) -> None:
    mp4(tmp_path / "v.mp4")
    message = r"v.mp4: pyav cannot decode it: its pictures of 24 x 32 .* data.max_pixels=500"
    with pytest.raises(ValueError, match=message):
        facts(str(tmp_path / "v.mp4"))
    with pytest.raises(ValueError, match=message):
        decode(str(tmp_path / "v.mp4"), [0], tmp_path)


@pytest.mark.parametrize(
    ("rle", "problem"),
    [
        ({"size": [100_000, 100_000], "counts": "0"}, '"size": 100000 x 100000 (height x width)'),
        ({"size": [True, 5], "counts": "5"}, '"size" is [True, 5], not [height, width]'),
        ({"size": [10**30, 5], "counts": "5"}, "is more than data.max_pixels="),
        ({"size": [5, 5], "counts": "o" * 100_000}, '"counts" cover'),
    ],
)
def test_sizes_of_run_lengths(rle: dict[str, Any], problem: str) -> None:
    assert problem in entries_of("7", [rle])[0].problem


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"segmentation": [[1, 1, 2, 2, 1, "x"]]}, "not a flat list of 2 or more points"),
        ({"segmentation": [[1, 1, 5000, 2, 1, 3]]}, "holds the coordinate 5000, far outside"),
        ({"segmentation": [[0, 0, 50, 40] * 30_000]}, "outline of 3000000 pixels"),
        ({"height": 10**9}, "1000000000 x 32 (height x width) is more than data.max_pixels="),
        ({"height": -3}, "its image is -3 x 32"),
        ({"segmentation": {"size": [24, 32], "counts": [-1, 769]}}, "not the lengths of runs"),
        ({"segmentation": {"size": [24, 32], "counts": [2**70]}}, "not the lengths of runs"),
    ],
)
def test_shapes_of_coco(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    root = FIXTURES["refcoco"](tmp_path / "refcoco").root
    polygons(root / "instances.json", **changes)
    try:
        found = [entry.problem for entry in entries(root / "instances.json", "instances").values()]
    except ValueError as error:
        # yajl itself refuses the largest numbers.
        found = [str(error)]
    assert any(problem in text or "integer overflow" in text for text in found)


def test_corners_of_reason_seg(tmp_path: Path) -> None:
    root = FIXTURES["reasonseg"](tmp_path).root
    file = min((root / "val").glob("*.json"))
    content = json.loads(file.read_text("cp1252"))
    content["shapes"][0]["points"][0] = [1e8, 3]
    dump(file, content)
    with pytest.raises(ValueError, match=r'shape 0: "points" holds the coordinate 1e\+08'):
        load_samples("reasonseg", str(root), "val")


@pytest.mark.parametrize("text", ["NaN", "[1, -Infinity]", "1" * 5000, "[" * 70 + "]" * 70])
def test_numbers_and_depth_that_json_does_not_have(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|4300 digits|more than 64 deep"):
        parsed_json(text.encode())


TEXTS = st.text(st.sampled_from('[]{}"\\a/'), max_size=12)
VALUES = st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(VALUES, st.integers(1, 9))
@settings(deadline=None)
def test_brackets_in_texts_are_no_depth(value: Any, block: int) -> None:
    """Whatever the texts hold, and wherever a block cuts them."""
    raw = json.dumps(value).encode()
    deepest = MAX_DEPTH - depth_of(value)
    check_nesting(b"[" * deepest + raw + b"]" * deepest, "x")
    if depth_of(value):
        with pytest.raises(ValueError, match="deep"):
            check_nesting(b"[" * (deepest + 1) + raw, "x")

    # In blocks: never deeper than in one.
    stream = ShallowStream("x", BytesIO(raw))
    while stream.read(block):
        assert 0 <= stream.depth <= depth_of(value)
    assert stream.depth == 0

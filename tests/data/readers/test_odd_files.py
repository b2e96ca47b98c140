"""JSON files and annotations as editors and other tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base
from pycocotools import mask as coco

from data.fields import chinese_or_western, load_json
from data.frames.reading import read_frames
from data.load import load_samples
from data.masks.rle_entries import entries_of
from data.masks.rle_index import RleMasks, entries
from data.prepare.check import problems
from tests.data.fixtures import FIXTURES

HEIGHT = 40
WIDTH = 60
POLYGON = [5.0, 5, 20, 5, 20, 20, 5, 20]
LINE = [30.0, 10, 50, 30]
ORIENTATION = Base.Orientation


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_an_encoding(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": "é[物体"}', encoding)
    assert load_json(file) == {"a": "é[物体"}


@pytest.mark.parametrize("name", ["mevis", "refcoco", "reasonseg"])
def test_readers_read_behind_a_mark(name: str, tmp_path: Path) -> None:
    fixture = FIXTURES[name](tmp_path / "set/one")
    split = {"mevis": "valid_u", "refcoco": "val", "reasonseg": "val"}[name]
    before = load_samples(name, str(fixture.root), split)
    for file in fixture.root.rglob("*.json"):
        raw = file.read_bytes()
        # Some fixtures are in cp1252, where no mark is written.
        if raw.isascii():
            file.write_bytes(b"\xef\xbb\xbf" + raw)
    after = load_samples(name, str(fixture.root), split)
    assert [sample.query for sample in after] == [sample.query for sample in before]
    for sample in after:
        for target in sample.targets:
            assert tuple(target.masks_F)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("the dog\u2019s bowl \u2013 \u201cold\u201d", "cp1252"),
        ("café, naïve, créée", "cp1252"),
        ("哪个物体最重", "gb18030"),
        ("the 物体 here, 最重", "gb18030"),
    ],
)
def test_old_encodings_are_told_apart(text: str, encoding: str) -> None:
    assert chinese_or_western(text.encode(encoding)) == encoding


def test_a_text_of_any_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    # Pairs beyond those of everyday characters.
    file.write_bytes(b'{"a": "' + b"\x81\x82\x83\x84" + b'"}')
    with pytest.raises(
        ValueError, match=r"a\.json: its text is .* GBK or cp1252: save it as UTF-8"
    ):
        load_json(file, old_encodings=True)


def test_uncompressed_runs_are_taken_everywhere() -> None:
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[5:20, 10:30] = 1
    runs = [405]
    for _ in range(19):
        runs += [15, 25]
    runs += [15, HEIGHT * WIDTH - 405 - 15 * 20 - 25 * 19]
    entry, counts_F = entries_of("7", [{"size": [HEIGHT, WIDTH], "counts": runs}, None])
    assert not entry.problem
    expected = coco.encode(np.asfortranarray(mask_HW))["counts"].decode()
    assert counts_F == [expected, None]
    entry, _ = entries_of("7", [{"size": [HEIGHT, WIDTH], "counts": [3, 4]}])
    assert "not the lengths of runs that fill 2400 pixels" in entry.problem


@pytest.mark.parametrize("size", [[HEIGHT, WIDTH], [float(HEIGHT), float(WIDTH)]])
def test_whole_sizes_may_be_written_as_floats(size: list[float]) -> None:
    mask_HW = np.ones((HEIGHT, WIDTH), np.uint8)
    counts = coco.encode(np.asfortranarray(mask_HW))["counts"].decode()
    entry, counts_F = entries_of("7", [{"size": size, "counts": counts}])
    assert not entry.problem
    assert (entry.height, entry.width) == (HEIGHT, WIDTH)
    assert counts_F == [counts]


@pytest.mark.parametrize("height", [40.5, float("nan"), float("inf"), "40", True])
def test_other_sizes_are_refused(height: Any) -> None:
    entry, _ = entries_of("7", [{"size": [height, WIDTH], "counts": [HEIGHT * WIDTH]}])
    assert "not [height, width]" in entry.problem


def test_numbers_of_coco_may_be_written_as_floats(tmp_path: Path) -> None:
    file = instances(tmp_path / "instances.json", [POLYGON])
    text = file.read_text()
    floats = text.replace(f": {HEIGHT}", f": {HEIGHT}.0").replace('"id": 1,', '"id": 1.0,')
    floats = floats.replace('"image_id": 3', '"image_id": 3.0')
    assert floats.count(".0,") == text.count(".0,") + 3
    before = entries(file, "instances")
    file.write_text(floats)
    assert entries(file, "instances") == before


def instances(file: Path, segmentation: Any) -> Path:
    annotation = {"id": 1, "image_id": 3, "segmentation": segmentation}
    images = [{"id": 3, "height": HEIGHT, "width": WIDTH}]
    file.write_text(json.dumps({"images": images, "annotations": [annotation]}))
    return file


@pytest.mark.parametrize("segmentation", [[POLYGON, LINE], [POLYGON, LINE, LINE], [POLYGON]])
def test_lines_are_drawn_as_by_coco(segmentation: list[list[float]], tmp_path: Path) -> None:
    file = instances(tmp_path / "instances.json", segmentation)
    [found] = RleMasks(str(file), "1", "instances", 1)
    expected = coco.merge(coco.frPyObjects(segmentation, HEIGHT, WIDTH))
    assert found is not None
    assert found["counts"] == expected["counts"].decode()


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ([LINE, POLYGON], "begins with four numbers"),
        ([LINE], "begins with four numbers"),
        ([[1e8, 1, 2, 3, 4, 5]], "holds the coordinate 1e+08, far outside"),
        ([[1, 2]], "not a flat list of 2 or more points"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    segmentation: list[list[float]], problem: str, tmp_path: Path
) -> None:
    file = instances(tmp_path / "instances.json", segmentation)
    [entry] = entries(file, "instances").values()
    assert "key '1'" in entry.problem
    assert problem in entry.problem


def test_files_of_macos_are_no_data(tmp_path: Path) -> None:
    fixture = FIXTURES["reasonseg"](tmp_path)
    before = load_samples("reasonseg", str(fixture.root), "val")
    for file in list((fixture.root / "val").iterdir()):
        file.with_name("._" + file.name).write_bytes(b"\0\5\x16\7")
    assert load_samples("reasonseg", str(fixture.root), "val") == before
    assert problems("reasonseg", str(fixture.root), "val") == []


def test_frames_in_capitals(tmp_path: Path) -> None:
    fixture = FIXTURES["mevis"](tmp_path)
    for file in list(fixture.root.rglob("*.jpg")):
        file.rename(file.with_suffix(".JPG"))
    assert load_samples("mevis", str(fixture.root), "valid_u")
    assert problems("mevis", str(fixture.root), "valid_u") == []


def test_a_turned_photo_of_coco_is_told(tmp_path: Path) -> None:
    """COCO's file has the size of the stored picture, and viewers turn it."""
    written = FIXTURES["refcoco"](tmp_path)
    folder = written.root.parent / "images/mscoco/images/train2014"
    file = folder / "COCO_train2014_000000000009.jpg"
    with Image.open(file) as image:
        stored = image.size
        exif = image.getexif()
        exif[ORIENTATION] = 6
        image.save(file, exif=exif)
    samples = load_samples("refcoco", str(written.root), written.split)
    [turned] = [sample for sample in samples if sample.query == "left bowl"]
    width, height = stored
    with pytest.raises(ValueError, match=f"is {width} x {height} .* are {height} x {width}"):
        read_frames(turned.video, [0])
    [told] = problems("refcoco", str(written.root), written.split)
    assert file.name in told

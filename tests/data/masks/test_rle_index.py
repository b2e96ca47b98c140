"""The index of a JSON file with masks: its content, its renewal, and the bound on memory."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import masks
from core.types import Rle
from data.masks.rle_entries import Entry, entries_of, pixels_covered
from data.masks.rle_index import ENDING, RleMasks, entries


def rle(x0: int, height: int = 6, width: int = 8) -> Rle:
    mask_HW = np.zeros((height, width), bool)
    mask_HW[1:4, x0:] = True
    return masks.encode(mask_HW)


def write(file: Path, content: Any) -> Path:
    file.write_text(json.dumps(content))
    return file


def test_masks_are_those_of_the_file(tmp_path: Path) -> None:
    content = {
        "7": [rle(1), None, rle(3)],
        "8": [None],
        "9": [],
    }
    file = write(tmp_path / "mask_dict.json", content)
    seven = RleMasks(str(file), "7", "mask_dict", 3)
    assert tuple(seven) == (rle(1), None, rle(3))
    assert seven == (rle(1), None, rle(3))
    assert seven[0] == rle(1)
    assert seven[1:] == (None, rle(3))
    assert len(seven) == 3
    assert seven != (rle(1), None, rle(2))
    assert entries(file, "mask_dict") == {
        "7": Entry(num_frames=3, num_masks=2, height=6, width=8, problem=""),
        "8": Entry(num_frames=1, num_masks=0, height=0, width=0, problem=""),
        "9": Entry(num_frames=0, num_masks=0, height=0, width=0, problem=""),
    }


def test_they_travel_as_file_and_key(tmp_path: Path) -> None:
    file = write(tmp_path / "mask_dict.json", {"7": [rle(x % 8) for x in range(500)]})
    seven = RleMasks(str(file), "7", "mask_dict", 500)
    packed = pickle.dumps(seven)
    assert len(packed) < 400
    assert pickle.loads(packed) == seven


def test_index_is_made_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    file = write(tmp_path / "mask_dict.json", {"7": [rle(1)]})
    entries(file, "mask_dict")
    place = file.with_name(file.name + ENDING)
    assert sorted(tmp_path.iterdir()) == [file, place]
    before = place.stat()
    assert entries(file, "mask_dict")["7"].num_frames == 1
    assert place.stat() == before
    held = RleMasks(str(file), "7", "mask_dict", 1)
    assert held[0] == rle(1)
    write(file, {"7": [rle(2), rle(3)]})
    changed = RleMasks(str(file), "7", "mask_dict", 2)
    assert tuple(changed) == (rle(2), rle(3))
    message = "mask_dict.json: key '7' has changed since the data set was read"
    with pytest.raises(ValueError, match=message):
        held[0]
    write(file, {"8": [rle(2)]})
    with pytest.raises(ValueError, match="key '7' has gone"):
        held[0]
    file.unlink()
    with pytest.raises(ValueError, match="mask_dict.json is missing"):
        held[0]


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "mask_dict.json", {"7": [rle(1)]})
    (tmp_path / "mask_dict.json.index.sqlite").write_text("not a data base" * 100)
    held = RleMasks(str(file), "7", "mask_dict", 1)
    assert tuple(held) == (rle(1),)


def test_read_only_data_set_is_indexed_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mask_dict.json", {"7": [rle(1)]})
    real_access = os.access

    def access(path: Path, mode: int) -> bool:
        return Path(path) != tmp_path and real_access(path, mode)

    # Root may write everywhere, so the answer is faked.
    monkeypatch.setattr(os, "access", access)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries(file, "mask_dict")
    assert not file.with_name(file.name + ENDING).exists()
    [place] = (tmp_path / "cache" / "rayvos").iterdir()
    assert place.name.endswith(ENDING)
    held = RleMasks(str(file), "7", "mask_dict", 1)
    assert tuple(held) == (rle(1),)


def test_many_may_index_at_once(tmp_path: Path) -> None:
    content = {str(i): [rle(i % 8)] * 20 for i in range(200)}
    file = write(tmp_path / "mask_dict.json", content)

    def read_one(i: int) -> Rle | None:
        masks_F = RleMasks(str(file), str(i), "mask_dict", 20)
        return masks_F[i % 20]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_one, range(200)))
    assert found == [rle(i % 8) for i in range(200)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mask_dict.json",
        "mask_dict.json.index.sqlite",
    ]


def test_foreground_of_revos(tmp_path: Path) -> None:
    video = {"masks_rle": [rle(1), None], "foreground_ratio": [0.4, 0.0]}
    file = write(tmp_path / "f.json", {"UVO/all/a": video})
    held = RleMasks(str(file), "UVO/all/a", "foreground", 2)
    assert tuple(held) == (rle(1), None)


def test_polygons_of_coco(tmp_path: Path) -> None:
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    corner = [0, 4, 2, 4, 2, 6, 0, 6]
    crowd_rle = {"size": [6, 8], "counts": [12, 6, 30]}
    found = {
        "images": [{"id": 3, "height": 6, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 3, "segmentation": [square, corner]},
            {"id": 2, "image_id": 3, "segmentation": crowd_rle, "iscrowd": 1},
            {"id": 4, "image_id": 3, "segmentation": []},
            {"id": 5, "image_id": 9, "segmentation": [square]},
            {"id": 6, "image_id": 3, "segmentation": [[1, 2]]},
        ],
    }
    file = write(tmp_path / "instances.json", found)
    mask_HW = np.zeros((6, 8), bool)
    mask_HW[1:4, 2:6] = True
    mask_HW[4:, :2] = True
    first = RleMasks(str(file), "1", "instances", 1)[0]
    crowd = RleMasks(str(file), "2", "instances", 1)[0]
    assert first is not None
    assert (masks.decode(first) == mask_HW).all()
    assert crowd is not None
    assert masks.decode(crowd)[:, 2].all()
    assert masks.area(crowd) == 6
    assert RleMasks(str(file), "4", "instances", 1) == (None,)
    held = entries(file, "instances")
    assert '"image_id" is 9, which' in held["5"].problem
    assert "not a flat list of 2" in held["6"].problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "mask_dict.json is empty: it is not JSON"),
        ("[1]", r"mask_dict.json begins with '\[', not with '\{'"),
        ('{"7": [{"size": [6, 8], "cou', "mask_dict.json is not JSON .*download it again"),
        ('{"7": []} more', "mask_dict.json is not JSON"),
    ],
)
def test_a_broken_file_is_one_error_and_no_index(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "mask_dict.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        entries(file, "mask_dict")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        ({"size": 5}, "key '7' is a dict, not a list"),
        ([None, {"size": [6, 8]}], "key '7': frame 1: key \"counts\" is missing"),
        ([{"size": [6], "counts": "a"}], "key '7': frame 0: \"size\" is [6], not [height, width]"),
        (
            [rle(1), rle(1, 6, 9)],
            "key '7': frame 1: \"size\" is 6 x 9, but that of most frames 6 x 8",
        ),
        (
            [None, {**rle(1), "size": [6, 9]}],
            '"counts" cover 48 pixels, but "size" is 6 x 9 (height x width) = 54',
        ),
        ([{**rle(1), "counts": rle(1)["counts"][:-1]}], '"counts" cover'),
        ([{**rle(1), "counts": ""}], '"counts" cover 0 pixels'),
    ],
)
def test_a_wrong_annotation_says_what_is_wrong(annotation: Any, problem: str) -> None:
    assert problem in entries_of("7", annotation)[0].problem


SIDES = st.integers(1, 90)
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES, SEEDS), min_size=1, max_size=4))
def test_pixels_covered_are_those_of_the_mask(shapes: list[tuple[int, int, int]]) -> None:
    counts = []
    sizes = []
    for height, width, seed in shapes:
        noise_HW = np.random.default_rng(seed).random((height, width))
        mask_HW = noise_HW > seed % 5 / 4
        counts.append(masks.encode(mask_HW)["counts"])
        sizes.append(mask_HW.size)
    assert pixels_covered(counts).tolist() == sizes


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A process grows by less than 25 MB while it indexes a file of 40 MB."""
    file = tmp_path / "mask_dict.json"
    noise = np.random.default_rng(0).random((120, 160)) > 0.5
    one = json.dumps([masks.encode(noise)] * 10)
    wanted = 40_000_000 // len(one)
    with open(file, "w") as stream:
        stream.write("{")
        stream.write(",".join(f'"{i}":{one}' for i in range(wanted)))
        stream.write("}")
    code = (
        "import sys; from pathlib import Path; from data.masks.rle_index import entries\n"
        "from tests.peak_memory import peak_bytes\n"
        "before = peak_bytes(); found = entries(Path(sys.argv[1]), 'mask_dict')\n"
        "print(len(found), peak_bytes() - before)"
    )
    command = [sys.executable, "-c", code, str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    count, grown = map(int, run.stdout.split())
    assert count == wanted
    assert file.stat().st_size > 39_000_000
    assert grown < 25 << 20, f"it grew by {grown}"

"""The index of a JSON file with masks: what it holds, when it is made anew, and that memory stays bounded."""

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
from data.masks.rle_entries import entries_of, pixels_covered
from data.masks.rle_index import ENDING, RleMasks, entries


def rle(x0: int, height: int = 6, width: int = 8) -> Rle:
    mask_HW = np.zeros((height, width), bool)
    mask_HW[1:4, x0:] = True
    return masks.encode(mask_HW)


def write(file: Path, content: Any) -> Path:
    file.write_text(json.dumps(content))
    return file


def test_masks_are_those_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "mask_dict.json", {"7": [rle(1), None, rle(3)], "8": [None], "9": []})
    seven = RleMasks(str(file), "7", "mask_dict", 3)
    assert tuple(seven) == (rle(1), None, rle(3)) == seven
    assert seven[0] == rle(1)
    assert seven[1:] == (None, rle(3))
    assert len(seven) == 3
    assert seven != (rle(1), None, rle(2))
    found = entries(file, "mask_dict")
    assert {
        key: (e.num_frames, e.num_masks, e.height, e.width, e.problem) for key, e in found.items()
    } == {
        "7": (3, 2, 6, 8, ""),
        "8": (1, 0, 0, 0, ""),
        "9": (0, 0, 0, 0, ""),
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
    assert tuple(RleMasks(str(file), "7", "mask_dict", 2)) == (rle(2), rle(3))
    with pytest.raises(
        ValueError, match="mask_dict.json: key '7' has changed since the data set was read"
    ):
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
    assert tuple(RleMasks(str(file), "7", "mask_dict", 1)) == (rle(1),)


def test_read_only_data_set_is_indexed_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mask_dict.json", {"7": [rle(1)]})
    may = os.access
    # Root may write everywhere, so the answer is faked.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and may(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries(file, "mask_dict")
    assert not file.with_name(file.name + ENDING).exists()
    [place] = (tmp_path / "cache" / "rayvos").iterdir()
    assert place.name.endswith(ENDING)
    assert tuple(RleMasks(str(file), "7", "mask_dict", 1)) == (rle(1),)


def test_many_may_index_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "mask_dict.json", {str(i): [rle(i % 8)] * 20 for i in range(200)})
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda i: RleMasks(str(file), str(i), "mask_dict", 20)[i % 20], range(200))
        )
    assert found == [rle(i % 8) for i in range(200)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mask_dict.json",
        "mask_dict.json.index.sqlite",
    ]


def test_foreground_of_revos(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.json",
        {"UVO/all/a": {"masks_rle": [rle(1), None], "foreground_ratio": [0.4, 0.0]}},
    )
    assert tuple(RleMasks(str(file), "UVO/all/a", "foreground", 2)) == (rle(1), None)


def test_polygons_of_coco(tmp_path: Path) -> None:
    square = [2, 1, 6, 1, 6, 4, 2, 4]
    found = {
        "images": [{"id": 3, "height": 6, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 3, "segmentation": [square, [0, 4, 2, 4, 2, 6, 0, 6]]},
            {
                "id": 2,
                "image_id": 3,
                "segmentation": {"size": [6, 8], "counts": [12, 6, 30]},
                "iscrowd": 1,
            },
            {"id": 4, "image_id": 3, "segmentation": []},
            {"id": 5, "image_id": 9, "segmentation": [square]},
            {"id": 6, "image_id": 3, "segmentation": [[1, 2]]},
        ],
    }
    file = write(tmp_path / "instances.json", found)
    mask_HW = np.zeros((6, 8), bool)
    mask_HW[1:4, 2:6] = mask_HW[4:, :2] = True
    first, crowd = (RleMasks(str(file), key, "instances", 1)[0] for key in "12")
    assert first is not None
    assert (masks.decode(first) == mask_HW).all()
    assert crowd is not None
    assert masks.decode(crowd)[:, 2].all()
    assert masks.area(crowd) == 6
    assert RleMasks(str(file), "4", "instances", 1) == (None,)
    held = entries(file, "instances")
    assert '"image_id" is 9, which' in held["5"].problem
    assert "not a flat list of 3" in held["6"].problem


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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1)),
        min_size=1,
        max_size=4,
    )
)
def test_pixels_covered_are_those_of_the_mask(shapes: list[tuple[int, int, int]]) -> None:
    drawn = [np.random.default_rng(seed).random((h, w)) > seed % 5 / 4 for h, w, seed in shapes]
    assert pixels_covered([masks.encode(d)["counts"] for d in drawn]).tolist() == [
        d.size for d in drawn
    ]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 40 MB is indexed by a process that grows by less than 25 MB meanwhile."""
    file = tmp_path / "mask_dict.json"
    noise = np.random.default_rng(0).random((120, 160)) > 0.5
    one = json.dumps([masks.encode(noise)] * 10)
    with open(file, "w") as stream:
        stream.write("{" + ",".join(f'"{i}":' + one for i in range(40_000_000 // len(one))) + "}")
    code = (
        "import resource, sys; from pathlib import Path; from data.masks.rle_index import entries\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = used(); found = entries(Path(sys.argv[1]), 'mask_dict'); print(len(found), used() - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    count, grown = map(int, run.stdout.split())
    assert count == 40_000_000 // len(one)
    assert file.stat().st_size > 39_000_000
    assert grown < (25 << 20 if sys.platform == "darwin" else 25 << 10), f"it grew by {grown}"

"""The MeViS reader on small data sets written by hand, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core import masks
from core.types import Notes
from data.load import load_samples
from data.readers.mevis import read_mevis

HEIGHT = 6
WIDTH = 8
FRAMES = 3
NAMES = [f"{5 * i:05d}" for i in range(FRAMES)]


def mask(
    x0: int,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> dict[str, Any]:
    mask_HW = np.zeros((height, width), bool)
    mask_HW[1:4, x0:] = True
    return dict(masks.encode(mask_HW))


def meta() -> dict[str, Any]:
    expressions = {
        "0": {
            "exp": "the left one",
            "obj_id": [0],
            "anno_id": [10],
            "kind": "place",
            "thought": "it is left",
        },
        "1": {
            "exp": "both",
            "obj_id": ["0", "1"],
            "anno_id": ["10", "11"],
            "names": ["red", "blue"],
        },
        "2": {"exp": "the green one", "obj_id": [], "anno_id": []},
    }
    hidden = {"a": {"exp": "not public"}, "b": {"exp": "one number", "anno_id": 12}}
    return {
        "videos": {
            "v1": {"vid_id": 0, "frames": list(NAMES), "expressions": expressions},
            "sub/v2": {"frames": list(NAMES), "expressions": hidden},
        }
    }


def mask_dict() -> dict[str, Any]:
    return {
        "10": [mask(1), None, mask(3)],
        "11": [None, None, mask(7)],
        "12": [None] * FRAMES,
        "99": "unused",
    }


def write(root: Path, meta: Any, mask_dict: Any = None) -> Path:
    folder = root / "train"
    for uid in ("v1", "sub/v2"):
        (folder / "JPEGImages" / uid).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            file = folder / "JPEGImages" / uid / f"{name}.jpg"
            cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text = meta if isinstance(meta, str) else json.dumps(meta)
    (folder / "meta_expressions.json").write_text(text)
    if mask_dict is not None:
        (folder / "mask_dict.json").write_text(json.dumps(mask_dict))
    return root


def test_reads_every_expression(tmp_path: Path) -> None:
    samples = read_mevis(write(tmp_path, meta(), mask_dict()), "train")
    assert [sample.uid for sample in samples] == ["v1/0", "v1/1", "v1/2", "sub/v2/a", "sub/v2/b"]
    one, both, nothing, hidden, number = samples
    assert one.query == "the left one"
    assert one.kind == "place"
    assert one.notes == Notes(thought="it is left")
    assert both.kind == ""
    assert both.notes == Notes(names=("red", "blue"))
    assert [target.uid for target in both.targets] == ["10", "11"]
    assert nothing.targets == ()
    assert hidden.targets == ()
    assert number.targets[0].masks_F == (None,) * FRAMES
    video = one.video
    assert video.uid == "v1"
    assert video.frame_names == tuple(NAMES)
    assert (video.height, video.width) == (HEIGHT, WIDTH)
    assert video.path == str(tmp_path / "train/JPEGImages/v1")
    assert both.video is video
    assert hidden.video.uid == "sub/v2"
    # The size comes from the first frame, because no mask tells it.
    assert (hidden.video.height, hidden.video.width) == (HEIGHT, WIDTH)


def test_masks_are_those_written_and_shared(tmp_path: Path) -> None:
    read = read_mevis(write(tmp_path, meta(), mask_dict()), "train")
    samples = {sample.uid: sample for sample in read}
    assert samples["v1/0"].targets[0] is samples["v1/1"].targets[0]
    boxes_F4, areas_F = masks.boxes_areas(samples["v1/1"])
    no_box = [0, 0, 0, 0]
    assert boxes_F4.tolist() == [[1, 1, 8, 4], no_box, [3, 1, 8, 4]]
    assert areas_F.tolist() == [21, 0, 15]


def test_video_files(tmp_path: Path) -> None:
    write(tmp_path, meta(), mask_dict())
    (tmp_path / "train/Videos").mkdir()
    (tmp_path / "train/JPEGImages/v1").rename(tmp_path / "unused")
    (tmp_path / "train/Videos/v1.mp4").touch()
    samples = read_mevis(tmp_path, "train")
    assert samples[0].video.path == str(tmp_path / "train/Videos/v1.mp4")


def test_a_split_without_ground_truth_needs_no_masks(tmp_path: Path) -> None:
    hidden = meta()
    for video in hidden["videos"].values():
        video["expressions"] = {"0": {"exp": "the left one"}}
    write(tmp_path, hidden)
    assert [sample.targets for sample in read_mevis(tmp_path, "train")] == [(), ()]
    with pytest.raises(
        ValueError, match="truth of all 2 expressions is not public.*data.no_target=keep"
    ):
        load_samples("mevis", str(tmp_path), "train")
    assert len(load_samples("mevis", str(tmp_path), "train", no_target="keep")) == 2


def broken(change: str) -> tuple[Any, Any]:
    """Return the two JSON files of a data set with one error."""
    good = meta()
    stored = mask_dict()
    expressions = good["videos"]["v1"]["expressions"]
    if change == "json":
        return '{"videos": {', stored
    if change == "list":
        return [1], stored
    if change == "videos":
        return {"video": {}}, stored
    if change == "frames":
        del good["videos"]["v1"]["frames"]
    if change == "no frames":
        good["videos"]["v1"]["frames"] = []
    if change == "expressions":
        good["videos"]["v1"]["expressions"] = ["the left one"]
    if change == "exp":
        del expressions["1"]["exp"]
    if change == "exp number":
        expressions["1"]["exp"] = 5
    if change == "expression":
        expressions["1"] = "the left one"
    if change == "anno":
        expressions["1"]["anno_id"] = [10, 13]
    if change == "masks":
        return good, None
    if change == "count":
        stored["11"].pop()
    if change == "mask":
        stored["11"] = {"size": 5}
    if change == "rle":
        stored["11"][2] = {"size": [HEIGHT, WIDTH]}
    if change == "size":
        stored["11"][2] = mask(2, HEIGHT, WIDTH + 1)
    if change == "size value":
        stored["11"][2]["size"] = [HEIGHT]
    if change == "counts":
        stored["11"][2]["counts"] = [3, 5, 41]
    if change == "folder":
        good["videos"]["v3"] = good["videos"]["v1"]
    return good, stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("json", r"meta_expressions\.json is not JSON .*download it again"),
        ("list", r"meta_expressions\.json holds a list"),
        ("videos", r'meta_expressions\.json: key "videos" is missing'),
        ("frames", r"meta_expressions\.json: video 'v1': key \"frames\" is missing"),
        ("no frames", r"meta_expressions\.json: video 'v1': \"frames\" is empty"),
        ("expressions", r"video 'v1': \"expressions\" is \['the left one'\], not a dict"),
        ("exp", r"video 'v1': expression '1': key \"exp\" is missing"),
        ("exp number", r"expression '1': \"exp\" is 5, not a str"),
        ("expression", r"expression '1': key \"exp\" is missing"),
        ("anno", r"expression '1' names annotation '13', which .*mask_dict\.json does not hold"),
        ("masks", r"expression '0' names annotation '10', but .*mask_dict\.json is missing"),
        (
            "count",
            r"mask_dict\.json: key '11' holds 2 masks, but .*'v1': expression '1' has 3 frames",
        ),
        ("mask", r"mask_dict\.json: key '11' is a dict, not a list"),
        ("rle", r"mask_dict\.json: key '11': frame 2: key \"counts\" is missing"),
        (
            "size",
            r"expression '1': masks of annotation '11' in .*mask_dict\.json "
            r"have \"size\" 6 x 9 .* masks 6 x 8",
        ),
        ("size value", r"key '11': frame 2: \"size\" is \[6\], not \[height, width\]"),
        ("counts", r"key '11': frame 2: \"counts\" is \[3, 5, 41\], which are not the lengths"),
        (
            "folder",
            r"video 'v3' is listed, but there is neither .*JPEGImages/v3/ nor .*Videos/v3\.mp4",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mevis(write(tmp_path, *broken(change)), "train")


def test_the_cases_above_are_changes_of_a_right_data_set(tmp_path: Path) -> None:
    assert len(read_mevis(write(tmp_path, *broken("nothing")), "train")) == 5


def test_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere/train: no such folder; .*: none"):
        read_mevis(tmp_path / "nowhere", "train")
    write(tmp_path, meta(), mask_dict())
    with pytest.raises(ValueError, match="/valid: no such folder; splits under .*: train"):
        read_mevis(tmp_path, "valid")
    (tmp_path / "train/meta_expressions.json").unlink()
    with pytest.raises(ValueError, match=r"meta_expressions\.json is missing"):
        read_mevis(tmp_path, "train")


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "set", meta(), mask_dict())
    monkeypatch.chdir(tmp_path)
    samples = load_samples("mevis", "set", "train")
    assert [sample.uid for sample in samples] == ["v1/0", "v1/1", "sub/v2/b"]
    assert Path(samples[0].video.path).is_absolute()
    assert len(load_samples("mevis", "set", "train", no_target="keep")) == 5
    with pytest.raises(ValueError, match="unknown format 'coco'; known: mevis"):
        load_samples("coco", "set", "train")
    with pytest.raises(ValueError, match="data.no_target: 'drop' is not one of skip, keep"):
        load_samples("mevis", "set", "train", no_target="drop")

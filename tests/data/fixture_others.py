"""Small data sets of images, the lists of VideoSEG-O3, and your own data."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from core.masks import encode
from tests.data.fixture_files import (
    HEIGHT,
    NAMES,
    WIDTH,
    Expected,
    Written,
    blob,
    dump,
    images,
    mp4,
    object_pngs,
    rles,
)


def _square(x: int, y: int, side: int) -> list[list[float]]:
    right = x + side - 1
    bottom = y + side - 1
    return [[x + 0.4, y], [right, y], [right, bottom], [x, bottom]]


def _filled(x: int, y: int, side: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[y : y + side, x : x + side] = True
    return mask_HW


def reasonseg(root: Path) -> Written:
    """Polygons in any order, ignored pixels, a flag, and a file in cp1252."""
    folder = root / "val"
    images(folder, ("200_0", "77_b"))
    shapes = [
        # This one is small, and so drawn over the ignored region.
        {"label": "target", "points": _square(4, 4, 5)},
        {"label": "Ignore_1", "points": _square(2, 2, 12)},
        {"label": "target", "points": _square(20, 8, 6)},
        {"label": "flag", "points": _square(0, 0, 20)},
    ]
    first = {
        "text": ["something for caf\xe9s", "another way to say it"],
        "is_sentence": True,
        "shapes": shapes,
    }
    text = json.dumps(first, ensure_ascii=False)
    (folder / "200_0.json").write_bytes(text.encode("cp1252"))
    second = {
        "text": ["lid"],
        "is_sentence": False,
        "shapes": [{"label": "target", "points": _square(10, 3, 9)}],
    }
    dump(folder / "77_b.json", second)
    ignore = _filled(2, 2, 12) & ~_filled(4, 4, 5)
    target = _filled(4, 4, 5) | _filled(20, 8, 6)
    return Written(
        root,
        "val",
        {
            "200_0/0": Expected(
                "something for caf\xe9s", "long", target[None], {"ignore_F": (encode(ignore),)}
            ),
            "77_b/0": Expected("lid", "short", _filled(10, 3, 9)[None]),
        },
    )


def refcoco(root: Path) -> Written:
    """A pickle, polygons in COCO's file, and file names unlike those of the images."""
    folder = root / "refcoco"
    stems = [f"COCO_train2014_{number:012d}" for number in (581857, 9)]
    images(root / "images/mscoco/images/train2014", stems)
    folder.mkdir()
    refs = [
        _ref(7, 1, 581857, "testA", ["the lady with the blue shirt", "lady"]),
        _ref(8, 2, 9, "val", ["caf\xe9 sign"]),
        _ref(9, 3, 9, "testB", ["left bowl"]),
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    two_parts = [_corners(8, 8, 16, 20), _corners(20, 2, 30, 6)]
    instances = {
        "images": [_image(581857, stems[0]), _image(9, stems[1])],
        "annotations": [
            _annotation(1, 581857, [_corners(4, 2, 12, 9)]),
            _annotation(2, 9, [_corners(0, 0, 5, 5)]),
            _annotation(3, 9, two_parts),
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    dump(folder / "instances.json", instances)
    lady = np.zeros((1, HEIGHT, WIDTH), bool)
    lady[0, 2:9, 4:12] = True
    bowl = np.zeros((1, HEIGHT, WIDTH), bool)
    bowl[0, 8:20, 8:16] = True
    bowl[0, 2:6, 20:30] = True
    return Written(
        folder,
        "test",
        {
            f"{stems[0]}/70": Expected("the lady with the blue shirt", "", lady),
            f"{stems[0]}/71": Expected("lady", "", lady),
            f"{stems[1]}/90": Expected("left bowl", "", bowl),
        },
    )


def _image(number: int, stem: str) -> dict[str, Any]:
    return {"id": number, "height": HEIGHT, "width": WIDTH, "file_name": f"{stem}.jpg"}


def _annotation(number: int, image_id: int, polygons: list[list[int]]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "segmentation": polygons,
        "iscrowd": 0,
        "bbox": [0, 0, 1, 1],
    }


def _corners(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _ref(
    ref_id: int,
    ann_id: int,
    image_id: int,
    split: str,
    texts: list[str],
) -> dict[str, Any]:
    sentences = []
    for i, text in enumerate(texts):
        sentences.append(
            {
                "sent_id": 10 * ref_id + i,
                "sent": text,
                "raw": text.upper(),
                "tokens": text.split(),
            }
        )
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 1,
        "image_id": image_id,
        "split": split,
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }


def vts_cot(root: Path) -> Written:
    """Dialogues over ReVOS, with its videos beside its files instead of under JPEGImages."""
    base = root / "video_datas/revos"
    images(base / "UVO/all/a-b")
    dump(base / "mask_dict.json", {"5": rles(blob(0)), "6": rles(blob(1))})
    select = '<select><VTG>{"start": 0, "end": 4, "keyframe": 2}</VTG>[SEG]</select>'
    turns = [
        ("system", "You look at videos."),
        ("human", "Find it."),
        ("gpt", f"Between. {select}"),
        ("human", "<image>"),
        ("gpt", "<answer>[SEG]</answer>"),
    ]
    dialogue: dict[str, Any] = {
        "video_name": "UVO/all/a-b",
        "frames": list(NAMES),
        "exp": "what falls",
        "anno_id": [5, 6],
        "sample_frame_indice": [0, 1, 2, 3, 3],
        "round_num": 1,
        "cot_trace": [{"start_frame": 0, "end_frame": 4, "key_frame": 2}],
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }
    dump(
        root / "VTG-CoT/revos.json",
        [dialogue, {**dialogue, "exp": "the left one", "anno_id": ["5"]}],
    )
    return Written(
        root,
        "revos",
        {
            "UVO/all/a-b/0": Expected(
                "what falls",
                "revos",
                blob(0) | blob(1),
                {"conversations": tuple(dialogue["conversations"])},
            ),
            "UVO/all/a-b/1": Expected(
                "the left one", "revos", blob(0), {"sample_frame_indice": (0, 1, 2, 3, 3)}
            ),
        },
    )


def o3_rl(root: Path) -> Written:
    """Lists of records; the first of each counts."""
    base = root / "video_datas/mevis/train"
    images(base / "JPEGImages/0a1b2c")
    dump(base / "mask_dict.json", {"5": rles(blob(0)), "6": rles(blob(1))})
    record = {
        "video_name": "0a1b2c",
        "frames": list(NAMES),
        "exp": "the one that jumps",
        "anno_id": [6],
        "mask_existence": [1, 0, 1, 1],
    }
    dump(root / "VideoSEG-O3-RL/rl_mevis_data.json", [[record, {**record, "exp": "not this one"}]])
    expected = Expected("the one that jumps", "mevis", blob(1))
    return Written(root, "mevis", {"0a1b2c/0": expected})


def own(root: Path) -> Written:
    """A video file, a folder of images and one image; masks of both kinds, none, and not known."""
    mp4(root / "clips/kitchen.mp4")
    images(root / "frames/yard", NAMES, ".png")
    images(root, ("photo",))
    names = tuple(f"{i:05d}" for i in range(4))
    object_pngs(root / "masks/kitchen/cup", blob(0), names, empty=False)
    videos = {
        "kitchen": {
            "path": "clips/kitchen.mp4",
            "objects": {"cup": "masks/kitchen/cup", "jug": rles(blob(1))},
            "expressions": [
                {"exp": "what is poured from", "objects": ["jug"], "kind": "reasoning"},
                {"exp": "all the dishes", "objects": ["cup", "jug"]},
                {"exp": "a knife", "objects": []},
            ],
        },
        "yard": {
            "path": "frames/yard",
            "frames": ["00000", "00010"],
            "expressions": [{"exp": "the one that moves"}],
        },
        "photo": {
            "path": "photo.jpg",
            "objects": {"sky": rles(blob(2, 1))},
            "expressions": [{"exp": "what is above", "objects": ["sky"]}],
        },
    }
    dump(root / "mine.json", {"videos": videos})
    return Written(
        root,
        "mine",
        {
            "kitchen/0": Expected("what is poured from", "reasoning", blob(1)),
            "kitchen/1": Expected("all the dishes", "", blob(0) | blob(1)),
            "kitchen/2": Expected("a knife", "", np.zeros_like(blob(0))),
            "yard/0": Expected("the one that moves", "", None),
            "photo/0": Expected("what is above", "", blob(2, 1)),
        },
    )

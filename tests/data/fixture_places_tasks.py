"""Small data sets without masks for every sample: VisionReasoner, and the SFT mixture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from core.masks import encode
from tests.data.fixture_files import (
    HEIGHT,
    WIDTH,
    Expected,
    Written,
    dump,
    images,
    mp4,
)


def picture(grey: int = 90, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """Return the bytes of a PNG."""
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), grey, np.uint8)).save(out, "PNG")
    return out.getvalue()


def rows_of_visionreasoner() -> list[dict[str, Any]]:
    """Two objects, an id that comes twice, a point as a float, and one without an object."""
    two = [
        {"bbox_2d": [4, 2, 11, 9], "point_2d": [7, 5]},
        {"bbox_2d": [20, 8, 32, 24], "point_2d": [25.5, 15]},
    ]
    one = [{"bbox_2d": [0, 0, 3, 3], "point_2d": [1, 1]}]
    rows: list[dict[str, Any]] = []
    for uid, problem, objects in (
        ("refcocog_12", "the two cups", two),
        ("refcocog_12", "the cup on the left", one),
        ("lisa_3", "what is not there", []),
    ):
        rows.append(
            {
                "id": uid,
                "problem": problem,
                "solution": json.dumps(objects),
                "image": {"bytes": picture(40 * len(rows)), "path": None},
                "img_height": 480,
                "img_width": 640,
            }
        )
    return rows


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def write_arrow(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write the file of `datasets.save_to_disk`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)


def visionreasoner(root: Path) -> Written:
    """Two Parquet files."""
    rows = rows_of_visionreasoner()
    write_parquet(root / "data/train-00000-of-00002.parquet", rows[:2])
    write_parquet(root / "data/train-00001-of-00002.parquet", rows[2:])
    nothing = np.zeros((1, HEIGHT, WIDTH), bool)
    return Written(
        root,
        "train",
        {
            "refcocog_12/0": Expected("the two cups", "", nothing),
            "refcocog_12-1/0": Expected("the cup on the left", "", nothing),
            "lisa_3/0": Expected("what is not there", "", nothing),
        },
    )


def o3_sft(root: Path) -> Written:
    """The captions of GranD-f: masks in two parts, out of order, one phrase inside another."""
    return gcg_grandf(root)


def gcg_grandf(root: Path) -> Written:
    images(root / "glamm_data/images/grandf/train", ("sa_1", "sa_2"))
    dog = rectangle(2, 2, 9, 9)
    tail = rectangle(9, 2, 12, 4)
    man = rectangle(14, 3, 20, 20)
    caption = '"A man walks a dog."'
    groundings = {
        "a dog": grounding(12, 17, dog, tail),
        "A man": grounding(0, 5, man),
        "man": grounding(2, 5, man),
    }
    items = [
        {"file_name": "sa_1.jpg", "caption": caption, "groundings": groundings, "image_id": "sa_1"},
        {"file_name": "sa_2.jpg", "caption": "Nothing.", "groundings": {}, "image_id": "sa_2"},
    ]
    dump(root / "glamm_data/annotations/GranDf_HA_GCG_train.json", items)
    union = man | dog | tail
    told = "<p> A man </p> [SEG] walks <p> a dog </p> [SEG]."
    return Written(root, "gcg_grandf", {"sa_1/0": described(union, told)})


def gcg_refcocog(root: Path) -> Written:
    images(root / "glamm_data/images/coco2014/train2014", ("COCO_train2014_000000000009",))
    square = [4, 2, 12, 2, 12, 9, 4, 9]
    item = {
        "img_file_name": "COCO_train2014_000000000009.jpg",
        "caption": "The Bowl on a table",
        "refs": [
            {"sentence": "the bowl", "segmentation": [square]},
            {"sentence": "a spoon", "segmentation": [square]},
        ],
    }
    dump(root / "glamm_data/annotations/RefCOCOg_GCG_train.json", [{"9": item}])
    told = "<p> the bowl </p> [SEG] on a table"
    expected = described(rectangle(4, 2, 12, 9), told)
    return Written(root, "gcg_refcocog", {"COCO_train2014_000000000009/0": expected})


def gcg_flickr30k(root: Path) -> Written:
    images(root / "glamm_data/images/flickr30k/Flickr30K", ("1007129816",))
    image = {
        "id": 3,
        "file_name": "1007129816.jpg",
        "caption": "The man with pierced ears",
        "height": HEIGHT,
        "width": WIDTH,
    }
    good = {
        "id": 5,
        "image_id": 3,
        "bbox": [1, 1, 8, 8],
        "area": 64,
        "tokens_positive": [[0, 7]],
        "sam_mask": dict(encode(rectangle(1, 1, 9, 9))),
    }
    ignored = {**good, "id": 6, "tokens_positive": [[13, 25]], "ignore": 1}
    empty = {**good, "id": 7, "tokens_positive": [[13, 25]], "area": 0}
    content = {"images": [image], "annotations": [good, ignored, empty]}
    dump(root / "glamm_data/annotations/flickr_mergedGT_GCG_train.json", content)
    told = "<p> The man </p> [SEG] with pierced ears"
    return Written(root, "gcg_flickr30k", {"1007129816/0": described(rectangle(1, 1, 9, 9), told)})


def video_qa(root: Path) -> Written:
    """A dialogue of two questions, about a video that was converted."""
    mp4(root / "video_datas/chat_univi/Activity_Videos/v_1.mp4")
    turns = [
        ("human", "<video>\nWhat happens?"),
        ("gpt", "A dog jumps."),
        ("human", "Why?"),
        ("gpt", "It is glad."),
    ]
    item = {"video": "v_1.mkv", "conversations": [{"from": a, "value": b} for a, b in turns]}
    dump(root / "video_datas/chat_univi/video_chat.json", [item])
    notes = {"task": "qa"}
    expected = Expected("What happens?", "qa", None, notes)
    return Written(root, "video_qa", {"v_1.mkv/0": expected})


def vtg(root: Path) -> Written:
    """Spans in seconds of a video of 8 frames a second; the second one ends after it."""
    mp4(root / "VTG/TimeLens-100K/videos/queryd/a.mp4", 12)
    events = [
        {"query": "the dog jumps", "span": [[0.25, 0.9]]},
        {"query": "it lies down", "span": [[1.0, 9.5], [0.0, 0.1]]},
    ]
    line = {"source": "queryd", "video_path": "queryd/a.mp4", "duration": 1.5, "events": events}
    file = root / "VTG/TimeLens-100K/timelens-100k.jsonl"
    file.write_text(json.dumps(line) + "\n\n")
    return Written(
        root,
        "vtg",
        {
            "queryd/a.mp4/0-0": span_of("the dog jumps", 2, 7),
            "queryd/a.mp4/0-1": span_of("it lies down", 8, 11),
        },
    )


# The parts of the SFT mixture with a reader of their own.
PARTS: dict[str, Callable[[Path], Written]] = {
    "gcg_grandf": gcg_grandf,
    "gcg_refcocog": gcg_refcocog,
    "gcg_flickr30k": gcg_flickr30k,
    "video_qa": video_qa,
    "vtg": vtg,
}


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


def grounding(start: int, stop: int, *masks: np.ndarray) -> dict[str, Any]:
    encodings = [dict(encode(mask_HW)) for mask_HW in masks]
    return {"token_positives": [start, stop], "rle_masks": encodings}


def described(mask_HW: np.ndarray, told: str) -> Expected:
    turns = (
        {"from": "human", "value": "what the image shows"},
        {"from": "gpt", "value": told},
    )
    notes = {"task": "gcg", "conversations": turns}
    return Expected("what the image shows", "gcg", mask_HW[None], notes)


def span_of(query: str, start: int, end: int) -> Expected:
    answer = json.dumps({"start_frame": start, "end_frame": end})
    turns = ({"from": "human", "value": query}, {"from": "gpt", "value": answer})
    return Expected(query, "vtg", None, {"task": "vtg", "conversations": turns})

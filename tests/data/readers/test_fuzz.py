"""Damaged annotations give a ValueError that names a file, and never another error."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.load import load_samples
from data.prepare.check import problems
from tests.data.fixture_files import Written
from tests.data.fixture_places_tasks import PARTS, rows_of_visionreasoner, write_parquet
from tests.data.fixture_videos import groundmore, ref_sav, ref_sav_valid

# Values in the place of another one.
JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    10**12,
    1.5,
    float("inf"),
    "",
    "x",
    "../x",
    [],
    {},
    [None],
    [[]],
]
# Damaged copies of each set.
COPIES = 15

SETS: dict[str, tuple[str, Callable[[Path], Written], tuple[str, ...]]] = {
    "groundmore": ("groundmore", groundmore, ("test_v2.json",)),
    "ref_sav": (
        "ref_sav",
        ref_sav,
        ("Ref-SAV.json", "sam_v_full/sav_train/sav_000/sav_000001_manual.json"),
    ),
    "ref_sav_valid": (
        "ref_sav",
        ref_sav_valid,
        ("ref_sav_eval/meta_expressions_valid.json", "ref_sav_eval/mask_dict.json"),
    ),
    "gcg_grandf": (
        "o3_sft",
        PARTS["gcg_grandf"],
        ("glamm_data/annotations/GranDf_HA_GCG_train.json",),
    ),
    "gcg_refcocog": (
        "o3_sft",
        PARTS["gcg_refcocog"],
        ("glamm_data/annotations/RefCOCOg_GCG_train.json",),
    ),
    "gcg_flickr30k": (
        "o3_sft",
        PARTS["gcg_flickr30k"],
        ("glamm_data/annotations/flickr_mergedGT_GCG_train.json",),
    ),
    "video_qa": ("o3_sft", PARTS["video_qa"], ("video_datas/chat_univi/video_chat.json",)),
    "vtg": ("o3_sft", PARTS["vtg"], ("VTG/TimeLens-100K/timelens-100k.jsonl",)),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a JSON value."""
    found = [path] if path else []
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        found += places(child, (*path, key))
    return found


def damage(content: Any, dice: random.Random) -> None:
    """Remove a value, or put another in its place."""
    *path, last = dice.choice(places(content))
    for key in path:
        content = content[key]
    if dice.random() < 0.3:
        del content[last]
    else:
        content[last] = dice.choice(JUNK)


def check(format: str, root: Path, split: str) -> None:
    """Read a set both ways; an error of the first one is one line about a file."""
    for text in problems(format, str(root), split):
        assert "\n" not in text
    message = ""
    try:
        samples = load_samples(format, str(root), split, no_target="keep")
        for sample in samples:
            for target in sample.targets:
                tuple(target.masks_F)
    except ValueError as error:
        message = str(error)
    assert not message or str(root) in message


@pytest.mark.parametrize("name", SETS)
def test_damaged_json(name: str, tmp_path: Path) -> None:
    format, write, files = SETS[name]
    written = write(tmp_path / "set")
    dice = random.Random(name)
    for _ in range(COPIES):
        file = written.root / dice.choice(files)
        good = file.read_bytes()
        content = json.loads(good)
        damage(content, dice)
        file.write_text(json.dumps(content))
        check(format, written.root, written.split)
        cut = dice.randrange(len(good))
        file.write_bytes(good[:cut] + bytes([dice.randrange(256)]) + good[cut + 1 :])
        check(format, written.root, written.split)
        file.write_bytes(good)


def test_damaged_rows(tmp_path: Path) -> None:
    dice = random.Random(1)
    file = tmp_path / "data/train-0.parquet"
    for _ in range(COPIES):
        rows = rows_of_visionreasoner()
        objects = json.loads(rows[0]["solution"])
        damage(objects, dice)
        rows[0]["solution"] = json.dumps(objects)
        write_parquet(file, rows)
        check("visionreasoner", tmp_path, "train")
        content = bytearray(file.read_bytes())
        content[dice.randrange(len(content))] = dice.randrange(256)
        file.write_bytes(content)
        check("visionreasoner", tmp_path, "train")

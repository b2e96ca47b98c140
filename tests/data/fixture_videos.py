"""Small benchmarks of videos, each in its published layout with its published oddities."""

from __future__ import annotations

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
    palette_pngs,
    rles,
)


def mevis(root: Path) -> Written:
    """Numbers and texts as ids, an id without a list, nulls, an expression without an object."""
    folder = root / "valid_u"
    for uid in ("0a1b2c", "77e0ff"):
        images(folder / "JPEGImages" / uid)
    expressions = {
        "0": {"exp": "the bird that turns", "obj_id": [0], "anno_id": [10]},
        "1": {"exp": "both birds", "obj_id": ["0", "1"], "anno_id": ["10", "11"]},
        "2": {"exp": "a bird that sinks", "obj_id": [], "anno_id": []},
    }
    other = {"0": {"exp": "the one alone", "obj_id": 0, "anno_id": 12}}
    videos = {
        "0a1b2c": {"vid_id": 0, "frames": list(NAMES), "expressions": expressions},
        "77e0ff": {"vid_id": 1, "frames": list(NAMES), "expressions": other},
    }
    dump(folder / "meta_expressions.json", {"videos": videos})
    dump(folder / "mask_dict.json", {str(10 + i): rles(blob(i)) for i in range(3)})
    nothing = np.zeros_like(blob(0))
    return Written(
        root,
        "valid_u",
        {
            "0a1b2c/0": Expected("the bird that turns", "", blob(0)),
            "0a1b2c/1": Expected("both birds", "", blob(0) | blob(1)),
            "0a1b2c/2": Expected("a bird that sinks", "", nothing),
            "77e0ff/0": Expected("the one alone", "", blob(2)),
        },
    )


def lvvis(root: Path) -> Written:
    """Categories with "_", and a video of one frame to leave out."""
    folder = root / "train"
    names = ("00001", "00002", "00003", "00004")
    for uid in ("00000", "00001"):
        images(folder / "JPEGImages" / uid, names)
    videos = {
        "00000": {
            "vid_id": 0,
            "frames": list(names),
            "height": HEIGHT,
            "width": WIDTH,
            "expressions": {"0": {"exp": "baseball_bat", "obj_id": [0, 1], "anno_id": [0, 1]}},
        },
        "00001": {
            "vid_id": 1,
            "frames": [names[0]],
            "expressions": {"0": {"exp": "cup", "obj_id": [], "anno_id": []}},
        },
    }
    dump(folder / "meta_expressions.json", {"videos": videos})
    dump(folder / "mask_dict.json", {"0": rles(blob(0)), "1": rles(blob(1))})
    return Written(root, "train", {"00000/0": Expected("baseball bat", "", blob(0) | blob(1))})


def revos(root: Path) -> Written:
    """Names of videos with slashes, types, one mask file for all splits, the foreground."""
    uids = ("UVO/all/-fbscFfkh4M", "LVOS/valid/kitten")
    for uid in uids:
        images(root / "JPEGImages" / uid)
    first = {
        "0": {"exp": "the dog", "obj_id": [0], "anno_id": [100], "type_id": 0},
        "1": {
            "exp": "who would win the race?",
            "obj_id": [1, 2],
            "anno_id": [101, 102],
            "type_id": 1,
        },
        "2": {"exp": "the cat on the table", "obj_id": [], "anno_id": [], "type_id": 2},
    }
    second = {"0": {"exp": "what is the milk for", "obj_id": [0], "anno_id": [103], "type_id": 1}}
    common = {"frames": list(NAMES), "height": HEIGHT, "width": WIDTH}
    videos = {
        uids[0]: {"vid_id": 0, **common, "expressions": first},
        uids[1]: {"vid_id": 1, **common, "expressions": second},
        "UVO/all/short": {"vid_id": 2, **common, "frames": ["00000"], "expressions": {}},
    }
    dump(root / "meta_expressions_valid_.json", {"videos": videos})
    dump(root / "meta_expressions_train_.json", {"videos": {}})
    dump(root / "mask_dict.json", {str(100 + i): rles(blob(i)) for i in range(4)})
    all_of_first = blob(0) | blob(1) | blob(2)
    dump(
        root / "mask_dict_foreground.json",
        {
            uids[0]: {
                "masks_rle": [dict(encode(m)) for m in all_of_first],
                "foreground_ratio": [0.1] * 4,
            },
            uids[1]: {"masks_rle": rles(blob(3)), "foreground_ratio": [0.1] * 4},
        },
    )
    return Written(
        root,
        "valid",
        {
            f"{uids[0]}/0": Expected("the dog", "referring", blob(0)),
            f"{uids[0]}/1": Expected("who would win the race?", "reasoning", blob(1) | blob(2)),
            f"{uids[0]}/2": Expected("the cat on the table", "no_target", np.zeros_like(blob(0))),
            f"{uids[1]}/0": Expected("what is the milk for", "reasoning", blob(3)),
        },
    )


def reasonvos(root: Path) -> Written:
    """Expressions in a list, two of one object; the source in capitals and its folder in small
    letters; a frame without a PNG, so that it does not count."""
    for uid in ("v_0001", "drive"):
        images(root / "JPEGImages" / uid)
    listed = [
        {"obj_id": 2, "exp_id": 0, "exp_text": "Which one is thirsty?", "is_sent": 1},
        {"obj_id": 2, "exp_id": 1, "exp_text": "the animal at the bucket", "is_sent": 0},
        {"obj_id": 3, "exp_id": 2, "exp_text": "the bucket", "is_sent": 0},
    ]
    videos = {
        "v_0001": {"source": "MOSE", "frames": list(NAMES), "is_sent": 1, "expressions": listed},
        "drive": {
            "source": "burst",
            "frames": list(NAMES),
            "is_sent": True,
            "expressions": {"7": {"exp_text": "What brakes first?", "obj_id": "1"}},
        },
    }
    dump(root / "meta_expressions.json", {"videos": videos})
    object_pngs(root / "Annotations/mose_v_0001_2", blob(0))
    object_pngs(root / "Annotations/mose_v_0001_3", blob(1))
    object_pngs(root / "Annotations/burst_drive_1", blob(2))
    # blob(2) is not visible in this frame.
    (root / "Annotations/burst_drive_1/00005.png").unlink()
    return Written(
        root,
        "test",
        {
            "v_0001/0": Expected(
                "Which one is thirsty?", "sentence", blob(0), {"object": "2", "source": "MOSE"}
            ),
            "v_0001/1": Expected("the animal at the bucket", "phrase", blob(0), {"object": "2"}),
            "v_0001/2": Expected("the bucket", "phrase", blob(1), {"object": "3"}),
            "drive/7": Expected(
                "What brakes first?",
                "sentence",
                blob(2),
                {"object": "1", "frames_listed": ("00000", "00010", "00015")},
            ),
        },
    )


def longrvos(root: Path) -> Written:
    """A folder for each object, without files for frames without it."""
    folder = root / "valid"
    images(folder / "JPEGImages" / "71fb69bbcd")
    expressions = {
        "0": {"exp": "the red car", "obj_id": 1, "type": "static"},
        "1": {"exp": "the car that parks", "obj_id": "1", "type": "dynamic"},
        "2": {"exp": "the blue car that leaves", "obj_id": "4", "type": "hybrid"},
    }
    video = {"vid_id": 0, "frames": list(NAMES), "expressions": expressions}
    dump(folder / "meta_expressions.json", {"videos": {"71fb69bbcd": video}})
    for number in (1, 4):
        object_pngs(folder / "Annotations/71fb69bbcd" / str(number), blob(number), empty=False)
    return Written(
        root,
        "valid",
        {
            "71fb69bbcd/0": Expected("the red car", "static", blob(1), {"object": "1"}),
            "71fb69bbcd/1": Expected("the car that parks", "dynamic", blob(1)),
            "71fb69bbcd/2": Expected(
                "the blue car that leaves", "hybrid", blob(4), {"object": "4"}
            ),
        },
    )


def ref_youtube_vos(root: Path) -> Written:
    """The number of the object as a text; valid lists the videos of test, too."""
    images(root / "train/JPEGImages/003234408d")
    visible = {1: blob(1) & ~blob(2), 2: blob(2)}
    palette_pngs(root / "train/Annotations/003234408d", visible)
    objects = {
        "1": {"category": "penguin", "frames": ["00000"]},
        "2": {"category": "person", "frames": ["00000"]},
    }
    dump(root / "train/meta.json", {"videos": {"003234408d": {"objects": objects}}})
    expressions = {
        "0": {"exp": "a penguin is on the left", "obj_id": "1"},
        "1": {"exp": "penguin standing", "obj_id": "1"},
        "2": {"exp": "a person", "obj_id": "2"},
    }
    train = {"003234408d": {"expressions": expressions, "frames": list(NAMES)}}
    dump(root / "meta_expressions/train/meta_expressions.json", {"videos": train})
    cow_and_calf = {"0": {"exp": "a cow"}, "1": {"exp": "a calf"}}
    hidden = {"expressions": cow_and_calf, "frames": list(NAMES)}
    for uid in ("0062f687f1", "00f88c4f0a"):
        images(root / "valid/JPEGImages" / uid)
    videos = {"0062f687f1": hidden, "00f88c4f0a": hidden}
    dump(root / "meta_expressions/valid/meta_expressions.json", {"videos": videos})
    dump(root / "meta_expressions/test/meta_expressions.json", {"videos": {"00f88c4f0a": hidden}})
    return Written(
        root,
        "train",
        {
            "003234408d/0": Expected(
                "a penguin is on the left", "", visible[1], {"object": "1", "category": "penguin"}
            ),
            "003234408d/1": Expected("penguin standing", "", visible[1]),
            "003234408d/2": Expected(
                "a person", "", visible[2], {"object": "2", "category": "person"}
            ),
        },
    )


def ref_davis17(root: Path) -> Written:
    """The official files: four texts in two encodings, a misspelt name, frames from 00000."""
    names = tuple(f"{i:05d}" for i in range(4))
    for uid in ("classic-car", "dogs-jump"):
        images(root / "DAVIS/JPEGImages/480p" / uid, names)
    visible = {1: blob(1) & ~blob(2), 2: blob(2)}
    palette_pngs(root / "DAVIS/Annotations_unsupervised/480p/dogs-jump", visible, names)
    palette_pngs(root / "DAVIS/Annotations_unsupervised/480p/classic-car", {1: blob(3)}, names)
    sets = root / "DAVIS/ImageSets/2017"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("classic-car\n")
    (sets / "val.txt").write_text("dogs-jump\n")
    folder = root / "davis_text_annotations"
    folder.mkdir()
    for file, encoding, who in (
        ("Davis17_annot1.txt", "utf-8", "first"),
        ("Davis17_annot1_full_video.txt", "utf-8", "first, whole"),
        ("Davis17_annot2.txt", "latin-1", "second"),
        ("Davis17_annot2_full_video.txt", "latin-1", "second caf\xe9"),
    ):
        lines = [
            f'clasic-car 1 "a car, {who}"',
            f'dogs-jump 2 "a person, {who}"',
            f'dogs-jump 1 "a dog, {who}"',
        ]
        text = "\n".join(lines) + "\n"
        (folder / file).write_bytes(text.encode(encoding))
    expected = {}
    for obj, what in ((1, "a dog"), (2, "a person")):
        for annotator, who in enumerate(("first", "first, whole", "second", "second caf\xe9")):
            kind = ("first_frame", "full_video")[annotator % 2]
            notes = {"object": str(obj), "annotator": annotator}
            key = f"dogs-jump/{4 * (obj - 1) + annotator}"
            expected[key] = Expected(f"{what}, {who}", kind, visible[obj], notes)
    return Written(root, "valid", expected)


def groundmore(root: Path) -> Written:
    """Two types of questions about one clip, with masks beside the action, one of them missing."""
    uid = "cGcZ4Oj7ThA_0112_0114"
    names = tuple(f"frame_{i:06d}" for i in range(12))
    clip = root / "annotations" / uid
    images(clip / "images", names)
    masks = {1: blob(0, 12), 2: blob(1, 12)}
    palette_pngs(clip / "masks", masks, names)
    # The other published form of a name.
    (clip / "masks/frame_000002.png").rename(clip / "masks/0000002.png")
    (clip / "masks/frame_000003.png").unlink()
    questions = {
        "1": _question("What falls first?", "1", "Causal", "01:12", "01:13"),
        "7": _question("What would stay?", 2, "Counterfactual", "0:01:13", "1:14"),
    }
    dump(root / "test_v2.json", {"videos": {uid: {"questions": questions}}})
    # In a palette PNG the second object hides the first.
    falls = blob(0, 12) & ~blob(1, 12)
    falls[6:] = False
    falls[3] = False
    stays = blob(1, 12)
    stays[:6] = False
    return Written(
        root,
        "test",
        {
            f"{uid}/1": Expected(
                "What falls first?", "Causal", falls, {"names": ("a cup",), "object": "1"}
            ),
            f"{uid}/7": Expected(
                "What would stay?", "Counterfactual", stays, {"frames_listed": names}
            ),
        },
    )


def _question(text: str, obj: Any, kind: str, start: str, end: str) -> dict[str, Any]:
    return {
        "question": text,
        "answer": "a cup",
        "obj_id": obj,
        "q_type": kind,
        "action_start": start,
        "action_end": end,
    }


def ref_sav(root: Path) -> Written:
    """A video of SA-V with masks of every fourth frame, and a path that names its archive twice."""
    mp4(root / "sam_v_full/sav_train/sav_000/sav_000001.mp4", 13)
    objects = (blob(0), blob(2))
    frames = []
    for f in range(4):
        frames.append([dict(encode(masks_FHW[f])) for masks_FHW in objects])
    anno = {"video_id": "sav_000001", "masklet_id": [0, 1], "masklet": frames}
    dump(root / "sam_v_full/sav_train/sav_000/sav_000001_manual.json", anno)
    folder = "sav_000/sav_train/sav_000/sav_000001"
    video = {
        "video_path": f"{folder}.mp4",
        "anno_path": f"{folder}_manual.json",
        "objects": {"0": {"formated": "A cup that slides."}, "1": {"formated": "A red ball."}},
    }
    dump(root / "Ref-SAV.json", {"sav_000001": video})
    return Written(
        root,
        "train",
        {
            "sav_000001/0": Expected("A cup that slides.", "", blob(0)),
            "sav_000001/1": Expected("A red ball.", "", blob(2)),
        },
    )


def ref_sav_valid(root: Path) -> Written:
    """The evaluation split, as images."""
    folder = root / "ref_sav_eval"
    images(folder / "videos/sav_017599")
    expressions = {
        "0": {"exp": "a long sentence", "anno_id": ["0"], "obj_id": [1], "type_id": 0},
        "1": {"exp": "short", "anno_id": ["1"], "obj_id": [2], "type_id": 1},
    }
    video = {"frames": list(NAMES), "height": HEIGHT, "width": WIDTH, "expressions": expressions}
    dump(folder / "meta_expressions_valid.json", {"videos": {"sav_017599": video}})
    dump(folder / "mask_dict.json", {"0": rles(blob(0)), "1": rles(blob(1))})
    return Written(
        root,
        "valid",
        {
            "sav_017599/0": Expected("a long sentence", "long", blob(0)),
            "sav_017599/1": Expected("short", "short", blob(1)),
        },
    )

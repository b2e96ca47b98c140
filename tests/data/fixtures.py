"""Small data sets on disk, each in its published layout with its published oddities, and what a reader must find.

`FIXTURES[format](root)` writes one and says what was written: for every expression its sentence, its kind, and the
pixels of its answer, (F, H, W) bool; None where the ground truth is not public.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from core.masks import encode

HEIGHT, WIDTH = 24, 32
NAMES = ("00000", "00005", "00010", "00015")  # every fifth frame, as in YouTube-VOS and MeViS


@dataclass(frozen=True)
class Expected:
    query: str
    kind: str
    masks_FHW: np.ndarray | None
    notes: dict[str, Any] = field(default_factory=dict)  # some of those that must be there


@dataclass(frozen=True)
class Written:
    root: Path
    split: str
    expected: dict[str, Expected]  # by the uid of the sample, in the order of reading


def blob(number: int, frames: int = len(NAMES)) -> np.ndarray:
    """A rectangle that moves; it is not there in every third frame."""
    masks_FHW = np.zeros((frames, HEIGHT, WIDTH), bool)
    for f in range(frames):
        if f % 3 != 1:
            masks_FHW[f, 2 + number : 9 + number, 3 * number + f : 3 * number + f + 8] = True
    return masks_FHW


def images(folder: Path, names: Sequence[str] = NAMES, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        frame_HWC = np.full((HEIGHT, WIDTH, 3), 40 * i % 256, np.uint8)
        assert cv2.imwrite(str(folder / f"{name}{suffix}"), frame_HWC)


def rles(masks_FHW: np.ndarray) -> list[Any]:
    """As MeViS writes them: null where there is nothing."""
    return [dict(encode(mask_HW)) if mask_HW.any() else None for mask_HW in masks_FHW]


def palette_png(file: Path, values_HW: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values_HW.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 236, 95, 103, 249, 145, 87, 250, 200, 99])  # YouTube-VOS'
    image.save(file)


def palette_pngs(folder: Path, objects: dict[int, np.ndarray], names: Sequence[str] = NAMES) -> None:
    for f, name in enumerate(names):
        values_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, masks_FHW in objects.items():
            values_HW[masks_FHW[f]] = number
        palette_png(folder / f"{name}.png", values_HW)


def object_pngs(folder: Path, masks_FHW: np.ndarray, names: Sequence[str] = NAMES, empty: bool = True) -> None:
    """Black and white; without `empty`, frames without the object have no file."""
    folder.mkdir(parents=True, exist_ok=True)
    for mask_HW, name in zip(masks_FHW, names, strict=True):
        if empty or mask_HW.any():
            Image.fromarray(mask_HW.astype(np.uint8) * 255).save(folder / f"{name}.png")


def dump(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def mevis(root: Path) -> Written:
    """Numbers and texts as ids, one id without a list, nulls, an expression without an object (v2)."""
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
    return Written(root, "valid_u", {
        "0a1b2c/0": Expected("the bird that turns", "", blob(0)),
        "0a1b2c/1": Expected("both birds", "", blob(0) | blob(1)),
        "0a1b2c/2": Expected("a bird that sinks", "", nothing),
        "77e0ff/0": Expected("the one alone", "", blob(2)),
    })  # fmt: skip


def lvvis(root: Path) -> Written:
    """Categories with "_", and a video of one frame, which is left out."""
    folder, names = root / "train", ("00001", "00002", "00003", "00004")
    for uid in ("00000", "00001"):
        images(folder / "JPEGImages" / uid, names)
    videos = {
        "00000": {"vid_id": 0, "frames": list(names), "height": HEIGHT, "width": WIDTH, "expressions": {
            "0": {"exp": "baseball_bat", "obj_id": [0, 1], "anno_id": [0, 1]}}},
        "00001": {"vid_id": 1, "frames": [names[0]], "expressions": {"0": {"exp": "cup", "obj_id": [], "anno_id": []}}},
    }  # fmt: skip
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
        "1": {"exp": "who would win the race?", "obj_id": [1, 2], "anno_id": [101, 102], "type_id": 1},
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
    dump(root / "mask_dict_foreground.json", {
        uids[0]: {"masks_rle": [dict(encode(m)) for m in all_of_first], "foreground_ratio": [0.1] * 4},
        uids[1]: {"masks_rle": rles(blob(3)), "foreground_ratio": [0.1] * 4},
    })  # fmt: skip
    return Written(root, "valid", {
        f"{uids[0]}/0": Expected("the dog", "referring", blob(0)),
        f"{uids[0]}/1": Expected("who would win the race?", "reasoning", blob(1) | blob(2)),
        f"{uids[0]}/2": Expected("the cat on the table", "no_target", np.zeros_like(blob(0))),
        f"{uids[1]}/0": Expected("what is the milk for", "reasoning", blob(3)),
    })  # fmt: skip


def reasonvos(root: Path) -> Written:
    """Expressions in a list, two of one object; the source in capitals, its folder in small letters; a frame that has
    no PNG and does not count."""
    for uid in ("v_0001", "drive"):
        images(root / "JPEGImages" / uid)
    listed = [
        {"obj_id": 2, "exp_id": 0, "exp_text": "Which one is thirsty?", "is_sent": 1},
        {"obj_id": 2, "exp_id": 1, "exp_text": "the animal at the bucket", "is_sent": 0},
        {"obj_id": 3, "exp_id": 2, "exp_text": "the bucket", "is_sent": 0},
    ]
    videos = {
        "v_0001": {"source": "MOSE", "frames": list(NAMES), "is_sent": 1, "expressions": listed},
        "drive": {"source": "burst", "frames": list(NAMES), "is_sent": True, "expressions": {
            "7": {"exp_text": "What brakes first?", "obj_id": "1"}}},
    }  # fmt: skip
    dump(root / "meta_expressions.json", {"videos": videos})
    object_pngs(root / "Annotations/mose_v_0001_2", blob(0))
    object_pngs(root / "Annotations/mose_v_0001_3", blob(1))
    object_pngs(root / "Annotations/burst_drive_1", blob(2))
    (root / "Annotations/burst_drive_1/00005.png").unlink()  # blob(2) is not visible there
    return Written(root, "test", {
        "v_0001/0": Expected("Which one is thirsty?", "sentence", blob(0), {"object": "2", "source": "MOSE"}),
        "v_0001/1": Expected("the animal at the bucket", "phrase", blob(0), {"object": "2"}),
        "v_0001/2": Expected("the bucket", "phrase", blob(1), {"object": "3"}),
        "drive/7": Expected("What brakes first?", "sentence", blob(2),
                            {"object": "1", "frames_listed": ("00000", "00010", "00015")}),
    })  # fmt: skip


def longrvos(root: Path) -> Written:
    """A folder for each object, without files where it is not visible."""
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
    return Written(root, "valid", {
        "71fb69bbcd/0": Expected("the red car", "static", blob(1), {"object": "1"}),
        "71fb69bbcd/1": Expected("the car that parks", "dynamic", blob(1)),
        "71fb69bbcd/2": Expected("the blue car that leaves", "hybrid", blob(4), {"object": "4"}),
    })  # fmt: skip


def ref_youtube_vos(root: Path) -> Written:
    """The number of the object as a text; valid lists the videos of test, too."""
    images(root / "train/JPEGImages/003234408d")
    visible = {1: blob(1) & ~blob(2), 2: blob(2)}
    palette_pngs(root / "train/Annotations/003234408d", visible)
    objects = {"1": {"category": "penguin", "frames": ["00000"]}, "2": {"category": "person", "frames": ["00000"]}}
    dump(root / "train/meta.json", {"videos": {"003234408d": {"objects": objects}}})
    expressions = {
        "0": {"exp": "a penguin is on the left", "obj_id": "1"},
        "1": {"exp": "penguin standing", "obj_id": "1"},
        "2": {"exp": "a person", "obj_id": "2"},
    }
    train = {"003234408d": {"expressions": expressions, "frames": list(NAMES)}}
    dump(root / "meta_expressions/train/meta_expressions.json", {"videos": train})
    hidden = {"expressions": {"0": {"exp": "a cow"}, "1": {"exp": "a calf"}}, "frames": list(NAMES)}
    for uid in ("0062f687f1", "00f88c4f0a"):
        images(root / "valid/JPEGImages" / uid)
    videos = {"0062f687f1": hidden, "00f88c4f0a": hidden}
    dump(root / "meta_expressions/valid/meta_expressions.json", {"videos": videos})
    dump(root / "meta_expressions/test/meta_expressions.json", {"videos": {"00f88c4f0a": hidden}})
    return Written(root, "train", {
        "003234408d/0": Expected("a penguin is on the left", "", visible[1], {"object": "1", "category": "penguin"}),
        "003234408d/1": Expected("penguin standing", "", visible[1]),
        "003234408d/2": Expected("a person", "", visible[2], {"object": "2", "category": "person"}),
    })  # fmt: skip


def ref_davis17(root: Path) -> Written:
    """The official files: four texts, one encoding for each annotator, a name that is misspelt, frames from 00000."""
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
        lines = [f'clasic-car 1 "a car, {who}"', f'dogs-jump 2 "a person, {who}"', f'dogs-jump 1 "a dog, {who}"']
        (folder / file).write_bytes(("\n".join(lines) + "\n").encode(encoding))
    expected = {}
    for obj, what in ((1, "a dog"), (2, "a person")):
        for annotator, who in enumerate(("first", "first, whole", "second", "second caf\xe9")):
            kind = ("first_frame", "full_video")[annotator % 2]
            notes = {"object": str(obj), "annotator": annotator}
            key = f"dogs-jump/{4 * (obj - 1) + annotator}"
            expected[key] = Expected(f"{what}, {who}", kind, visible[obj], notes)
    return Written(root, "valid", expected)


def _square(x: int, y: int, side: int) -> list[list[float]]:
    return [[x + 0.4, y], [x + side - 1, y], [x + side - 1, y + side - 1], [x, y + side - 1]]


def _filled(x: int, y: int, side: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[y : y + side, x : x + side] = True
    return mask_HW


def reasonseg(root: Path) -> Written:
    """Polygons in any order, pixels that do not count, a flag, and a file that is not UTF-8."""
    folder = root / "val"
    images(folder, ("200_0", "77_b"))
    shapes = [
        {"label": "target", "points": _square(4, 4, 5)},  # small, and so drawn over the region that does not count
        {"label": "Ignore_1", "points": _square(2, 2, 12)},
        {"label": "target", "points": _square(20, 8, 6)},
        {"label": "flag", "points": _square(0, 0, 20)},
    ]
    first = {"text": ["something for caf\xe9s", "another way to say it"], "is_sentence": True, "shapes": shapes}
    (folder / "200_0.json").write_bytes(json.dumps(first, ensure_ascii=False).encode("cp1252"))
    second = {"text": ["lid"], "is_sentence": False, "shapes": [{"label": "target", "points": _square(10, 3, 9)}]}
    dump(folder / "77_b.json", second)
    ignore = _filled(2, 2, 12) & ~_filled(4, 4, 5)
    target = _filled(4, 4, 5) | _filled(20, 8, 6)
    return Written(root, "val", {
        "200_0/0": Expected("something for caf\xe9s", "long", target[None], {"ignore": encode(ignore)}),
        "77_b/0": Expected("lid", "short", _filled(10, 3, 9)[None]),
    })  # fmt: skip


def refcoco(root: Path) -> Written:
    """A pickle, polygons in COCO's file, file names of references that are not those of the images."""
    folder, stems = root / "refcoco", [f"COCO_train2014_{number:012d}" for number in (581857, 9)]
    images(root / "images/mscoco/images/train2014", stems)
    folder.mkdir()
    refs = [_ref(7, 1, 581857, "testA", ["the lady with the blue shirt", "lady"]),
            _ref(8, 2, 9, "val", ["caf\xe9 sign"]), _ref(9, 3, 9, "testB", ["left bowl"])]  # fmt: skip
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    polygons = {1: (581857, [[4, 2, 12, 2, 12, 9, 4, 9]]), 2: (9, [[0, 0, 5, 0, 5, 5, 0, 5]]),
                3: (9, [[8, 8, 16, 8, 16, 20, 8, 20], [20, 2, 30, 2, 30, 6, 20, 6]])}  # fmt: skip
    dump(folder / "instances.json", {
        "images": [{"id": n, "height": HEIGHT, "width": WIDTH, "file_name": f"{stem}.jpg"}
                   for n, stem in zip((581857, 9), stems, strict=True)],
        "annotations": [{"id": i, "image_id": n, "segmentation": p, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
                        for i, (n, p) in polygons.items()],
        "categories": [{"id": 1, "name": "person"}],
    })  # fmt: skip
    lady, bowl = np.zeros((2, 1, HEIGHT, WIDTH), bool)
    lady[0, 2:9, 4:12] = True
    bowl[0, 8:20, 8:16] = bowl[0, 2:6, 20:30] = True
    return Written(folder, "test", {
        f"{stems[0]}/70": Expected("the lady with the blue shirt", "", lady, {"ref_id": 7}),
        f"{stems[0]}/71": Expected("lady", "", lady),
        f"{stems[1]}/90": Expected("left bowl", "", bowl),
    })  # fmt: skip


def _ref(ref_id: int, ann_id: int, image_id: int, split: str, sentences: list[str]) -> dict[str, Any]:
    sent_ids = [10 * ref_id + i for i in range(len(sentences))]
    return {
        "ref_id": ref_id, "ann_id": ann_id, "category_id": 1, "image_id": image_id, "split": split,
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg", "sent_ids": sent_ids,
        "sentences": [{"sent_id": s, "sent": text, "raw": text.upper(), "tokens": text.split()}
                      for s, text in zip(sent_ids, sentences, strict=True)],
    }  # fmt: skip


def vts_cot(root: Path) -> Written:
    """Dialogues over ReVOS, whose videos lie beside its files and not under JPEGImages."""
    base = root / "video_datas/revos"
    images(base / "UVO/all/a-b")
    dump(base / "mask_dict.json", {"5": rles(blob(0)), "6": rles(blob(1))})
    select = '<select><VTG>{"start": 0, "end": 4, "keyframe": 2}</VTG>[SEG]</select>'
    turns = [("system", "You look at videos."), ("human", "Find it."), ("gpt", f"Between. {select}"),
             ("human", "<image>"), ("gpt", "<answer>[SEG]</answer>")]  # fmt: skip
    dialogue = {
        "video_name": "UVO/all/a-b", "frames": list(NAMES), "exp": "what falls", "anno_id": [5, 6],
        "sample_frame_indice": [0, 1, 2, 3, 3], "round_num": 1,
        "cot_trace": [{"start_frame": 0, "end_frame": 4, "key_frame": 2}],
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }  # fmt: skip
    dump(root / "VTG-CoT/revos.json", [dialogue, {**dialogue, "exp": "the left one", "anno_id": ["5"]}])
    return Written(root, "revos", {
        "UVO/all/a-b/0": Expected("what falls", "revos", blob(0) | blob(1), {"round_num": 1}),
        "UVO/all/a-b/1": Expected("the left one", "revos", blob(0), {"sample_frame_indice": [0, 1, 2, 3, 3]}),
    })  # fmt: skip


def o3_rl(root: Path) -> Written:
    """Lists of records, of which the first counts."""
    base = root / "video_datas/mevis/train"
    images(base / "JPEGImages/0a1b2c")
    dump(base / "mask_dict.json", {"5": rles(blob(0)), "6": rles(blob(1))})
    record = {"video_name": "0a1b2c", "frames": list(NAMES), "exp": "the one that jumps", "anno_id": [6],
              "mask_existence": [1, 0, 1, 1]}  # fmt: skip
    dump(root / "VideoSEG-O3-RL/rl_mevis_data.json", [[record, {**record, "exp": "not this one"}]])
    expected = Expected("the one that jumps", "mevis", blob(1), {"mask_existence": [1, 0, 1, 1]})
    return Written(root, "mevis", {"0a1b2c/0": expected})


def mp4(file: Path, frames: int = len(NAMES)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def own(root: Path) -> Written:
    """A video file, a folder of images and one image; masks of both kinds, none, and not known."""
    mp4(root / "clips/kitchen.mp4")
    images(root / "frames/yard", NAMES, ".png")
    images(root, ("photo",))
    names = tuple(f"{i:05d}" for i in range(4))
    object_pngs(root / "masks/kitchen/cup", blob(0), names, empty=False)
    videos = {
        "kitchen": {"path": "clips/kitchen.mp4", "objects": {"cup": "masks/kitchen/cup", "jug": rles(blob(1))},
                    "expressions": [{"exp": "what is poured from", "objects": ["jug"], "kind": "reasoning"},
                                    {"exp": "all the dishes", "objects": ["cup", "jug"]},
                                    {"exp": "a knife", "objects": []}]},
        "yard": {"path": "frames/yard", "frames": ["00000", "00010"], "expressions": [{"exp": "the one that moves"}]},
        "photo": {"path": "photo.jpg", "objects": {"sky": rles(blob(2, 1))},
                  "expressions": [{"exp": "what is above", "objects": ["sky"]}]},
    }  # fmt: skip
    dump(root / "mine.json", {"videos": videos})
    return Written(root, "mine", {
        "kitchen/0": Expected("what is poured from", "reasoning", blob(1)),
        "kitchen/1": Expected("all the dishes", "", blob(0) | blob(1)),
        "kitchen/2": Expected("a knife", "", np.zeros_like(blob(0))),
        "yard/0": Expected("the one that moves", "", None),
        "photo/0": Expected("what is above", "", blob(2, 1)),
    })  # fmt: skip


FIXTURES: dict[str, Callable[[Path], Written]] = {
    "mevis": mevis, "revos": revos, "lvvis": lvvis, "reasonvos": reasonvos, "longrvos": longrvos,
    "ref_youtube_vos": ref_youtube_vos, "ref_davis17": ref_davis17, "reasonseg": reasonseg, "refcoco": refcoco,
    "vts_cot": vts_cot, "o3_rl": o3_rl, "own": own,
}  # fmt: skip

"""One wrong field in a right data set is one error with the file, the place and the field in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.load import load_samples
from data.prepare.check import read_all
from tests.data.fixtures import FIXTURES, dump, mp4, rles
from tests.data.fixtures import blob as blob_of

Change = Callable[[Any], None]


def at(*path: str | int, to: Any = None) -> Change:
    """Return a function to set one place of a JSON file, or to remove it."""

    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        if to is None:
            del content[path[-1]]
        else:
            content[path[-1]] = to

    return change


V = "videos"
E = "expressions"
R = "meta_expressions_valid_.json"
M = "meta_expressions.json"
COT = "VTG-CoT/revos.json"
RL = "VideoSEG-O3-RL/rl_mevis_data.json"
DOG = (V, "UVO/all/-fbscFfkh4M", E, "0")
KITCHEN = (V, "kitchen")
CLIP = (V, "cGcZ4Oj7ThA_0112_0114")
Q = (*CLIP, "questions", "1")
SAV = "sam_v_full/sav_train/sav_000/sav_000001_manual.json"
GCG = "glamm_data/annotations/GranDf_HA_GCG_train.json"
DOGS = (0, "groundings", "a dog")
CASES: list[tuple[str, str, Change, str]] = [
    ("own", "mine.json", at(*KITCHEN, "path", to="x" * 300), r"longer than a file's name may be"),
    ("own", "mine.json", at(*KITCHEN, "path", to="/etc"), r"\"path\" is '/etc', which leads out"),
    ("own", "mine.json", at(*KITCHEN, "path", to="a/../../b"), r"\"path\" is 'a/../../b', which"),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "objects", "cup", to="../masks"),
        r"object 'cup': its folder of masks is '../masks', which leads out",
    ),
    ("groundmore", "test_v2.json", at(*CLIP, "questions"), r'key "questions" is missing'),
    ("groundmore", "test_v2.json", at(*Q, "question", to=3), r'"question" is 3, not a str'),
    ("groundmore", "test_v2.json", at(*Q, "q_type", to="why"), r'"q_type" is \'why\', not one of'),
    ("groundmore", "test_v2.json", at(*Q, "obj_id", to="300"), r'"obj_id" is \'300\', not the'),
    (
        "groundmore",
        "test_v2.json",
        at(*Q, "action_start", to="12s"),
        r"test_v2.json: video 'cGc.*': question '1': \"action_start\" is '12s', not a time",
    ),
    ("groundmore", "test_v2.json", at(*Q, "action_end", to="00:02"), r'"action_end" is before'),
    (
        "groundmore",
        "test_v2.json",
        at(V, to={"a": {"questions": {}}}),
        r"video 'a': its name does not end in the start and end of its clip",
    ),
    (
        "groundmore",
        "test_v2.json",
        at(V, to={"b_0112_0114": {"questions": {}}}),
        r"video 'b_0112_0114' is listed, but there is neither .*annotations/b_0112_0114/images/",
    ),
    (
        "groundmore",
        "test_v2.json",
        at(V, to={"../b_0112_0114": {"questions": {}}}),
        r"its name is '../b_0112_0114', which leads out of the data set's folder",
    ),
    (
        "ref_sav",
        "Ref-SAV.json",
        at("sav_000001", "video_path", to="../x.mp4"),
        r"\"video_path\" is '../x.mp4', which leads out",
    ),
    (
        "ref_sav",
        "Ref-SAV.json",
        at("sav_000001", "anno_path", to="/etc/passwd"),
        r"\"anno_path\" is '/etc/passwd', which leads out",
    ),
    (
        "ref_sav",
        "Ref-SAV.json",
        at("sav_000001", "anno_path", to="sav_000/none.json"),
        r'"anno_path": .*sam_v_full/sav_000/none.json is missing: put the archives of SA-V below',
    ),
    (
        "ref_sav",
        "Ref-SAV.json",
        at("sav_000001", "objects", "1", "formated"),
        r"expression '1': key \"formated\" is missing",
    ),
    (
        "ref_sav",
        "Ref-SAV.json",
        at("sav_000001", "objects", to={"2": {"formated": "x"}}),
        r"names object '2', but .*_manual.json has 2 objects, from 0",
    ),
    ("ref_sav", SAV, at("masklet"), r'_manual.json: key "masklet" is missing'),
    ("ref_sav", SAV, at("masklet", to=[]), r'"masklet" is empty'),
    ("ref_sav", SAV, at("masklet", 2, to=5), r'"masklet": frame 2 is 5, not a list'),
    ("ref_sav", SAV, at("masklet", 2, to=[]), r"lists a different number of objects"),
    ("ref_sav", SAV, at("masklet", 0, 0, "size", to=[0, 2]), r'"size" is \[0, 2\], not'),
    ("o3_sft", GCG, at(0, "caption"), r'item 0: key "caption" is missing'),
    (
        "o3_sft",
        GCG,
        at(0, "file_name", to="../sa_1.jpg"),
        r"its image is '../sa_1.jpg', which leads",
    ),
    (
        "o3_sft",
        GCG,
        at(*DOGS, "token_positives", to=[3, 99]),
        r"'a dog': its position is \[3, 99\]",
    ),
    ("o3_sft", GCG, at(*DOGS, "rle_masks"), r'key \'0/0\': key "rle_masks" is missing'),
    (
        "o3_sft",
        GCG,
        at(*DOGS, "rle_masks", 0, "counts", to="0"),
        r"key '0/0': frame 0: \"counts\" cover",
    ),
    (
        "mevis",
        "valid_u/meta_expressions.json",
        at(V, "0a1b2c", "frames", 1, to="../../00005"),
        r"a name in \"frames\" is '../../00005', which leads out of the data set's folder",
    ),
    ("revos", R, at(*DOG, "type_id"), r"valid_.json: 'the dog': key \"type_id\" is missing"),
    (
        "revos",
        R,
        at(*DOG, "type_id", to=3),
        r"valid_.json: \"type_id\" of 'the dog' is 3, not one of 0 \(referring\)",
    ),
    (
        "revos",
        R,
        at(*DOG, "anno_id", to=[999]),
        r"expression '0' names annotation '999', which .*mask_dict.json does",
    ),
    (
        "revos",
        R,
        at(V, "UVO/all/short", "frames"),
        r"video 'UVO/all/short': key \"frames\" is missing",
    ),
    (
        "revos",
        "mask_dict_foreground.json",
        at("LVOS/valid/kitten", "masks_rle", to=[None]),
        r"foreground.json: key 'LVOS/valid/kitten': \"masks_rle\" holds 1 masks for 4 frames",
    ),
    (
        "revos",
        "mask_dict_foreground.json",
        at("LVOS/valid/kitten", "masks_rle", to=[{"size": 3}] * 4),
        r"foreground.json: \"masks_rle\" of key 'LVOS/valid/kitten': frame 0: "
        r"\"size\" is 3, not a list",
    ),
    (
        "lvvis",
        "train/" + M,
        at(V, "00000", "frames", to=["00001", 2.5]),
        r"video '00000': \"frames\" holds 2.5",
    ),
    (
        "reasonvos",
        M,
        at(V, "drive", "source"),
        r"meta_expressions.json: video 'drive': key \"source\" is missing",
    ),
    (
        "reasonvos",
        M,
        at(V, "v_0001", E, 1, "exp_id"),
        r"video 'v_0001': expression 1: key \"exp_id\" is missing",
    ),
    (
        "reasonvos",
        M,
        at(V, "v_0001", E, 1, "exp_text"),
        r"video 'v_0001': expression '1': key \"exp_text\" is missing",
    ),
    (
        "reasonvos",
        M,
        at(V, "drive", E, "7", "obj_id", to=4),
        r"names object '4', but there is .*burst_drive_4",
    ),
    (
        "longrvos",
        "valid/" + M,
        at(V, "71fb69bbcd", E, "0", "type", to="slow"),
        r"\"type\" of 'the red car' is 'slow'",
    ),
    (
        "longrvos",
        "valid/" + M,
        at(V, "71fb69bbcd", E, "0", "obj_id", to=9),
        r"names object '9', .*71fb69bbcd/9",
    ),
    (
        "ref_youtube_vos",
        "meta_expressions/train/" + M,
        at(V, "003234408d", E, "1", "obj_id", to="x"),
        r"expression '1': \"obj_id\" is 'x', not the number of an object",
    ),
    ("ref_youtube_vos", "train/meta.json", at(V), r"train/meta.json: key \"videos\" is missing"),
    (
        "reasonseg",
        "val/77_b.json",
        at("text", to=[]),
        r"77_b.json: \"text\" is \[\], not a list of one or more",
    ),
    ("reasonseg", "val/77_b.json", at("is_sentence"), r"77_b.json: key \"is_sentence\" is missing"),
    (
        "reasonseg",
        "val/77_b.json",
        at("shapes", 0, "label"),
        r"77_b.json: shape 0: key \"label\" is missing",
    ),
    (
        "reasonseg",
        "val/77_b.json",
        at("shapes", 0, "points", to=[[1], [2, 3]]),
        r"shape 0: \"points\" is .*, not",
    ),
    (
        "refcoco",
        "instances.json",
        at("annotations", 0, "segmentation", to=[[1, 2]]),
        r"key '1': \"segmentation\" ",
    ),
    (
        "refcoco",
        "instances.json",
        at("annotations", 0),
        r"reference 0 names annotation '1', which .*instances.json",
    ),
    ("refcoco", "instances.json", at("images"), r"instances.json: key \"images\" is missing"),
    ("vts_cot", COT, at(0, "video_name"), r"revos.json: item 0: key \"video_name\" is missing"),
    (
        "vts_cot",
        COT,
        at(0, "sample_frame_indice", to=[0, 4]),
        r"item 0: \"sample_frame_indice\" is 4, not a frame",
    ),
    (
        "vts_cot",
        COT,
        at(0, "cot_trace", 0, "key_frame", to=9),
        r"item 0: cot_trace 0: \"key_frame\" is 9, not a frame",
    ),
    (
        "vts_cot",
        COT,
        at(0, "cot_trace", 0, "key_frame", to=1),
        r"cot_trace 0 is \(0, 4, 1\) .* selects \(0, 4, 2\)",
    ),
    (
        "vts_cot",
        COT,
        at(0, "conversations", 1, "from", to="user"),
        r"item 0: conversations: \"from\" is 'user'",
    ),
    (
        "o3_rl",
        RL,
        at(0, 0, "mask_existence", to=[1]),
        r"item 0: \"mask_existence\" has 1 entries for 4 frames",
    ),
    ("o3_rl", RL, at(0, to=[]), r"rl_mevis_data.json: item 0 is an empty list"),
    ("o3_rl", RL, at(0, 0, "anno_id"), r"rl_mevis_data.json: item 0: key \"anno_id\" is missing"),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "path"),
        r"mine.json: video 'kitchen': key \"path\" is missing",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "path", to="no.mp4"),
        r"video 'kitchen': \"path\": .*no.mp4: no such file",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "colour", to=1),
        r"video 'kitchen': unknown key 'colour'; known: path, frames",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "frames", to=["0"]),
        r"video 'kitchen': \"frames\" is for a folder of images",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, E, 0, "objects", to=["pan"]),
        r"expression 0: \"objects\" names 'pan'; .* jug",
    ),
    ("own", "mine.json", at(*KITCHEN, E, 0, "exp", to=" "), r"expression 0: \"exp\" is empty"),
    (
        "own",
        "mine.json",
        at(*KITCHEN, E, 0, "object", to=[]),
        r"expression 0: unknown key 'object'; known: exp",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "objects", "cup", to="clips"),
        r"object 'cup': .*clips holds no PNG",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "objects", "cup", to="no"),
        r"object 'cup': there is no folder",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "objects", "jug", to=[None]),
        r"object 'jug' has 1 masks, but its video 4",
    ),
    (
        "own",
        "mine.json",
        at(*KITCHEN, "objects", "jug", 0, "size", to=[24, 31]),
        r"object 'jug': key 'jug': frame 0",
    ),
    (
        "own",
        "mine.json",
        at(V, "yard", "frames", to=["7"]),
        r"frames/yard/7.jpg is missing: .*'yard': \"frames\"",
    ),
]


@pytest.mark.parametrize(("format", "file", "change", "message"), CASES)
def test_a_wrong_field_is_named(
    format: str, file: str, change: Change, message: str, tmp_path: Path
) -> None:
    written = FIXTURES[format](tmp_path)
    content = json.loads((written.root / file).read_text())
    change(content)
    dump(written.root / file, content)
    with pytest.raises(ValueError, match=message):
        load_samples(format, str(written.root), written.split, no_target="keep")
    samples, found = read_all(format, str(written.root), written.split)
    assert found
    assert len(samples) <= len(written.expected)


def test_texts_of_davis(tmp_path: Path) -> None:
    root = FIXTURES["ref_davis17"](tmp_path).root
    file = root / "davis_text_annotations/Davis17_annot2.txt"
    good = file.read_text("latin-1")
    file.write_text(good + "dogs-jump the dog\n", "latin-1")
    with pytest.raises(
        ValueError, match="Davis17_annot2.txt: line 4 is 'dogs-jump the dog', not: video object"
    ):
        load_samples("ref_davis17", str(root), "valid")
    file.write_text(good.replace("dogs-jump", "dogs-walk"), "latin-1")
    with pytest.raises(ValueError, match="Davis17_annot2.txt: no sentence for video 'dogs-jump'"):
        load_samples("ref_davis17", str(root), "valid")
    file.unlink()
    with pytest.raises(ValueError, match="Davis17_annot2.txt is missing"):
        load_samples("ref_davis17", str(root), "valid")
    with pytest.raises(
        ValueError, match="Ref-DAVIS17 has the splits train, valid; there is no 'test'"
    ):
        load_samples("ref_davis17", str(root), "test")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("mevis", "nowhere: no such folder; splits under .*: valid_u"),
        ("revos", "no such file; splits in .*: train, valid"),
        ("reasonvos", "ReasonVOS has one split, 'test'"),
        ("longrvos", "nowhere: no such folder; splits under .*: valid"),
        ("ref_youtube_vos", "nowhere: no such folder; splits under .*: test, train, valid"),
        ("reasonseg", "nowhere: no such folder; splits under .*: val"),
        ("vts_cot", "'nowhere' is not a source; known: mevis, revos, longrvos"),
        ("o3_rl", "'nowhere' is not a source"),
        ("own", "nowhere.json: no such file; splits in .*: mine"),
        ("groundmore", "none of nowhere_v2.json, .* is there; it has test_v2.json"),
        ("ref_sav", "Ref-SAV has the splits train, valid; there is no 'nowhere'"),
        ("visionreasoner", "neither data/nowhere-.* is there; splits under it: train"),
        ("o3_sft", "'nowhere' is not a part of the mixture; it has video_qa, vtg, gcg_grandf"),
    ],
)
def test_a_split_that_is_not_there(format: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_samples(format, str(FIXTURES[format](tmp_path).root), "nowhere")


def test_pngs_of_your_own_that_are_no_frames(tmp_path: Path) -> None:
    root = FIXTURES["own"](tmp_path).root
    (root / "masks/kitchen/cup/00000.png").rename(root / "masks/kitchen/cup/frame0.png")
    with pytest.raises(
        ValueError, match=r"object 'cup': .*cup holds frame0.png, which is no frame: .*00000.png"
    ):
        load_samples("own", str(root), "mine")


def test_your_own_video_of_another_length(tmp_path: Path) -> None:
    """The file says how many frames there are, and masks must fit."""
    root = FIXTURES["own"](tmp_path).root
    mp4(root / "clips/kitchen.mp4", 6)
    with pytest.raises(ValueError, match="object 'jug' has 4 masks, but its video 6 frames"):
        load_samples("own", str(root), "mine")
    content = json.loads((root / "mine.json").read_text())
    content["videos"]["kitchen"]["objects"]["jug"] = rles(blob_of(1, 6))
    dump(root / "mine.json", content)
    sample = load_samples("own", str(root), "mine")[0]
    assert sample.video.num_frames == 6
    assert sample.video.frame_names[-1] == "00005"

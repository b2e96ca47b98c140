"""Every format, read from a small data set in its published layout, gives the expected samples.

Each kind of damage is one error with the file and the field in it.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core.masks import decode_frames, union_of_targets
from core.types import Notes
from data.fields import Faults
from data.frames.reading import read_frames
from data.load import READERS, load_samples
from data.readers.davis import official_videos
from data.readers.refcoco import references
from tests.data.fixtures import FIXTURES, HEIGHT, NAMES, WIDTH, blob, dump
from tests.peak_memory import peak_bytes


def test_there_is_a_fixture_for_every_format() -> None:
    assert FIXTURES.keys() == READERS.keys()


@pytest.mark.parametrize("format", FIXTURES)
def test_samples_are_those_written(format: str, tmp_path: Path) -> None:
    written = FIXTURES[format](tmp_path)
    samples = load_samples(format, str(written.root), written.split, no_target="keep")
    assert [sample.uid for sample in samples] == list(written.expected)
    # Samples travel to other processes.
    for sample in pickle.loads(pickle.dumps(samples)):
        expected = written.expected[sample.uid]
        assert sample.query == expected.query
        assert sample.kind == expected.kind
        video = sample.video
        assert (video.height, video.width) == (HEIGHT, WIDTH)
        assert sample.uid.startswith(f"{video.uid}/")
        last = video.num_frames - 1
        assert read_frames(video, [0, last]).shape == (2, HEIGHT, WIDTH, 3)
        for name, note in expected.notes.items():
            assert getattr(sample.notes, name) == note
        assert sample.notes.hidden == (expected.masks_FHW is None)
        if expected.masks_FHW is not None:
            found = decode_frames(union_of_targets(sample), HEIGHT, WIDTH)
            assert found.shape == expected.masks_FHW.shape, sample.uid
            assert (found == expected.masks_FHW).all(), sample.uid


@pytest.mark.parametrize("format", FIXTURES)
def test_samples_are_light(format: str, tmp_path: Path) -> None:
    """Masks stay on disk: a pickled sample does not grow with its pixels."""
    written = FIXTURES[format](tmp_path)
    for sample in load_samples(format, str(written.root), written.split):
        size = len(pickle.dumps(sample.targets))
        # Lists of masks in the JSON file of your own data are in memory.
        assert format == "own" or size < 600 * len(sample.targets)


def test_an_image_is_a_video_of_its_own(tmp_path: Path) -> None:
    """Two images of one folder are not taken for one another."""
    folder = FIXTURES["reasonseg"](tmp_path).root / "val"
    greys = {"200_0": 10, "77_b": 200}
    for name, grey in greys.items():
        frame_HWC = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
        cv2.imwrite(str(folder / f"{name}.jpg"), frame_HWC)
    samples = load_samples("reasonseg", str(tmp_path), "val")
    assert [sample.video.uid for sample in samples] == list(greys)
    for sample in samples:
        frames_nHWC = read_frames(sample.video, [0])
        assert abs(int(frames_nHWC.mean()) - greys[sample.video.uid]) < 3


def test_foreground_of_revos_is_everything_annotated(tmp_path: Path) -> None:
    FIXTURES["revos"](tmp_path)
    sample = load_samples("revos", str(tmp_path), "valid")[0]
    foreground_F = pickle.loads(pickle.dumps(sample)).notes.foreground_F
    found = decode_frames(foreground_F, HEIGHT, WIDTH)
    assert (found == blob(0) | blob(1) | blob(2)).all()
    (tmp_path / "mask_dict_foreground.json").unlink()
    assert load_samples("revos", str(tmp_path), "valid")[0].notes.foreground_F is None


def test_valid_of_youtube_vos_is_its_file_less_the_test_file(tmp_path: Path) -> None:
    root = str(FIXTURES["ref_youtube_vos"](tmp_path).root)
    samples = load_samples("ref_youtube_vos", root, "valid", no_target="keep")
    assert [sample.uid for sample in samples] == ["0062f687f1/0", "0062f687f1/1"]
    for sample in samples:
        assert sample.notes == Notes(hidden=True)
        assert not sample.targets
    samples = load_samples("ref_youtube_vos", root, "test", no_target="keep")
    assert [sample.video.uid for sample in samples] == ["00f88c4f0a", "00f88c4f0a"]
    (tmp_path / "meta_expressions/test/meta_expressions.json").unlink()
    with pytest.raises(
        ValueError,
        match="test/meta_expressions.json is missing: .* lists the videos of valid and of",
    ):
        load_samples("ref_youtube_vos", root, "valid", no_target="keep")


def convert_davis(root: Path, out: Path) -> None:
    """Write the layout of Ref-YouTube-VOS under `out`, with links to the files of `root`."""
    images = root / "DAVIS/JPEGImages/480p"
    annotations = root / "DAVIS/Annotations_unsupervised/480p"
    for split in ("train", "valid"):
        videos = official_videos(root, split, Faults())
        for name, source in (("JPEGImages", images), ("Annotations", annotations)):
            folder = out / split / name
            folder.mkdir(parents=True)
            for uid in videos:
                (folder / uid).symlink_to((source / uid).resolve(), target_is_directory=True)
        dump(out / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


def test_converted_davis_reads_as_the_official_one(tmp_path: Path) -> None:
    written = FIXTURES["ref_davis17"](tmp_path / "official")
    convert_davis(written.root, tmp_path / "converted")
    for split in ("train", "valid"):
        official = load_samples("ref_davis17", str(tmp_path / "official"), split)
        converted = load_samples("ref_davis17", str(tmp_path / "converted"), split)
        for one, other in zip(official, converted, strict=True):
            # The videos differ in their paths.
            assert replace(one, video=other.video) == other
    assert converted[0].video.path == str(tmp_path / "converted/valid/JPEGImages/dogs-jump")


def test_reasonseg_trains_on_every_sentence(tmp_path: Path) -> None:
    root = FIXTURES["reasonseg"](tmp_path).root
    (root / "val").rename(root / "train")
    assert [sample.uid for sample in load_samples("reasonseg", str(root), "train")] == [
        "200_0/0",
        "200_0/1",
        "77_b/0",
    ]


def test_long_rvos_as_the_o3_release_converts_it(tmp_path: Path) -> None:
    """mask_dict.json and anno_id replace the PNGs; without either there is no ground truth."""
    folder = FIXTURES["longrvos"](tmp_path).root / "valid"
    (folder / "Annotations").rename(tmp_path / "gone")
    for sample in load_samples("longrvos", str(tmp_path), "valid", no_target="keep"):
        assert sample.notes.hidden
    meta = json.loads((folder / "meta_expressions.json").read_text())
    for expression in meta["videos"]["71fb69bbcd"]["expressions"].values():
        expression["anno_id"] = [int(expression["obj_id"])]
    dump(folder / "meta_expressions.json", meta)
    nothing = [None] * len(NAMES)
    dump(folder / "mask_dict.json", {"1": nothing, "4": nothing})
    samples = load_samples("longrvos", str(tmp_path), "valid")
    assert [sample.targets[0].uid for sample in samples] == ["1", "1", "4"]


def test_splits_of_refcoco(tmp_path: Path) -> None:
    root = str(FIXTURES["refcoco"](tmp_path).root)
    assert [s.query for s in load_samples("refcoco", root, "testB")] == ["left bowl"]
    assert [s.query for s in load_samples("refcoco", root, "unc/val")] == ["caf\xe9 sign"]
    with pytest.raises(
        ValueError, match=r"refs\(unc\).p: no split 'train'; it has testA, val, testB"
    ):
        load_samples("refcoco", root, "train")
    with pytest.raises(ValueError, match=r"no refs\(google\).p; there is: refs\(unc\).p"):
        load_samples("refcoco", root, "google/val")


class Evil:
    def __reduce__(self) -> Any:
        # Not print itself: Ray puts another function in its place.
        return exec, ("print('this must not run')",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(
        ValueError, match=r"refs\(unc\).p is not a list of references \(it asks for builtins.exec"
    ):
        references(file)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == [file]


def doubled(times: int) -> list[Any]:
    """Return a list that holds one list twice, and so on."""
    content: list[Any] = []
    for _ in range(times):
        content = [content, content]
    return content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"\x80\x02]r\xff\xff\xff\x1f0.", "", id="a huge index"),
        pytest.param(b"\x80\x05\x96\0\0\0\xc0\0\0\0\0.", "", id="a huge array"),
        pytest.param(pickle.dumps(doubled(40)), "again and again", id="a list that doubles"),
        pytest.param(pickle.dumps({"refs": 1}), "it is a dict", id="no list"),
    ],
)
def test_a_pickle_takes_no_more_memory_than_its_data(
    tmp_path: Path, content: bytes, why: str
) -> None:
    file = tmp_path / "refs(unc).p"
    file.write_bytes(content)
    before = peak_bytes()
    with pytest.raises(ValueError, match=rf"is not a list of references \(.*{why}.*: download"):
        references(file)
    assert peak_bytes() - before < 64 << 20
    assert list(tmp_path.iterdir()) == [file]


def test_the_pickle_is_read_once(tmp_path: Path) -> None:
    file = FIXTURES["refcoco"](tmp_path).root / "refs(unc).p"
    refs = references(file)
    stamp = file.stat().st_mtime_ns
    copy = file.with_name("refs(unc).p.json")
    file.write_bytes(b"no pickle any more")
    os.utime(file, ns=(stamp, stamp))
    assert copy.is_file()
    assert references(file) == refs
    # Now the pickle is newer than its copy.
    later = copy.stat().st_mtime_ns + 1
    os.utime(file, ns=(later, later))
    with pytest.raises(ValueError, match="is not a list of references"):
        references(file)


# The JSON file with the expressions, by format.
META = {
    "mevis": "valid_u/meta_expressions.json",
    "revos": "meta_expressions_valid_.json",
    "lvvis": "train/meta_expressions.json",
    "reasonvos": "meta_expressions.json",
    "longrvos": "valid/meta_expressions.json",
    "ref_youtube_vos": "meta_expressions/train/meta_expressions.json",
    "reasonseg": "val/77_b.json",
    "refcoco": "instances.json",
    "vts_cot": "VTG-CoT/revos.json",
    "o3_rl": "VideoSEG-O3-RL/rl_mevis_data.json",
    "own": "mine.json",
    "groundmore": "test_v2.json",
    "ref_sav": "Ref-SAV.json",
    "o3_sft": "glamm_data/annotations/GranDf_HA_GCG_train.json",
}


@pytest.mark.parametrize("format", META)
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_json_file_is_one_error_that_names_it(
    format: str, damage: str, tmp_path: Path
) -> None:
    written = FIXTURES[format](tmp_path)
    file = written.root / META[format]
    text = file.read_text()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_text(text[: len(text) // 2])
    else:
        file.write_text("")
    with pytest.raises(ValueError) as raised:
        load_samples(format, str(written.root), written.split)
    message = str(raised.value)
    assert file.name in message
    assert "\n" not in message
    reason = {"cut": "is not JSON", "empty": "empty", "gone": ""}
    if format == "o3_sft":
        # ijson has another word for it.
        reason["empty"] = "is not JSON"
    assert reason[damage] in message


# A listed frame, by format.
FRAMES = {
    "mevis": "valid_u/JPEGImages/0a1b2c/00005.jpg",
    "revos": "JPEGImages/LVOS/valid/kitten/00005.jpg",
    "lvvis": "train/JPEGImages/00000/00002.jpg",
    "reasonvos": "JPEGImages/drive/00005.jpg",
    "longrvos": "valid/JPEGImages/71fb69bbcd/00005.jpg",
    "ref_youtube_vos": "train/JPEGImages/003234408d/00005.jpg",
    "reasonseg": "val/77_b.jpg",
    "refcoco": "../images/mscoco/images/train2014/COCO_train2014_000000000009.jpg",
    "vts_cot": "video_datas/revos/UVO/all/a-b/00005.jpg",
    "own": "frames/yard/00010.png",
    "o3_rl": "video_datas/mevis/train/JPEGImages/0a1b2c/00005.jpg",
    "ref_sav": "sam_v_full/sav_train/sav_000/sav_000001.mp4",
    "o3_sft": "glamm_data/images/grandf/train/sa_1.jpg",
}


@pytest.mark.parametrize("format", FRAMES)
def test_a_missing_frame_is_one_error_that_names_it(format: str, tmp_path: Path) -> None:
    written = FIXTURES[format](tmp_path)
    file = written.root / FRAMES[format]
    file.unlink()
    with pytest.raises(ValueError) as raised:
        load_samples(format, str(written.root), written.split)
    assert f"{file.parent.name}/{file.stem}." in str(raised.value)
    assert "missing" in str(raised.value)


MASKS = {
    "mevis": "valid_u/mask_dict.json",
    "revos": "mask_dict.json",
    "lvvis": "train/mask_dict.json",
    "vts_cot": "video_datas/revos/mask_dict.json",
    "o3_rl": "video_datas/mevis/train/mask_dict.json",
}


@pytest.mark.parametrize("format", MASKS)
def test_a_wrong_size_of_a_mask_is_one_error_that_names_it(format: str, tmp_path: Path) -> None:
    """One mask has a wrong size, then all of them have."""
    written = FIXTURES[format](tmp_path)
    file = written.root / MASKS[format]
    content = json.loads(file.read_text())
    for masks in content.values():
        masks[0]["size"] = [HEIGHT, WIDTH + 1]
    dump(file, content)
    with pytest.raises(ValueError, match=rf'{file.name}: key .*: frame \d: .*"size" is 24 x 33'):
        load_samples(format, str(written.root), written.split)
    for masks in content.values():
        for i, mask in enumerate(masks):
            # The number of pixels stays the same.
            if mask:
                masks[i] = {"size": [WIDTH, HEIGHT], "counts": mask["counts"]}
    dump(file, content)
    with pytest.raises(
        ValueError, match=rf'masks of annotation .* {file} have "size" 32 x 24 .* 24 x 32'
    ):
        load_samples(format, str(written.root), written.split)


def test_pngs_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    """Every frame needs its palette PNG."""
    root = FIXTURES["ref_youtube_vos"](tmp_path).root
    sample = load_samples("ref_youtube_vos", str(root), "train")[0]
    file = root / "train/Annotations/003234408d/00010.png"
    content = file.read_bytes()
    wide_HW = np.zeros((HEIGHT, WIDTH + 1), np.uint8)
    cv2.imwrite(str(file), wide_HW)
    with pytest.raises(ValueError, match=f"{file}: the mask is 24 x 33 .* 24 x 32"):
        tuple(sample.targets[0].masks_F)
    file.write_bytes(content[:40])
    with pytest.raises(ValueError, match=f"{file} is not a readable PNG"):
        tuple(sample.targets[0].masks_F)
    file.unlink()
    with pytest.raises(
        ValueError,
        match=f"{file} is missing: .*video '003234408d': expression '0': \"frames\" lists",
    ):
        load_samples("ref_youtube_vos", str(root), "train")


def test_names_are_the_frames_of_the_file(tmp_path: Path) -> None:
    """The server wants the listed frames, under their names."""
    FIXTURES["ref_youtube_vos"](tmp_path)
    samples = load_samples("ref_youtube_vos", str(tmp_path), "valid", no_target="keep")
    assert samples[0].video.frame_names == NAMES

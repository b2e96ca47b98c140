"""GroundMoRe, Ref-SAV, VisionReasoner's images and the SFT mixture: what is special in each."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from core.masks import decode_frames, union_of_targets
from core.types import Place, Sample
from data.frames.reading import read_frames
from data.load import load_samples
from data.prepare.check import problems, read_all
from data.prepare.tables import target_table
from data.prepare.verify import broken_frames
from tests.data.fixture_files import HEIGHT, WIDTH, dump, mp4
from tests.data.fixture_places_tasks import (
    PARTS,
    picture,
    rows_of_visionreasoner,
    visionreasoner,
    write_arrow,
    write_parquet,
)
from tests.data.fixture_videos import groundmore, ref_sav, ref_sav_valid


def answer_of(sample: Sample) -> str:
    """Return the first answer of a dialogue."""
    assert sample.notes.conversations is not None
    return sample.notes.conversations[1]["value"]


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_sft_mixture(part: str, tmp_path: Path) -> None:
    written = PARTS[part](tmp_path)
    # Samples without a target are whole: `no_target` does not leave them out.
    samples = pickle.loads(pickle.dumps(load_samples("o3_sft", str(tmp_path), part)))
    assert [sample.uid for sample in samples] == list(written.expected)
    for sample in samples:
        expected = written.expected[sample.uid]
        assert (sample.query, sample.kind) == (expected.query, expected.kind)
        assert read_frames(sample.video, [0]).shape == (1, HEIGHT, WIDTH, 3)
        for name, note in expected.notes.items():
            assert getattr(sample.notes, name) == note
        if expected.masks_FHW is not None:
            found = decode_frames(union_of_targets(sample), HEIGHT, WIDTH)
            assert (found == expected.masks_FHW).all()
            assert answer_of(sample).count("[SEG]") == len(sample.targets)
    assert problems("o3_sft", str(tmp_path), part) == []


def test_targets_of_a_caption_are_in_its_order(tmp_path: Path) -> None:
    PARTS["gcg_grandf"](tmp_path)
    [sample] = load_samples("o3_sft", str(tmp_path), "gcg_grandf")
    man, dog = (decode_frames(target.masks_F, HEIGHT, WIDTH)[0] for target in sample.targets)
    assert man[3:20, 14:20].all()
    assert man.sum() == 6 * 17
    assert dog[2:9, 2:9].all()


def test_a_video_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PARTS["vtg"](tmp_path)
    first = load_samples("o3_sft", str(tmp_path), "vtg")
    looked: list[str] = []
    monkeypatch.setattr("data.readers.o3_sft.facts", looked.append)
    assert load_samples("o3_sft", str(tmp_path), "vtg") == first
    assert looked == []


def test_only_the_first_record_of_a_changed_video_is_kept(tmp_path: Path) -> None:
    PARTS["vtg"](tmp_path)
    load_samples("o3_sft", str(tmp_path), "vtg")
    mp4(tmp_path / "VTG/TimeLens-100K/videos/queryd/a.mp4", 6)
    samples = load_samples("o3_sft", str(tmp_path), "vtg")
    assert [sample.video.num_frames for sample in samples] == [6, 6]
    answer = json.loads(answer_of(samples[0]))
    assert answer == {"start_frame": 2, "end_frame": 5}


def test_splits_of_ref_sav(tmp_path: Path) -> None:
    written = ref_sav_valid(tmp_path)
    for root in (tmp_path, tmp_path / "ref_sav_eval"):
        samples = load_samples("ref_sav", str(root), "valid")
        assert {sample.uid: sample.kind for sample in samples} == {
            uid: expected.kind for uid, expected in written.expected.items()
        }
    with pytest.raises(ValueError, match="Ref-SAV has the splits train, valid; there is no 'test'"):
        load_samples("ref_sav", str(tmp_path), "test")
    with pytest.raises(ValueError, match=r"none of Ref-SAV.json, .* is there: data.root"):
        load_samples("ref_sav", str(tmp_path), "train")


def test_frames_of_ref_sav_are_every_fourth_of_the_file(tmp_path: Path) -> None:
    ref_sav(tmp_path)
    sample = load_samples("ref_sav", str(tmp_path), "train")[0]
    video = sample.video
    assert video.frame_names == ("00000", "00004", "00008", "00012")
    # The fixture's frame i has the grey value 40 i.
    greys = read_frames(video, [0, 1]).mean((1, 2, 3))
    assert greys[1] - greys[0] > 100
    assert broken_frames(video) == []
    mp4(Path(video.path), 12)
    assert broken_frames(video) == [
        f"{video.path}: 12 frames, but 13 are listed: download it again"
    ]


def test_frames_outside_of_an_action_have_no_mask(tmp_path: Path) -> None:
    groundmore(tmp_path)
    file = tmp_path / "test_v2.json"
    content = json.loads(file.read_text())
    [video] = content["videos"].values()
    # Before the clip, and after it.
    video["questions"]["1"] |= {"action_start": "01:02", "action_end": "01:12"}
    video["questions"]["7"] |= {"action_start": "01:20", "action_end": "01:22"}
    dump(file, content)
    for sample in load_samples("groundmore", str(tmp_path), "test"):
        assert list(sample.targets[0].masks_F) == [None] * 12
    assert any(
        "not visible in any frame" in text for text in problems("groundmore", str(tmp_path), "test")
    )


def test_a_folder_in_the_place_of_a_frame_is_told(tmp_path: Path) -> None:
    groundmore(tmp_path)
    frame = min(tmp_path.rglob("images/frame_*.jpg"))
    frame.unlink()
    frame.mkdir()
    with pytest.raises(ValueError, match=rf"'{frame.stem}' is a frame .* download it again"):
        load_samples("groundmore", str(tmp_path), "test")
    assert any(frame.stem in text for text in problems("groundmore", str(tmp_path), "test"))


def test_boxes_and_points_of_visionreasoner(tmp_path: Path) -> None:
    """As numbers of the published pixels, x1 and y1 exclusive here."""
    visionreasoner(tmp_path)
    samples = load_samples("visionreasoner", str(tmp_path), "train")
    assert [len(sample.targets) for sample in samples] == [2, 1]
    assert samples[0].targets[1].place == Place(0, (20.0, 8.0, 33.0, 25.0), (25.5, 15.0))
    table = target_table("v", samples[0].targets[0])
    assert table.boxes_F4.tolist() == [[4, 2, 12, 10]]
    assert table.centres_F2.tolist() == [[7, 5]]
    assert table.areas_F.tolist() == [64]
    assert problems("visionreasoner", str(tmp_path), "train") == []


def test_both_forms_of_visionreasoner_are_one(tmp_path: Path) -> None:
    rows = rows_of_visionreasoner()
    write_parquet(tmp_path / "a/data/train-00000-of-00001.parquet", rows)
    write_arrow(tmp_path / "b/train/data-00000-of-00001.arrow", rows)
    found = []
    for root in ("a", "b"):
        samples = load_samples("visionreasoner", str(tmp_path / root), "train", no_target="keep")
        found.append([(sample.uid, sample.query, sample.targets) for sample in samples])
        assert (read_frames(samples[1].video, [0]) == 40).all()
    assert found[0] == found[1]


def test_images_are_unpacked_once_and_follow_their_file(tmp_path: Path) -> None:
    written = visionreasoner(tmp_path)
    file = tmp_path / "data/train-00000-of-00002.parquet"
    load_samples("visionreasoner", str(tmp_path), written.split)
    image = tmp_path / "data/train-00000-of-00002.parquet.images/000000.png"
    stamp = image.stat().st_mtime_ns
    load_samples("visionreasoner", str(tmp_path), written.split)
    assert image.stat().st_mtime_ns == stamp
    # The folder is moved, then a file changes.
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    first = load_samples("visionreasoner", str(moved), written.split)[0]
    assert first.video.path.startswith(str(moved))
    rows = rows_of_visionreasoner()
    rows[0]["problem"] = "two other cups"
    write_parquet(moved / file.relative_to(tmp_path), rows[:2])
    first = load_samples("visionreasoner", str(moved), written.split)[0]
    assert first.query == "two other cups"
    moved.rename(tmp_path)


def row_with(**changes: Any) -> dict[str, Any]:
    return {**rows_of_visionreasoner()[0], **changes}


def solution(**changes: Any) -> str:
    return json.dumps([{"bbox_2d": [4, 2, 11, 9], "point_2d": [7, 5], **changes}])


ROWS = [
    (row_with(solution="[{"), r'row 0: "solution" is not JSON'),
    (row_with(solution="{}"), r'row 0: "solution" is \'\{\}\', not a list of objects'),
    (row_with(solution="[1]"), r'object 0: key "bbox_2d" is missing'),
    (row_with(solution=solution(bbox_2d=[4, 2, 11])), r'"bbox_2d" is \[4, 2, 11\], not 4 numbers'),
    (row_with(solution=solution(bbox_2d=[4, 2, 99, 9])), r'"bbox_2d" is .* in 24 x 32 pixels'),
    (row_with(solution=solution(bbox_2d=[11, 2, 4, 9])), r"its corners are swapped"),
    (row_with(solution=solution(point_2d=[True, 5])), r'"point_2d" is \[True, 5\]'),
    (row_with(solution=solution(point_2d=[float("nan"), 5])), "NaN is no number"),
    (row_with(problem=" "), r'row 0: "problem" is empty'),
    (row_with(problem=None), r'row 0: "problem" is None, not a str'),
    (row_with(id="../../etc/x"), r'"id" is \'../../etc/x\', which leads out of the data set'),
    (row_with(image={"bytes": b"no image", "path": None}), r"000000.png is not a readable image"),
    (row_with(image={"bytes": picture()[:60], "path": None}), r"000000.png"),
    (row_with(image=None), r'row 0: "image" is None, not a dict'),
]


@pytest.mark.parametrize(("row", "message"), ROWS)
def test_wrong_rows_of_visionreasoner(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-0.parquet", [row])
    found = problems("visionreasoner", str(tmp_path), "train")
    assert len(found) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[0])


def test_damaged_tables(tmp_path: Path) -> None:
    file = tmp_path / "data/train-0.parquet"
    write_parquet(file, [{"id": "a", "problem": "b"}])
    with pytest.raises(
        ValueError, match='train-0.parquet: column "solution" is missing; it has id'
    ):
        load_samples("visionreasoner", str(tmp_path), "train")
    for content in (b"", b"PAR1", b"PAR1 nothing PAR1", b"\0" * 900):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="train-0.parquet is not a readable table"):
            load_samples("visionreasoner", str(tmp_path), "train")
    with pytest.raises(ValueError, match="neither data/valid-.* splits under it: train"):
        load_samples("visionreasoner", str(tmp_path), "valid")
    arrow = tmp_path / "other/train/data-0.arrow"
    arrow.parent.mkdir(parents=True)
    arrow.write_bytes(b"\xff\xff\xff\xff nothing")
    with pytest.raises(ValueError, match="data-0.arrow is not a readable table"):
        load_samples("visionreasoner", str(tmp_path / "other"), "train")


def test_lines_that_are_no_json_are_left_out_one_by_one(tmp_path: Path) -> None:
    PARTS["vtg"](tmp_path)
    file = tmp_path / "VTG/TimeLens-100K/timelens-100k.jsonl"
    good = file.read_text()
    file.write_text('{"video_path": \n' + good)
    with pytest.raises(ValueError, match="timelens-100k.jsonl: line 1 is not JSON"):
        load_samples("o3_sft", str(tmp_path), "vtg")
    samples, found = read_all("o3_sft", str(tmp_path), "vtg")
    assert len(samples) == 2
    assert len(found) == 1

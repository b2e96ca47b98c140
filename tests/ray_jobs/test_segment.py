"""`ray_jobs.segment` on a video file and a wrong file; and its parts.

An image is segmented with a drawing policy, in test_drawing_system.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from configs.load import REPOSITORY, keys
from core.masks import decode
from core.types import Video
from data.frames.probing import probe
from data.frames.reading import read_frames
from ray_jobs import segment
from tests.ray_jobs.conftest import EXTRA, start_job, told
from tiny.world.clip import write_clip


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return start_job("segment", *words)


def test_a_video_file_ends_with_an_overlay_to_look_at(tmp_path: Path) -> None:
    """A second of a scene, 480 x 480; the policy answers with a box, right or wrong."""
    clip = tmp_path / "my clip.mp4"
    out = tmp_path / "out"
    write_clip(clip, seconds=1)
    done = run(str(clip), "the blue triangle", "revseg_tiny", "--out", str(out), "--png", *EXTRA)
    assert done.returncode == 0, told(done)
    # Once, and last: what a person with a real clip needs to know.
    assert done.stdout.count(segment.SHAPES_ONLY) == 1
    assert done.stdout.splitlines()[-1] == segment.SHAPES_ONLY
    for name in (
        "overlay.mp4",
        "keyframe.png",
        "masks.json",
        "answer.json",
        "reasoning.txt",
        "masks",
    ):
        assert (out / name).exists(), told(done)
        assert str(out / name) in done.stdout, told(done)

    answer = json.loads((out / "answer.json").read_text())
    assert answer["end"] == "done"
    assert answer["frames"] == 24
    assert answer["height"] == 480
    assert answer["width"] == 480
    [prompt] = answer["prompts"]
    x0, y0, x1, y1 = prompt["box"]
    assert 0 <= x0 < x1 <= 480
    assert 0 <= y0 < y1 <= 480

    rles = json.loads((out / "masks.json").read_text())["masks"]
    assert len(rles) == 24
    frames_with_mask = [frame for frame, rle in enumerate(rles) if rle]
    frames_in_spans: list[int] = []
    for start, stop in answer["spans_with_mask"]:
        frames_in_spans += range(start, stop)
    assert frames_with_mask == frames_in_spans
    mask_HW = decode(rles[prompt["frame"]])
    inside = mask_HW[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
    assert mask_HW.shape == (480, 480)
    assert inside.sum() > 0.5 * mask_HW.sum() > 50
    png = np.asarray(Image.open(out / "masks" / f"{prompt['frame']:05d}.png"))
    assert np.array_equal(png > 0, mask_HW)
    assert len(list((out / "masks").glob("*.png"))) == 24

    with av.open(str(out / "overlay.mp4")) as file:
        assert file.streams.video[0].average_rate == 24
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    # The keyframe is held for a second.
    assert len(shown) == 24 + 23
    assert Image.open(out / "keyframe.png").size == (480, 480)
    original = read_frames(probe(clip), [0, 23])
    # Outside a mask the picture is unchanged.
    for image_HWC, picture in zip(original, (shown[0], shown[-1]), strict=True):
        assert np.median(np.abs(picture[:480, :480].astype(int) - image_HWC)) < 6
    text = (out / "reasoning.txt").read_text()
    assert "the blue triangle" in text
    assert "turn 2" in text
    assert "bbox_2d" in text
    several_give_the_same(clip, out)


def several_give_the_same(clip: Path, out: Path) -> None:
    """Segment a folder of the clip, an image and a broken file, twice."""
    folder = clip.parent / "several"
    folder.mkdir()
    shutil.copy(clip, folder)
    (folder / "broken.mp4").write_text("no pictures here")
    (folder / "frames").mkdir()
    Image.open(out / "keyframe.png").save(folder / "frames/1.png")
    results = clip.parent / "results"
    words = (str(folder), "the blue triangle", "revseg_tiny", *EXTRA, "--out", str(results))
    done = run(*words)
    # The broken one is told, and costs nothing else.
    assert done.returncode == 1, told(done)
    assert "1 of 3 videos have no result" in done.stderr
    assert f"{folder}/broken.mp4" in done.stderr
    assert not (results / "broken").exists()
    alone = json.loads((out / "masks.json").read_text())["masks"]
    together = json.loads((results / "my_clip/masks.json").read_text())["masks"]
    assert together == alone
    assert json.loads((results / "frames/answer.json").read_text())["frames"] == 1

    before = (results / "my_clip/answer.json").stat().st_mtime_ns
    done = run(*words)
    assert "2 of 3 videos were finished before" in done.stdout, told(done)
    assert done.returncode == 1
    assert (results / "my_clip/answer.json").stat().st_mtime_ns == before


def test_a_text_file_renamed_is_one_clear_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no pictures here\n" * 100)
    done = run(str(tmp_path / "text.mp4"), "the cat")
    assert done.returncode == 1
    assert not done.stdout
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {tmp_path}/text.mp4: ")
    assert "Invalid data" in line
    assert "give a video file" in line


def test_settings_are_those_of_the_other_jobs_but_for_what_one_video_does_not_need() -> None:
    plain = segment.settings([])
    # Whoever brings a clip of a real scene is told what to expect.
    assert segment.is_shipped(plain)
    plain.policy.path = "/data/policy"
    assert not segment.is_shipped(plain)
    plain = segment.settings([])
    assert plain.system.name == "revseg"
    assert plain.policy.path == str(REPOSITORY / "tiny/weights/revseg")
    assert plain.rollout.workers == 1
    assert not plain.data.synthetic
    for words in (["revseg_tiny", "seed=7"], ["preset=revseg_tiny", "seed=7"], ["seed=7"]):
        assert segment.settings(words).seed == 7
    with pytest.raises(ValueError, match="two presets, 'a' and 'b'"):
        segment.settings(["a", "seed=1", "b"])
    with pytest.raises(ValueError, match="did you mean seed"):
        segment.settings(["sed=1"])
    with pytest.raises(ValueError, match="policy.path=no/where"):
        segment.settings(["policy.path=no/where"])


@pytest.mark.parametrize("preset", ["videoseg_o3_4b", "revseg_7b"])
def test_the_data_sets_of_a_preset_need_not_be_there(preset: str) -> None:
    policy = "policy.path=tiny/weights/videoseg_o3"
    cfg = segment.settings([preset, policy, "segmenter.path=tiny/weights/segmenter"])
    assert cfg.data.sets == []


def test_help_lists_every_key_and_option() -> None:
    text = segment.parser().format_help()
    assert all(key in text for key in keys())
    assert "--png" in text
    assert "default revseg_tiny" in text
    words = ["v.mp4", "--png", "a dog", "seed=1", "--fps", "30000/1001", "x=2"]
    given = segment.parser().parse_intermixed_args(words)
    assert given.video == "v.mp4"
    assert given.sentence == "a dog"
    assert given.settings == ["seed=1", "x=2"]
    assert given.png
    assert given.fps == Fraction(30000, 1001)


def test_wrong_words_are_told_before_anything_starts(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    cfg = segment.settings([])
    with pytest.raises(ValueError, match="the sentence is empty"):
        segment.segment(str(tmp_path / "a.png"), "  ", cfg)
    given = segment.parser().parse_args(["a.png", "a dog", "--fps=-1"])
    with pytest.raises(ValueError, match="--fps -1: must be above 0"):
        segment.style_of(given)
    given = segment.parser().parse_args(["a.png", "a dog", "--fps=2", "--audio"])
    with pytest.raises(ValueError, match="--fps with --audio"):
        segment.style_of(given)


def test_two_videos_of_one_name_have_a_folder_each(tmp_path: Path) -> None:
    cfg = segment.settings([f"runs={tmp_path}"])
    first = Video("clip", "a/clip.mp4", ("0",), 4, 6)
    second = Video("clip", "b/clip.mp4", ("0",), 4, 6)
    folder = segment.folder_of(cfg, first)
    folder.mkdir(parents=True)
    (folder / "answer.json").write_text(json.dumps({"video": first.path}))
    assert segment.folder_of(cfg, first) == folder
    assert segment.folder_of(cfg, second) == folder.with_name("clip_2")

"""Preparation of real files, whole and broken, and of a filter after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from cluster.placement import decide
from configs.load import REPOSITORY, load
from configs.schema import ClusterConfig, Config, DataConfig, PrepareConfig
from core.masks import boxes_areas
from data.load import load_samples
from data.prepare.keep import keep_samples
from data.prepare.tables import load_tables
from data.prepare.verify import Problem
from ray_jobs import prepare
from ray_jobs.driver.prepare_steps import PreparedSplit, fit_step
from ray_jobs.prepare import parse_arguments, present_splits, splits_to_prepare
from ray_jobs.record.progress import Progress
from tests.data.fixtures import FIXTURES
from tests.ray_jobs.conftest import TIMEOUT_S, environment, job_command, start_job, told
from tiny.world.write import write_split

# Videos of a small split, and of one that takes a while.
FEW = 3
SEVERAL = 16


def test_a_command_line() -> None:
    assert parse_arguments(["data.root=/d", "valid"]) == (["prepare", "data.root=/d"], ["valid"])
    assert parse_arguments(["revseg_tiny", "train", "seed=1", "valid"]) == (
        ["revseg_tiny", "seed=1"],
        ["train", "valid"],
    )
    assert parse_arguments(["--help"]) == (["prepare", "--help"], [])
    assert parse_arguments([]) == (["prepare"], [])


def test_splits_are_those_that_are_there(tmp_path: Path) -> None:
    cfg = load(["prepare", f"data.root={tmp_path}"])
    assert present_splits(cfg) == ["train"]
    (tmp_path / "test").mkdir()
    (tmp_path / "valid").mkdir()
    assert present_splits(cfg) == ["valid", "test"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.root=no/where", "data.synthetic=false"], "data.root=no/where: no such folder"),
        (
            ["prepare.steps=[filter]", "segmenter.path=no/weights", "data.root=."],
            "segmenter.path=no/weights",
        ),
        (["prepare.steps=[chek]"], "did you mean check"),
    ],
)
def test_mistakes_are_one_line_before_ray_starts(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare.main([*settings, f"prepare.output={tmp_path}"])


@pytest.fixture
def split(tmp_path: Path) -> PreparedSplit:
    write_split(tmp_path, "train", seed=3, num_videos=FEW, expressions_per_video=2)
    cfg = load(["prepare", f"data.root={tmp_path}"])
    found = PreparedSplit(
        cfg, decide(cfg, []), "train", tmp_path / "prepared", Progress.open(0, "test")
    )
    found.read()
    return found


def test_a_broken_video_is_known_once_and_left_out(split: PreparedSplit) -> None:
    assert not split.problems
    assert len(split.good) == FEW
    uid = split.samples[0].video.uid
    for texts in (["a frame", "another"], ["another"]):
        split.add_problems([Problem(uid, text) for text in texts])
    assert [p.text for p in split.problems] == ["a frame", "another"]
    good = [piece.video.uid for piece in split.good]
    # Two expressions a video; the first video is the broken one.
    assert good == [sample.video.uid for sample in split.samples[2::2]]


def test_what_is_odd_costs_no_video(split: PreparedSplit) -> None:
    split.add_problems(
        [Problem(split.samples[0].video.uid, "a sentence without words", odd=True)] * 2
    )
    assert len(split.problems) == 1
    assert len(split.good) == FEW


def test_a_fingerprint_follows_the_annotations(split: PreparedSplit) -> None:
    before = split.fingerprint("tables")
    assert split.fingerprint("tables") == before != split.fingerprint("filter")
    file = Path(split.cfg.data.root) / "train" / "mask_dict.json"
    file.write_text(file.read_text() + " ")
    split.read()
    assert split.fingerprint("tables") != before


def command(*words: str) -> list[str]:
    return job_command("prepare", *words)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return start_job("prepare", *words)


def _edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_everything_broken_is_listed_at_once_and_the_rest_is_prepared(tmp_path: Path) -> None:
    """A truncated file, a missing frame, a wrong size, too short runs; and an empty split."""
    write_split(tmp_path, "train", seed=1, num_videos=6, expressions_per_video=2)
    shutil.copytree(tmp_path / "train", tmp_path / "valid")
    images = sorted((tmp_path / "train" / "JPEGImages").iterdir())
    truncated = images[0] / "00007.jpg"
    gone = images[1] / "00002.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    gone.unlink()
    meta = json.loads((tmp_path / "train" / "meta_expressions.json").read_text())["videos"]
    anno = []
    for folder in images[2:4]:
        for expression in meta[folder.name]["expressions"].values():
            if expression["anno_id"]:
                anno.append(str(expression["anno_id"][0]))
    wrong_size = anno[0]
    wrong_runs = anno[-1]

    def spoil(masks: dict[str, list[Any]]) -> None:
        for rle in filter(None, masks[wrong_size]):
            rle["size"] = [56, 112]
        next(filter(None, masks[wrong_runs]))["counts"] = "0d0"

    _edit(tmp_path / "train" / "mask_dict.json", spoil)
    (tmp_path / "valid" / "meta_expressions.json").write_text("")
    torn = sorted((tmp_path / "valid" / "JPEGImages").iterdir())[0] / "00001.jpg"
    torn.write_bytes(b"")

    done = run(
        f"data.root={tmp_path}", "prepare.workers=2", "prepare.sheet_rows=3", "train", "valid"
    )
    assert done.returncode == 1, told(done)
    lines = [line for line in done.stdout.splitlines() if line.startswith("wrong: ")]
    for words in (
        [str(truncated), "truncated"],
        [str(gone), "missing"],
        ["mask_dict.json", f"'{wrong_size}'", "56"],
        ["mask_dict.json", f"'{wrong_runs}'"],
        [str(tmp_path / "valid" / "meta_expressions.json"), "empty"],
        [str(torn)],
    ):
        matching = [line for line in lines if all(word in line for word in words)]
        assert len(matching) == 1, f"{words} in:\n" + "\n".join(lines)
    assert "Traceback" not in done.stdout + done.stderr

    report = json.loads((tmp_path / "prepared" / "train" / "report.json").read_text())
    assert report["wrong"] == len(report["problems"]) >= 4
    assert report["odd"] == 0
    broken = {problem["video"] for problem in report["problems"]}
    assert broken >= {images[0].name, images[1].name}
    tables = load_tables(tmp_path / "prepared" / "train" / "tables.npz")
    videos = {video for video, _ in tables}
    assert {folder.name for folder in images[4:]} <= videos
    assert not videos & {folder.name for folder in images[:2]}
    assert not (tmp_path / "prepared" / "valid" / "tables.npz").exists()
    with Image.open(tmp_path / "prepared" / "train" / "contact_sheet.jpg") as sheet:
        assert sheet.size[0] > 1000


@pytest.mark.slow
def test_a_filter_that_is_killed_goes_on_with_the_rest(tmp_path: Path) -> None:
    write_split(tmp_path, "train", seed=2, num_videos=SEVERAL, expressions_per_video=2)
    words = (f"data.root={tmp_path}", "prepare.steps=[tables,filter]", "prepare.workers=2", "train")
    made = tmp_path / "prepared" / "train"
    process = subprocess.Popen(
        command(*words),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while len(_lines(made / "filter.jsonl")) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    before = _lines(made / "filter.jsonl")[1:]
    assert 2 <= len(before) < SEVERAL
    assert not (made / "keep.json").exists()

    done = run(*words)
    assert done.returncode == 0, told(done)
    assert f"{len(before)} of {SEVERAL} videos were done before" in done.stdout
    lines = _lines(made / "filter.jsonl")[1:]
    assert lines[: len(before)] == before
    assert len(lines) == SEVERAL
    assert len({line["piece"] for line in lines}) == SEVERAL, "no video was judged twice"

    content = json.loads((made / "keep.json").read_text())
    samples = load_samples("mevis", str(tmp_path), "train")
    videos = {sample.video.uid for sample in samples}
    kept = {sample.video.uid for sample in keep_samples(samples, made / "keep.json")}
    assert kept == set(content["keep"]) & videos
    assert content["threshold"] == 0.6
    assert len(content["keep"]) + len(content["drop"]) == SEVERAL
    ious = [video["mean_iou"] for video in content["videos"].values()]
    assert np.mean([iou for iou in ious if iou is not None]) > 0.7

    tables = load_tables(made / "tables.npz")
    for sample in samples[:10]:
        boxes_F4 = boxes_areas(sample)[0]
        if len(sample.targets) == 1:
            assert (tables[sample.video.uid, sample.targets[0].uid].boxes_F4 == boxes_F4).all()


@pytest.mark.parametrize("format", sorted(FIXTURES))
def test_every_format_is_prepared(ray_env: dict[str, str], format: str, tmp_path: Path) -> None:
    """Published layouts have no errors, and their tables hold the objects of the fixture."""
    written = FIXTURES[format](tmp_path / "data")
    cfg = Config(
        data=DataConfig(format=cast(Any, format), root=str(written.root)),
        prepare=PrepareConfig(output=str(tmp_path / "made"), workers=2, sheet_rows=2),
        cluster=ClusterConfig(use_gpu="no"),
    )
    with Progress.open(0, format) as progress:
        assert prepare.prepare_split(cfg, decide(cfg, []), written.split, progress) == 0
    made = tmp_path / "made" / written.split
    files = {file.name for file in made.iterdir()}
    assert files == {"report.json", "tables.npz", "statistics.json", "contact_sheet.jpg"}
    statistics = json.loads((made / "statistics.json").read_text())
    assert statistics["expressions"] == len(written.expected)
    tables = load_tables(made / "tables.npz")
    for sample in load_samples(format, str(written.root), written.split, "keep"):
        truth_FHW = written.expected[sample.uid].masks_FHW
        is_single = len(sample.targets) == 1 and sample.targets[0].place is None
        if truth_FHW is not None and is_single:
            table = tables[sample.video.uid, sample.targets[0].uid]
            assert table.areas_F.tolist() == truth_FHW.sum((1, 2)).tolist()
            for (x, y), mask_HW in zip(table.centres_F2, truth_FHW, strict=True):
                if mask_HW.any():
                    assert mask_HW[y, x]
                else:
                    assert (x, y) == (-1, -1)


def _lines(file: Path) -> list[Any]:
    if not file.exists():
        return []
    # The last line may still be incomplete.
    whole = file.read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole]


def test_each_set_of_a_mix_is_prepared_in_its_own_root(tmp_path: Path) -> None:
    for root in ("a", "b"):
        (tmp_path / root / "test").mkdir(parents=True)
    sets = f"data.sets=[{{format: mevis, root: {tmp_path}/a, split: train}}]"
    cfg = load(["revseg_tiny", f"data.root={tmp_path}/b", sets, f"prepare.output={tmp_path}/out"])
    found = []
    for own, split in splits_to_prepare(cfg, []):
        found.append((own.data.root, split, own.prepare.output))
    assert found == [
        (f"{tmp_path}/a", "train", f"{tmp_path}/out/mevis_train"),
        (f"{tmp_path}/b", "test", f"{tmp_path}/out"),
    ]
    assert splits_to_prepare(cfg, ["valid"]) == [(cfg, "valid")]


def test_expressions_that_cannot_fit_are_odd_and_named(split: PreparedSplit) -> None:
    split.cfg.rollout.max_model_len = 1
    fit_step(split)
    assert len(split.problems) == len(split.samples)
    for problem, sample in zip(split.problems, split.samples, strict=True):
        assert problem.odd
        assert sample.uid in problem.text
        assert "rollout.max_model_len=1" in problem.text

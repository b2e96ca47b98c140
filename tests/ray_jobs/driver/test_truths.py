"""A job refuses samples that it cannot use, by name and with the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.splits import MIX, named_after_set
from configs.schema import Config, DataConfig, SetConfig
from core.types import Sample, System, Target
from data.load import load_samples
from ray_jobs.driver.truths import check_splits
from systems.revseg import ReVSeg
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.options import VideoSegR1Options
from tests.data.fixture_places_tasks import PARTS, visionreasoner
from tests.data.fixtures import FIXTURES, ref_youtube_vos

CFG = Config(data=DataConfig(root="sets", train_split="train", test_split="test"))
POINTING = VideoSegR1(VideoSegR1Options(answer="box_point"))


@pytest.fixture
def places(tmp_path: Path) -> list[Sample]:
    visionreasoner(tmp_path)
    return load_samples("visionreasoner", str(tmp_path), "train")


@pytest.fixture
def dialogues(tmp_path: Path) -> list[Sample]:
    PARTS["video_qa"](tmp_path)
    return load_samples("o3_sft", str(tmp_path), "video_qa")


@pytest.mark.parametrize("system", [ReVSeg(), VideoSegR1(), VideoSegO3()])
def test_rewards_of_masks_do_not_learn_from_places(system: System, places: list[Sample]) -> None:
    for job in ("", "warm_start"):
        with pytest.raises(
            ValueError,
            match=r"sets, split 'train': sample 'refcocog_12/0' has boxes and points but no masks, "
            rf"which the reward of {system.name} needs: train system.name=videoseg_r1 with .*"
            "answer=box_point",
        ):
            check_splits(CFG, system, {"train": places}, job)


def test_places_are_learned_and_not_measured(places: list[Sample]) -> None:
    check_splits(CFG, POINTING, {"train": places}, "")
    check_splits(CFG, POINTING, {"train": places}, "warm_start")
    with pytest.raises(ValueError, match=r"split 'test': .* nothing can be measured on it: train"):
        check_splits(CFG, POINTING, {"test": places}, "evaluate")


def test_dialogues_serve_the_warm_start_of_a_system_with_their_task(
    dialogues: list[Sample],
) -> None:
    check_splits(CFG, VideoSegO3(), {"train": dialogues}, "warm_start")
    with pytest.raises(
        ValueError, match=r"task 'qa', which revseg does not demonstrate: choose system.name="
    ):
        check_splits(CFG, ReVSeg(), {"train": dialogues}, "warm_start")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"task 'qa', which has no reward and no figure"):
            check_splits(CFG, VideoSegO3(), {split: dialogues}, "")


@pytest.fixture
def annotated(tmp_path: Path) -> list[Sample]:
    written = FIXTURES["ref_davis17"](tmp_path)
    return load_samples("ref_davis17", str(written.root), written.split)


def test_a_split_without_public_masks_is_not_learned(tmp_path: Path) -> None:
    written = ref_youtube_vos(tmp_path)
    hidden = load_samples("ref_youtube_vos", str(written.root), "valid", no_target="keep")
    with pytest.raises(ValueError, match=r"split 'train': the masks of .* are not public"):
        check_splits(CFG, ReVSeg(), {"train": hidden}, "")
    check_splits(CFG, ReVSeg(), {"test": hidden}, "evaluate")


def test_the_set_of_a_mix_is_named(annotated: list[Sample]) -> None:
    cfg = Config(data=DataConfig(sets=[SetConfig("own", ".", "train", name="mine")]))
    mixed = named_after_set(annotated, "mine")
    check_splits(cfg, ReVSeg(), {MIX: mixed}, "")
    blind = [replace(sample, targets=(Target("a", [None] * 4),)) for sample in mixed]
    with pytest.raises(ValueError, match=r"data.sets\[0\] \(mine\): no target of 8 expressions"):
        check_splits(cfg, ReVSeg(), {MIX: blind}, "")


def test_missing_mask_files(annotated: list[Sample], tmp_path: Path) -> None:
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match="png is missing"):
        check_splits(CFG, ReVSeg(), {"train": annotated}, "")

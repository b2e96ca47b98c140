"""Training samples without true masks are refused before an engine starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load
from core.types import Place, Sample, Target
from data.load import load_samples
from ray_jobs.driver.truth import check_training_truth, check_truth
from tests.data.fixtures import FIXTURES, ref_youtube_vos


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    written = FIXTURES["ref_davis17"](tmp_path)
    return load_samples("ref_davis17", str(written.root), written.split)


def test_samples_with_masks_pass(samples: list[Sample]) -> None:
    check_truth(samples, "here")


def test_a_split_without_public_masks(tmp_path: Path) -> None:
    written = ref_youtube_vos(tmp_path)
    hidden = load_samples("ref_youtube_vos", str(written.root), "valid", no_target="keep")
    cfg = load(["revseg_tiny", "data.train_split=valid"])
    with pytest.raises(ValueError, match=r"data.train_split=valid: the masks of .* not public"):
        check_training_truth(cfg, hidden)


def test_the_set_of_a_mix_is_named(samples: list[Sample]) -> None:
    sets = "data.sets=[{format: own, root: ., split: train, name: mine}]"
    blind = [_blind(replace(sample, uid=f"mine/{sample.uid}")) for sample in samples]
    with pytest.raises(ValueError, match=r"data.sets\[0\] \(mine\): no target of"):
        check_training_truth(load(["revseg_tiny", sets]), blind)


def test_missing_mask_files(samples: list[Sample], tmp_path: Path) -> None:
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match="png is missing"):
        check_truth(samples, "here")


def test_places_are_enough_for_a_reward_without_masks(samples: list[Sample]) -> None:
    placed = []
    for sample in samples:
        target = replace(_blind(sample).targets[0], place=Place(0, (0, 0, 4, 4), (2, 2)))
        placed.append(replace(sample, targets=(target,)))
    check_truth(placed, "here", needs_masks=False)
    with pytest.raises(ValueError, match="rewards need masks"):
        check_truth(placed, "here", needs_masks=True)


def _blind(sample: Sample) -> Sample:
    targets = [Target(target.uid, [None] * sample.video.num_frames) for target in sample.targets]
    return replace(sample, targets=tuple(targets))

"""What a session does before Ray and any engine start, and whose answers of a frozen policy it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from configs.load import load, to_yaml
from configs.schema import Config
from data.load import load as load_samples
from ray_jobs.driver.session import Session, prepare_data
from ray_jobs.record.run_folder import RunFolder
from tiny.world import write

NOBODY = cast(Any, None)


def test_synthetic_data_is_made_of_the_length_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "LONG_SPLITS", (("train", 1, 2, False),))
    settings = ["videoseg_o3_tiny", f"data.root={tmp_path / 'long'}"]
    prepare_data(load([*settings, "data.length=long"]))
    (sample, *_) = load_samples("mevis", str(tmp_path / "long"), "train")
    assert sample.video.num_frames == 96
    with pytest.raises(ValueError, match="data.length=short"):
        prepare_data(load(settings))


def hints_folder(cfg: Config, home: Path, alone: bool = True) -> Path:
    return Session(
        cfg, NOBODY, RunFolder(home / "evaluate"), NOBODY, NOBODY, NOBODY, alone=alone
    ).hints_folder


def test_hints_of_a_run_are_for_who_asks_as_it_did(tmp_path: Path) -> None:
    trained = load(["videoseg_r1_tiny"])
    run = RunFolder.open(tmp_path / "run", to_yaml(trained)).path
    own = tmp_path / "evaluate" / "hints"
    policy = f"policy.path={run}/checkpoints/step_3"
    (run / "checkpoints" / "step_3").mkdir(parents=True)
    same = load(["videoseg_r1_tiny", policy])
    other = load(["videoseg_r1_tiny", policy, "system.options.sampler=first"])
    assert hints_folder(same, tmp_path) == own, "that run asked nobody"
    (run / "hints").mkdir()
    assert hints_folder(same, tmp_path) == run / "hints"
    assert hints_folder(other, tmp_path) == own, "another sampler would have chosen other frames"
    assert hints_folder(same, tmp_path, alone=False) == own, "training asks by itself"
    given = load(["videoseg_r1_tiny", policy, f"data.hints={tmp_path}/given"])
    assert hints_folder(given, tmp_path) == tmp_path / "given"

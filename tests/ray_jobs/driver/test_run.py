"""The data and the hints of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load, to_yaml
from data.load import load_samples
from ray_jobs.driver.hints import hints_of_policy, own_hints
from ray_jobs.driver.run import prepare_data
from ray_jobs.record.run_folder import RunFolder
from tiny.world import write


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


def test_an_evaluation_uses_the_hints_of_the_run_that_asked_the_same(tmp_path: Path) -> None:
    trained = load(["videoseg_r1_tiny"])
    run = RunFolder.open(tmp_path / "run", to_yaml(trained)).path
    evaluation = tmp_path / "evaluate"
    policy = f"policy.path={run}/checkpoints/step_3"
    (run / "checkpoints" / "step_3").mkdir(parents=True)
    same = load(["videoseg_r1_tiny", policy])
    other = load(["videoseg_r1_tiny", policy, "system.options.sampler=first"])
    own = evaluation / "hints"
    assert hints_of_policy(same, evaluation) == own, "that run asked nobody"

    (run / "hints").mkdir()
    assert hints_of_policy(same, evaluation) == run / "hints"
    assert hints_of_policy(other, evaluation) == own, "another sampler chooses other frames"
    assert own_hints(same, evaluation) == own, "training asks by itself"

    given = load(["videoseg_r1_tiny", policy, f"data.hints={tmp_path}/given"])
    assert hints_of_policy(given, evaluation) == tmp_path / "given"
    assert own_hints(given, evaluation) == tmp_path / "given"

"""What a session does before Ray and any engine start."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load
from data.load import load as load_samples
from data.synthetic import write
from ray_jobs.session import prepare_data


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

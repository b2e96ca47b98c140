"""SAM 2 shows progress within one image; `tests.models.policy.test_policy` does so for a policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import progress
from models.segmenters import sam2_build, sam2_track

SHIPPED = Path(__file__).parents[2] / "tiny" / "weights" / "segmenter"


def test_each_block_of_the_image_encoder_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[str] = []
    monkeypatch.setattr(progress, "tick", lambda: ticks.append("block"))
    model, _ = sam2_build.load(SHIPPED)
    side = model.image_size
    with torch.no_grad():
        sam2_track.encode(model, torch.zeros(1, 3, side, side))
    assert len(ticks) >= len(model.image_encoder.trunk.blocks)

"""The size of the targets in the keyframe, over its largest."""

from __future__ import annotations

import torch

from rewards.keyframe_area import keyframe_area


def test_by_hand() -> None:
    frames_G = torch.tensor([0, 1, 3, -1])
    areas_F = torch.tensor([50, 200, 0, 0])
    assert keyframe_area(frames_G, areas_F).tolist() == [0.25, 1, 0, 0]


def test_no_target_in_any_frame() -> None:
    assert keyframe_area(torch.tensor([1, -1]), torch.zeros(3)).tolist() == [0, 0]

"""The hit of a box above a threshold."""

import torch

from rewards.spatial import box_hit


def test_hit_is_strictly_above_the_threshold() -> None:
    boxes_G4 = torch.tensor([(0, 0, 10, 5), (0, 0, 10, 5.1)], dtype=torch.float64)
    truth_G4 = torch.tensor([(0, 0, 10, 10), (0, 0, 10, 10)], dtype=torch.float64)
    assert box_hit(boxes_G4, truth_G4).tolist() == [0.0, 1.0]
    assert box_hit(boxes_G4, truth_G4, threshold=0.4).tolist() == [1.0, 1.0]

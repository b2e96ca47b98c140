"""IoU of pairs and the hit above a threshold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.spatial import box_hit, pairwise_iou


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    "box, iou",
    [
        ((0, 0, 10, 10), 1.0),
        ((0, 0, 10, 5), 0.5),
        ((5, 0, 15, 10), 1 / 3),
        ((10, 0, 20, 10), 0.0),  # they touch
        ((30, 30, 40, 40), 0.0),
        ((4, 4, 4, 8), 0.0),  # a line
        ((10, 10, 0, 0), 0.0),  # reversed
    ],
)
def test_iou_by_hand(box, iou):
    assert pairwise_iou(boxes(box), boxes((0, 0, 10, 10))).item() == pytest.approx(iou)


def test_absent_target_or_box():
    nothing = boxes((0, 0, 0, 0))
    something = boxes((0, 0, 10, 10))
    for a, b in ((nothing, something), (something, nothing), (nothing, nothing)):
        assert pairwise_iou(a, b).tolist() == [0.0]


def test_hit_is_strictly_above_the_threshold():
    pair = boxes((0, 0, 10, 5), (0, 0, 10, 5.1)), boxes((0, 0, 10, 10), (0, 0, 10, 10))
    assert box_hit(*pair).tolist() == [0.0, 1.0]
    assert box_hit(*pair, threshold=0.4).tolist() == [1.0, 1.0]


number = st.floats(0, 100, allow_subnormal=False)


@settings(deadline=None)  # a busy machine is no failure
@given(st.tuples(number, number, number, number), st.floats(0.1, 10), st.floats(0.1, 10))
def test_iou_does_not_change_when_the_axes_are_stretched(box, across, down):
    truth = boxes((10, 20, 60, 80))
    stretch = torch.tensor([across, down, across, down], dtype=torch.float64)
    before = pairwise_iou(boxes(box), truth)
    after = pairwise_iou(boxes(box) * stretch, truth * stretch)
    assert 0 <= before.item() <= 1
    assert after.item() == pytest.approx(before.item(), abs=1e-9)

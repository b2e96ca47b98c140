"""The example of a reward function, by hand."""

import pytest
import torch

from examples.my_reward import box_centred

HW = (50, 100)


@pytest.mark.parametrize(
    ("box", "reward"),
    [
        pytest.param((40, 20, 60, 30), 1.0, id="in the middle"),
        pytest.param((0, 20, 50, 30), 0.5, id="half way to the left edge"),
        pytest.param((40, 0, 60, 10), 0.2, id="near the upper edge"),
        pytest.param((0, 0, 0, 0), 0.0, id="no box"),
        pytest.param((60, 30, 40, 20), 0.0, id="reversed"),
        pytest.param((200, 20, 220, 30), 0.0, id="outside"),
    ],
)
def test_a_box_by_hand(box: tuple[int, ...], reward: float) -> None:
    assert box_centred(torch.tensor([box]), HW).tolist() == pytest.approx([reward])


def test_a_group_in_order() -> None:
    boxes_G4 = torch.tensor([(40, 20, 60, 30), (0, 0, 0, 0)])
    assert box_centred(boxes_G4, HW).tolist() == [1.0, 0.0]


def test_shape_and_type_of_an_empty_group() -> None:
    rewards_G = box_centred(torch.zeros(0, 4), HW)
    assert rewards_G.shape == (0,)
    assert rewards_G.dtype == torch.float64

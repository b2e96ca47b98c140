"""The taxicab distance against its definition, and the reward for points beside the objects."""

import cv2
import numpy as np
import pytest
import torch

from rewards.negative_points import negative_points, taxicab_distance


def square() -> torch.Tensor:
    """A mask of 20 x 20 pixels with a square at rows and columns 5 to 9."""
    mask_HW = torch.zeros(20, 20, dtype=torch.bool)
    mask_HW[5:10, 5:10] = True
    return mask_HW


def test_distance_by_definition() -> None:
    rng = np.random.default_rng(0)
    masks_NHW = rng.random((20, 7, 11)) < rng.uniform(0.01, 0.3, size=(20, 1, 1))
    distances_NHW = taxicab_distance(torch.tensor(masks_NHW)).numpy()
    y, x = np.mgrid[:7, :11]
    for mask_HW, distance_HW in zip(masks_NHW, distances_NHW, strict=True):
        foreground = np.argwhere(mask_HW)
        if not len(foreground):
            assert (distance_HW >= 18).all()
            continue
        to_each = [abs(y - row) + abs(x - column) for row, column in foreground]
        np.testing.assert_array_equal(distance_HW, np.min(to_each, axis=0))


def test_one_mask_on_a_cpu_is_the_same_as_in_a_batch() -> None:
    rng = np.random.default_rng(1)
    masks = []
    for limit in (0.4, 0.55, 0.6, 2):
        masks.append(cv2.blur(rng.random((140, 112)), (9, 9)) > limit)
    masks_NHW = torch.tensor(np.stack(masks))
    for mask_HW, distance_HW in zip(masks_NHW, taxicab_distance(masks_NHW), strict=True):
        assert torch.equal(taxicab_distance(mask_HW), distance_HW)


@pytest.mark.parametrize(
    ("point", "reward"),
    [
        ((7.0, 7), 0),
        ((9, 9), 0),
        ((10, 9), 1),
        ((9.9, 9), 0),
        ((14, 9), 1),
        ((15, 9), 0),
        ((12, 11), 1),
        ((14, 11), 0),
        ((-1, 7), 0),
        ((7, 20), 0),
        ((1e300, 0), 0),
    ],
)
def test_a_point_by_hand(point: tuple[float, float], reward: float) -> None:
    points_12 = torch.tensor([point])
    assert negative_points(points_12, [1], taxicab_distance(square()), limit=5).item() == reward


def test_share_of_an_episodes_points() -> None:
    distance_HW = taxicab_distance(square())
    points_R2 = torch.tensor([[10.0, 9], [7, 7], [11, 9], [12, 9]])
    rewards_G = negative_points(points_R2, [2, 0, 1, 1], distance_HW, 2)
    assert rewards_G.tolist() == [0.5, 0, 1, 0]
    assert negative_points(torch.zeros(0, 2), [0, 0], distance_HW, 5).tolist() == [0, 0]


def test_nothing_is_near_where_there_is_no_object() -> None:
    distance_HW = taxicab_distance(torch.zeros(6, 8, dtype=torch.bool))
    assert negative_points(torch.tensor([[3.0, 3]]), [1], distance_HW, 13).tolist() == [0]

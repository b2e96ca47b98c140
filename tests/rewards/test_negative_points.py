"""The taxicab distance against its definition, and the reward for points beside the objects."""

import cv2
import numpy as np
import torch

from rewards.negative_points import negative_points, taxicab_distance


def test_distance_by_definition():
    rng = np.random.default_rng(0)
    masks = rng.random((20, 7, 11)) < rng.uniform(0.01, 0.3, size=(20, 1, 1))
    y, x = np.mgrid[:7, :11]
    for mask_HW, distance_HW in zip(
        masks, taxicab_distance(torch.tensor(masks)).numpy(), strict=True
    ):
        on = np.argwhere(mask_HW)
        if not len(on):
            assert (distance_HW >= 18).all()
            continue
        expected = np.min([abs(y - a) + abs(x - b) for a, b in on], axis=0)
        np.testing.assert_array_equal(distance_HW, expected)


def test_one_mask_on_a_cpu_is_the_same_as_in_a_batch():
    rng = np.random.default_rng(1)
    masks = torch.tensor(
        np.stack(
            [cv2.blur(rng.random((140, 112)), (9, 9)) > limit for limit in (0.4, 0.55, 0.6, 2)]
        )
    )
    for mask_HW, distance_HW in zip(masks, taxicab_distance(masks), strict=True):
        assert torch.equal(taxicab_distance(mask_HW), distance_HW)


def test_points_by_hand():
    mask_HW = torch.zeros(20, 20, dtype=torch.bool)
    mask_HW[5:10, 5:10] = True
    distance = taxicab_distance(mask_HW)
    points = torch.tensor(
        [
            [7.0, 7],
            [9, 9],
            [10, 9],
            [9.9, 9],
            [14, 9],
            [15, 9],
            [12, 11],
            [14, 11],
            [-1, 7],
            [7, 20],
            [1e300, 0],
        ]
    )
    on_its_own = [negative_points(p[None], [1], distance, limit=5).item() for p in points]
    assert on_its_own == [0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0]


def test_share_of_an_episodes_points():
    mask_HW = torch.zeros(20, 20, dtype=torch.bool)
    mask_HW[5:10, 5:10] = True
    points = torch.tensor([[10.0, 9], [7, 7], [11, 9], [12, 9]])
    assert negative_points(points, [2, 0, 1, 1], taxicab_distance(mask_HW), 2).tolist() == [
        0.5,
        0,
        1,
        0,
    ]
    assert negative_points(torch.zeros(0, 2), [0, 0], taxicab_distance(mask_HW), 5).tolist() == [
        0,
        0,
    ]


def test_nothing_is_near_where_there_is_no_object():
    distance = taxicab_distance(torch.zeros(6, 8, dtype=torch.bool))
    assert negative_points(torch.tensor([[3.0, 3]]), [1], distance, 13).tolist() == [0]

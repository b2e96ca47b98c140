"""One more reward: a bonus for a box in the middle of the image. `python examples/my_reward.py`.

A reward is a pure function of tensors, batched over the G episodes of a group. It knows no model,
no text and no process, so it runs on any device and is tested in milliseconds. To use it in a
system:

1. Move the function to a file in `rewards/`, and its test to `tests/rewards/`.
2. Name it in the system's table, with its weight: `TERMS = {..., "centred": 0.5}`.
3. Compute it in the system's `terms(...)`: `"centred": box_centred(boxes_G4, hw)`.

Its value then appears in `episodes.jsonl` and in the metrics of every step, and
`system.options.weights.centred=0.2` overrides the weight. See docs/extending.md.
"""

from __future__ import annotations

import torch
from torch import Tensor


def box_centred(boxes_G4: Tensor, hw: tuple[int, int]) -> Tensor:
    """Return the closeness of each box to the middle of the image, float64 (G,) in [0, 1].

        r = 1 - max(|x - W/2| / (W/2), |y - H/2| / (H/2))        (x, y): the centre of the box

    A box at the image's edge earns about 0, a box in the middle 1. An episode without a box passes
    zeros and earns 0. Chosen by this project, as an example.

    Args:
        boxes_G4: (x0, y0, x1, y1) in pixels of the image, x1 and y1 exclusive.
        hw: height and width of the image.
    """
    height, width = hw
    boxes_G4 = boxes_G4.double()
    centre_G2 = (boxes_G4[:, :2] + boxes_G4[:, 2:]) / 2
    middle_2 = boxes_G4.new_tensor([width / 2, height / 2])
    distance_G = ((centre_G2 - middle_2).abs() / middle_2).amax(dim=1)

    is_box_G = (boxes_G4[:, 2:] > boxes_G4[:, :2]).all(dim=1)
    return torch.where(is_box_G, (1 - distance_G).clamp(min=0), 0.0)


if __name__ == "__main__":
    for box in ([40, 40, 60, 60], [0, 0, 10, 10], [90, 45, 100, 55], [0, 0, 0, 0]):
        reward = box_centred(torch.tensor([box]), (100, 100))
        print(f"{box}: {reward.item():.2f}")

"""The ideal dialogue of ReVSeg, from the ground truth."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch

from core.geometry import Grid
from core.types import Sample
from systems.base import Demonstration, describe, thought_of
from systems.revseg.answers import whole_box
from systems.revseg.options import ReVSegOptions
from systems.revseg.prompts import ask_box, ask_keyframe
from systems.revseg.score import Truth


def dialogue(
    sample: Sample,
    frames: Sequence[int],
    truth: Truth,
    options: ReVSegOptions,
    grid: Grid,
    rng: np.random.Generator,
) -> Demonstration:
    """Return a dialogue about any sampled frame that shows the target.

    Which of these frames is best is left to reinforcement learning.

    Raises:
        ValueError: the targets are in none of the sampled frames.
    """
    visible = torch.nonzero(truth.visible_F).flatten().tolist()
    if not visible:
        raise ValueError(
            f"sample {sample.uid!r}: no target in any of the {len(frames)} sampled frames"
        )
    frame_idx = int(rng.choice(visible))
    description = describe(sample)
    name = json.dumps(description, ensure_ascii=False)
    box = whole_box(truth.boxes_F4[frame_idx].tolist(), grid)
    corners = ",".join(str(corner) for corner in box)

    opening = (
        f"<think>{thought_of(sample)}</think>"
        f'<answer>[{{"frame_idx": {frame_idx}, "object description": {name}'
    )
    first = ask_keyframe(sample.query, frames, options, grid)
    if not options.decompose:
        return ((first, f'{opening}, "bbox_2d": [{corners}]}}]</answer>'),)

    second = ask_box(frames[frame_idx], description, options, grid)
    located = f'<answer>[{{"bbox_2d":[{corners}],"label":{name}}}]</answer>'
    if options.strict_turn2_tags:
        located = f"<think>{description}</think>{located}"
    return (first, f"{opening}}}]</answer>"), (second, located)

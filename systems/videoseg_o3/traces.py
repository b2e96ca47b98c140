"""Search traces: the text of a dialogue that narrows a video down and then answers.

Each turn names a span of the video and a keyframe in it, and asks for a mask with the [SEG] token.
All turns but the last also ask for more frames. The text is that of the VTS-CoT data
(docs/spec/videoseg_o3.md, Data): frame numbers of the video, with an *inclusive* `end` in the text.
A `Look` is half-open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

SEG = "[SEG]"
# The parts of a thought: when, what the target looks like, what the query says, what to do next.
STEPS = ("Step 1", "Step 2", "Step 3", "Action")
ACTIONS = {"select": "see new segment", "answer": "confirmed"}
# The keyframe of an answer is one of this many frames with the largest masks.
LARGEST = 5

Action = Literal["select", "answer"]


@dataclass(frozen=True)
class Look:
    """A span [start, stop) of a video, and a keyframe."""

    start: int
    stop: int
    keyframe: int


def plan_search(areas_F: np.ndarray, turns: int, rng: np.random.Generator) -> list[Look]:
    """Plan a coarse-to-fine search of `turns` looks.

    The last look is the span from the first to the last frame with the target; its keyframe is one
    of the five largest. Each look before it is at least as wide as the next, with any visible frame
    as its keyframe.

    Args:
        areas_F: pixels of the target on each frame.

    Raises:
        ValueError: no frame shows the target.
    """
    visible = np.flatnonzero(areas_F)
    if not len(visible):
        raise ValueError(f"nothing to find in any of {len(areas_F)} frames")

    num_frames = len(areas_F)
    by_size = visible[np.argsort(-areas_F[visible], kind="stable")]
    keyframe = int(rng.choice(by_size[:LARGEST]))
    looks = [Look(int(visible[0]), int(visible[-1]) + 1, keyframe)]

    # From the last look back to the first: the span grows on both sides, by up to half of the rest.
    for _ in range(turns - 1):
        start = looks[0].start
        stop = looks[0].stop
        wider_start = int(rng.integers(start // 2, start + 1))
        wider_stop = int(rng.integers(stop, stop + (num_frames - stop + 1) // 2 + 1))
        keyframe = int(rng.choice(visible))
        looks.insert(0, Look(wider_start, min(wider_stop, num_frames), keyframe))
    return looks


def write_search(looks: Sequence[Look], described: str, thought: str) -> list[str]:
    """Write the completion of each turn of a search; the last one answers.

    Args:
        described: what the target looks like.
        thought: what the query says about the target.
    """
    last = len(looks) - 1
    turns = []
    for index, look in enumerate(looks):
        action: Action = "answer" if index == last else "select"
        turns.append(write_turn(action, look, thought_steps(look, described, thought)))
    return turns


def thought_steps(look: Look, described: str, thought: str) -> tuple[str, str, str]:
    """Return the texts of the three steps.

    The target comes before the time at which it is seen, because later words can build on earlier
    ones.
    """
    return f"{thought}, seen from {look.start} to {look.stop - 1}", described, thought


def write_turn(action: Action, look: Look, steps: Sequence[str]) -> str:
    """Write one completion.

    Args:
        action: select or answer.
        look: the span and the keyframe.
        steps: when, what the target looks like, what the query says; a short text each.
    """
    parts = []
    for name, text in zip(STEPS, (*steps, ACTIONS[action]), strict=True):
        parts.append(f"{name}: {text}.")
    thought = " ".join(parts)
    return f"<think>{thought}</think><{action}>{write_look(look)}<RefSeg>{SEG}</RefSeg></{action}>"


def write_look(look: Look) -> str:
    """Write the <VTG> block of a look."""
    fields = {"start": look.start, "end": look.stop - 1, "keyframe": look.keyframe}
    return f"<VTG>{json.dumps(fields, separators=(',', ':'))}</VTG>"

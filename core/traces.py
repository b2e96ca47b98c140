"""Search traces: how a dialogue that narrows a video down looks when it goes right, and how it is written.

Each turn names a part of the video and a keyframe in it, and draws a mask with the [SEG] token; all but the last ask
for more frames. The text is that of the VTS-CoT data (SPEC A.3 and C): frame numbers of the video, `end` *inclusive*
in the text, while a `Look` is half-open. Knows no file, no prompt and no model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

SEG = "[SEG]"
STEPS = (
    "Step 1",
    "Step 2",
    "Step 3",
    "Action",
)  # of a thought: when, what it looks like, what the words say, then what
ACTIONS = {"select": "see new segment", "answer": "confirmed"}
LARGEST = 5  # frames among which the keyframe of an answer is drawn

Action = Literal["select", "answer"]


@dataclass(frozen=True)
class Look:
    """A part [start, stop) of a video, and a keyframe."""

    start: int
    stop: int
    keyframe: int


def plan(areas_F: np.ndarray, turns: int, rng: np.random.Generator) -> list[Look]:
    """A coarse-to-fine search of `turns` looks for what covers `areas_F` pixels of each frame.

    The last look is the part from the first to the last frame that shows it, its keyframe one of the 5 largest. Those
    before are wider, each no narrower than the next, and their keyframe is any frame that shows it.

    Raises:
        ValueError: no frame shows it.
    """
    visible = np.flatnonzero(areas_F)
    if not len(visible):
        raise ValueError(f"nothing to find in any of {len(areas_F)} frames")
    first = int(visible[0])
    stop = int(visible[-1]) + 1
    num_frames = len(areas_F)
    largest = visible[np.argsort(-areas_F[visible], kind="stable")][:LARGEST]
    looks = [Look(first, stop, int(rng.choice(largest)))]
    for _ in range(turns - 1):
        start = looks[0].start
        end = looks[0].stop
        wider = (
            int(rng.integers(start // 2, start + 1)),
            int(rng.integers(end, end + (num_frames - end + 1) // 2 + 1)),
        )
        looks.insert(0, Look(wider[0], min(wider[1], num_frames), int(rng.choice(visible))))
    return looks


def write_turn(action: Action, look: Look, steps: Sequence[str]) -> str:
    """What a turn says. `steps`: when, what it looks like, what the words say; one short text each."""
    told = zip(STEPS, (*steps, ACTIONS[action]), strict=True)
    thought = " ".join(f"{name}: {text}." for name, text in told)
    return f"<think>{thought}</think><{action}>{write_look(look)}<RefSeg>{SEG}</RefSeg></{action}>"


def write_look(look: Look) -> str:
    vtg = json.dumps(
        {"start": look.start, "end": look.stop - 1, "keyframe": look.keyframe},
        separators=(",", ":"),
    )
    return f"<VTG>{vtg}</VTG>"


def tell(looks: Sequence[Look], described: str, thought: str) -> list[str]:
    """What each turn of a search says; the last one answers. `described`: what the target looks like."""
    last = len(looks) - 1
    return [
        write_turn("answer" if i == last else "select", look, steps(look, described, thought))
        for i, look in enumerate(looks)
    ]


def steps(look: Look, described: str, thought: str) -> tuple[str, str, str]:
    """Which object it is comes before when it is seen: what is said last can build on what was said before."""
    return f"{thought}, seen from {look.start} to {look.stop - 1}", described, thought

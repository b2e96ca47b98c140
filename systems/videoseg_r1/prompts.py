"""The question of VideoSeg-R1, in this project's words: the paper's appendix is not public."""

from __future__ import annotations

import json

from core.geometry import Grid, uniform_frames
from core.types import View
from systems.base import Content, show_frames, unit_of, whole_numbers
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.sampler import Choice

# The end of the short form: what to give for each object, if not everything.
SHORT_ENDINGS = {
    "all": "",
    "box": ": box",
    "point": ": point",
    "box_point": ": box, point",
    "box_negative": ": box, off",
}

# Two objects in pixels, for the example of an answer.
EXAMPLE = (
    {"bbox_2d": [104, 88, 331, 420], "point_2d": [210, 260], "neg_point_2d": [350, 262]},
    {"bbox_2d": [512, 97, 640, 404], "point_2d": [575, 251], "neg_point_2d": [575, 420]},
)

KEYS = {
    "bbox_2d": '"bbox_2d", the box [x1, y1, x2, y2] around it',
    "point_2d": '"point_2d", a point [x, y] in its middle',
    "neg_point_2d": (
        '"neg_point_2d", a point [x, y] close to it that belongs to none of the objects'
    ),
}

THINK = (
    "Reason first, briefly: what the words ask for, what the frames show, which objects could be "
    "meant and what tells them apart. Write your reasoning between <think> and </think>, then the "
    "result between <answer> and </answer>"
)
DO_NOT_THINK = "Do not explain. Write the result between <answer> and </answer>"


def ask_objects(
    query: str, num_frames: int, choice: Choice, options: VideoSegR1Options, grid: Grid
) -> Content:
    """Return frames of the key segment, of the whole video, the target frame, and the instruction.

    No frame is shown twice, so a video of one frame is the target frame alone. The short form mixes
    segment and video in the order of time.
    """
    key, whole = _context_frames(num_frames, choice, options)
    target = View(choice.frame, *options.target_hw)
    if options.prompt == "short":
        frames = sorted([*key, *whole])
        names = [f"{frame}" for frame in frames]
        verb = " Find" if options.think else "Locate"
        instruction = f"{verb} {query}{SHORT_ENDINGS[options.answer]}."
        context = show_frames(names, frames, options.frame_hw)
        return [*context, f"{choice.frame}", target, instruction]

    content: Content = []
    titled = (("The part of the video that matters:", key), ("The whole video:", whole))
    for title, frames in titled:
        if frames:
            names = [f"Frame {frame}:" for frame in frames]
            content.append(title)
            content += show_frames(names, frames, options.frame_hw)
    target_name = f"The target frame, frame {choice.frame}:"
    return [*content, target_name, target, _instruction(query, options, grid)]


def _context_frames(
    num_frames: int, choice: Choice, options: VideoSegR1Options
) -> tuple[list[int], list[int]]:
    """Frames of the key segment and of the whole video, without the target frame and repeats."""
    in_segment = uniform_frames(choice.stop - choice.start, options.key_frames)
    key = [choice.start + step for step in in_segment]
    key = [frame for frame in key if frame != choice.frame]
    if not options.reference_frames:
        return key, []
    in_video = uniform_frames(num_frames, options.reference_frames)
    shown = {choice.frame, *key}
    return key, [frame for frame in in_video if frame not in shown]


def _instruction(query: str, options: VideoSegR1Options, grid: Grid) -> str:
    """The full prompt after the frames."""
    rows = []
    for example in EXAMPLE:
        rows.append({key: whole_numbers(grid, example[key]) for key in options.lengths})
    answer = f"<answer>{json.dumps(rows)}</answer>"
    wanted = "; ".join(KEYS[key] for key in options.lengths)
    think = DO_NOT_THINK
    if options.think:
        think = THINK
        answer = f"<think>reasoning</think>{answer}"
    return (
        f'\nFind in the target frame every object that this refers to: "{query}".\n{think}: a JSON '
        f"list with an entry for each object, in {unit_of(grid, 'the target frame')}: "
        f"{wanted}. If there is no such object, the list is empty. For example:\n{answer}"
    )

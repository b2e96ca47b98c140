"""What ReVSeg asks in its two rounds. The wording is this project's; its content is App. C's."""

from __future__ import annotations

from collections.abc import Sequence

from core.geometry import Grid
from core.types import View
from systems.base import Content, show_frames, unit_of, whole_numbers
from systems.revseg.options import ReVSegOptions

# Nominal: the prompt calls the clip num_frames / 2 seconds long, however long it is (App. C).
FPS = 2

# A box in pixels, for the example of an answer.
EXAMPLE = (96, 210, 251, 330)


def ask_keyframe(query: str, frames: Sequence[int], options: ReVSegOptions, grid: Grid) -> Content:
    """Return the message of round 1: every sampled frame after its index, then the instruction."""
    indices = range(len(frames))
    if options.prompt == "short":
        names = [f"{index}" for index in indices]
        verb = "Find" if options.decompose else "Find and locate"
        return [*show_frames(names, frames, options.frame_hw), f" {verb} {query}."]
    names = [f"Frame {index}:" for index in indices]
    instruction = _keyframe_instruction(query, len(frames), options, grid)
    return [*show_frames(names, frames, options.frame_hw), instruction]


def ask_box(frame: int, description: str, options: ReVSegOptions, grid: Grid) -> Content:
    """Return the message of round 2: the keyframe, and what to find in it."""
    view = View(frame, options.keyframe_height, options.keyframe_width)
    if options.prompt == "short":
        return [view, f"Locate the {description}."]
    return [view, _box_instruction(description, options, grid)]


def _keyframe_instruction(query: str, count: int, options: ReVSegOptions, grid: Grid) -> str:
    """The full prompt of round 1; without rounds (the ablation) it asks for the box as well."""
    keys = '"frame_idx": 5, "object description": "brown dog lying to the left of the sofa"'
    also_find = ""
    also_write = ""
    if not options.decompose:
        keys += f', "bbox_2d": {whole_numbers(grid, EXAMPLE)}'
        also_find = " Also find the box around it in the keyframe."
        unit = unit_of(grid, "that frame")
        also_write = f' and "bbox_2d", its box [x1, y1, x2, y2] in {unit}'
    return (
        f"\nThese are {count} frames, numbered 0 to {count - 1}, of a video clip of "
        f"{count / FPS:g} seconds sampled at {FPS} frames per second.\n"
        f'Which object does this refer to: "{query}"?\n'
        "Reason first: say at what time the clue is to be seen, compare the objects that could be "
        "meant, and settle on one. Then pick the keyframe in which it would be easiest to outline "
        "that object: in full view and hardly covered, large, sharp rather than blurred by motion, "
        "close to the middle, and not to be confused with the background or with similar objects "
        "nearby. Last, describe the object by how it looks in the keyframe alone, precisely enough "
        "to find it there: kind, colour, shape, place; leave out motion and anything that takes "
        f"another frame to know.{also_find}\n"
        "Write your reasoning between <think> and </think>, then the result between <answer> and "
        '</answer>: a JSON list with a single entry, which has "frame_idx", the number of the '
        f'keyframe (0 to {count - 1}), and "object description"{also_write}. For example:\n'
        f"<think>reasoning</think><answer>[{{{keys}}}]</answer>"
    )


def _box_instruction(description: str, options: ReVSegOptions, grid: Grid) -> str:
    """The full prompt of round 2."""
    tags = ""
    if options.strict_turn2_tags:
        tags = " Think between <think> and </think>, then answer between <answer> and </answer>."
    return (
        f'\nHere is the keyframe you picked. Detect "{description}" in it and give its box, in '
        f"{unit_of(grid, 'the keyframe')}, as JSON: "
        f'[{{"bbox_2d": [x1, y1, x2, y2], "label": "{description}"}}].{tags}'
    )

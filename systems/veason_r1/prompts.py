"""What Veason-R1 asks: frames of the video, then the task. The wording is this project's."""

from __future__ import annotations

from collections.abc import Sequence

from core.geometry import Grid
from systems.base import Content, show_frames, unit_of, whole_numbers
from systems.veason_r1.options import VeasonR1Options

# A box in pixels, for the example of an answer.
EXAMPLE = (104, 88, 331, 420)


def ask_objects(query: str, frames: Sequence[int], options: VeasonR1Options, grid: Grid) -> Content:
    """Return the user message: every frame after its number, then the task."""
    places = range(len(frames))
    if options.prompt == "short":
        names = [f"{place}" for place in places]
        return [*show_frames(names, frames, options.frame_hw), f" Locate {query}."]
    names = [f"Frame {place}:" for place in places]
    return [*show_frames(names, frames, options.frame_hw), _task(query, len(frames), grid)]


def _task(query: str, count: int, grid: Grid) -> str:
    return (
        f"\nThese are {count} frames of a video, numbered 0 to {count - 1}.\n"
        f'Find every object that this refers to: "{query}".\n'
        "Think first: what happens in the video, which objects could be meant, what tells them "
        "apart. Then choose as keyframe the frame that shows the objects best, and find the box of "
        f"each of them in it, [x1, y1, x2, y2] in {unit_of(grid, 'the frame')}.\n"
        "Write your thoughts between <think> and </think> and the result between <answer> and "
        '</answer>, as JSON: "keyframe_timestamp" is the number of the keyframe, "bbox_2d_list" '
        "the list of boxes, empty if there is no such object. For example:\n"
        '<think>thoughts</think><answer>{"keyframe_timestamp": 3, '
        f'"bbox_2d_list": [{whole_numbers(grid, EXAMPLE)}]}}</answer>'
    )

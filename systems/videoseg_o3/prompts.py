"""The questions of VideoSEG-O3. The wording is this project's; its content is the release's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.types import Sample, View, Vision
from systems.base import Content, show_frames, video_hw
from systems.videoseg_o3.options import VideoSegO3Options
from systems.videoseg_o3.traces import Look


def ask_first(sample: Sample, options: VideoSegO3Options, vision: Vision) -> Content:
    """Return the message of turn 1: small frames, a few larger ones, the instruction."""
    budget = options.frames
    num_frames = sample.video.num_frames
    temporal = spread(num_frames, budget.temporal_frames)
    spatial = spatial_frames(sample, options)
    small_hw = fit(*video_hw(sample), budget.temporal_pixels, vision.cell)
    large_hw = fit(*video_hw(sample), budget.spatial_pixels, vision.cell)

    content = _titled("The whole video, small:", temporal, small_hw, options)
    content += _titled("Some of its frames, larger:", spatial, large_hw, options)
    if options.prompt == "short":
        return [*content, f" Find {sample.query}."]
    question = (
        f"\nThe video has {num_frames} frames, numbered 0 to {num_frames - 1}. Which object is "
        f'"{sample.query}"?'
    )
    if options.instruct == "user":
        question += f" {task(options)}"
    return [*content, question]


def ask_more(
    sample: Sample, look: Look, options: VideoSegO3Options, vision: Vision, last: bool
) -> Content:
    """Return the message of a later turn: the selected span, its keyframe, the instruction."""
    budget = options.frames
    steps = spread(look.stop - look.start, budget.round_frames)
    frames = [look.start + step for step in steps]
    small_hw = fit(*video_hw(sample), budget.temporal_pixels, vision.cell)
    key_hw = fit(*video_hw(sample), budget.key_pixels, vision.cell)

    content = _titled(f"Frames {look.start} to {look.stop - 1}:", frames, small_hw, options)
    content += _titled("The keyframe:", [look.keyframe], key_hw, options)
    if options.prompt == "short":
        verb = "Answer" if last else "Find"
        return [*content, f" {verb} {sample.query}."]
    then = "Select another part and keyframe if it is still unclear, or answer."
    if last:
        then = "Now answer."
    instruction = (
        f'\nThe expression is "{sample.query}". {then} Think first, in the same form as before.'
    )
    return [*content, instruction]


def ask_task(sample: Sample, question: str, options: VideoSegO3Options, vision: Vision) -> Content:
    """Return the first message of a dialogue about another task (`Notes.task`).

    Frames as released: few larger ones for questions (qa), many small ones with their numbers for
    the span of an event (vtg), the image for a caption (gcg).
    """
    budget = options.frames
    num_frames = sample.video.num_frames
    if sample.notes.task == "vtg":
        frames = spread(num_frames, budget.temporal_frames)
        small_hw = fit(*video_hw(sample), budget.temporal_pixels, vision.cell)
        shown = show_frames([f"Frame {frame}:" for frame in frames], frames, small_hw)
        return [
            *shown,
            f"\nThe video has {num_frames} frames, numbered 0 to {num_frames - 1}. In which frames "
            f'does this happen: "{question}"? Answer with the first and the last of them, as '
            '{"start_frame": 12, "end_frame": 30}',
        ]

    pixels = budget.spatial_pixels
    text = f"\n{question}"
    if sample.notes.task == "gcg":
        pixels = budget.key_pixels
        text = f"\nDescribe {question}, and give a mask for each thing that you name."
    hw = fit(*video_hw(sample), pixels, vision.cell)
    frames = spread(num_frames, budget.spatial_frames)
    return [*(View(frame, *hw) for frame in frames), text]


def spatial_frames(sample: Sample, options: VideoSegO3Options) -> list[int]:
    """Return the larger frames of turn 1, on which masks are rewarded; VTS-CoT lists them."""
    listed = sample.notes.sample_frame_indice
    if listed is not None:
        return list(dict.fromkeys(listed))
    return spread(sample.video.num_frames, options.frames.spatial_frames)


def fit(height: int, width: int, pixels: int, cell: int) -> tuple[int, int]:
    """Return the size at which an image is shown: about its own size and aspect.

    Sides are multiples of `cell`, at least one, and together at most `pixels`. Small images are not
    enlarged.
    """
    rows = max(round(height / cell), 1)
    columns = max(round(width / cell), 1)
    most = pixels // cell**2
    if rows * columns > most:
        shrink = math.sqrt(pixels / (height * width)) / cell
        rows = max(int(height * shrink), 1)
        columns = max(int(width * shrink), 1)
        # A strip of one cell cannot shrink any more, so its long side gives way.
        rows = min(rows, most)
        columns = min(columns, most // rows)
    return rows * cell, columns * cell


def spread(num_frames: int, count: int) -> list[int]:
    """Return `count` frames from the first to the last at even steps, as released.

    All frames if at most one is more than `count`; the middle one for a count of 1 (chosen by this
    project).
    """
    if num_frames <= count + 1:
        return list(range(num_frames))
    if count == 1:
        return [num_frames // 2]
    return [i * (num_frames - 1) // (count - 1) for i in range(count)]


def _titled(
    title: str, frames: Sequence[int], hw: tuple[int, int], options: VideoSegO3Options
) -> Content:
    """Frames after their numbers, under a title in the full form."""
    if options.prompt == "short":
        return show_frames([f"{frame}" for frame in frames], frames, hw)
    return [title, *show_frames([f"Frame {frame}:" for frame in frames], frames, hw)]


def system_message(options: VideoSegO3Options) -> str:
    """Return the task as a message before turn 1; empty if the user explains it."""
    if options.instruct == "user":
        return ""
    return f"You are asked about objects in videos, one video at a time. {task(options)}"


def task(options: VideoSegO3Options) -> str:
    """Return what to do, and the form of an answer."""
    body = '<VTG>{"start": 12, "end": 30, "keyframe": 21}</VTG><RefSeg>[SEG]</RefSeg>'
    more = "Answer as\n"
    if options.max_turns > 1:
        more = (
            "If these frames leave it unclear, ask for others: the first and the last frame of the "
            "part you need to see, and in it one keyframe to be shown large, as\n"
            f"<select>{body}</select>\n"
            "Give the mask as far as you can tell it in this case too. Once you are sure, answer "
            "in the same form, as\n"
        )
    return (
        "Find the part of the video in which it is to be seen, a keyframe that shows it well, and "
        "its mask.\n"
        "Think between <think> and </think>, in four parts that you name: Step 1, what happens "
        "when; Step 2, what is where and what it looks like; Step 3, what the words ask for and "
        "which object fits; Action, whether to look again or to answer.\n"
        f"{more}<answer>{body}</answer>"
    )

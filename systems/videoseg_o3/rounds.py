"""The turns of an episode as rounds: readings, frames of their masks, and [SEG] tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.types import Sample, SegPrompt, Turn
from systems.base import said
from systems.videoseg_o3.answers import Reading, read_turn
from systems.videoseg_o3.options import VideoSegO3Options
from systems.videoseg_o3.prompts import spatial_frames


@dataclass(frozen=True)
class Round:
    """A turn, its reading, and the frame on which its mask is drawn."""

    turn: Turn
    reading: Reading
    frame: int


def read(text: str, num_frames: int, options: VideoSegO3Options) -> Reading:
    """Return what a turn selects and answers, as leniently as the options say."""
    return read_turn(text, num_frames, options.bare_json, options.fill_keys)


def read_rounds(sample: Sample, turns: Sequence[Turn], options: VideoSegO3Options) -> list[Round]:
    """Return the rounds of an episode.

    The mask of a turn is drawn on the keyframe selected before it, at first the middle of the video
    (as_released), or on the keyframe that the turn itself names (own).
    """
    num_frames = sample.video.num_frames
    pending = num_frames // 2
    rounds = []
    for turn in turns:
        reading = read(said(turn), num_frames, options)
        frame = pending
        if options.keyframe_rule == "own" and reading.look is not None:
            frame = reading.look.keyframe
        rounds.append(Round(turn, reading, frame))
        if reading.select is not None:
            pending = reading.select.keyframe
    return rounds


def tracked_frame(sample: Sample, rounds: Sequence[Round], options: VideoSegO3Options) -> int:
    """Return the frame from which the final mask is tracked.

    own: the frame of the last turn's mask. as_released: the keyframe of the last <select>, shown or
    not; else the answer's; else the middle of the larger frames of turn 1.
    """
    if options.keyframe_rule == "own":
        return rounds[-1].frame
    for each in reversed(rounds):
        if each.reading.select is not None:
            return each.reading.select.keyframe
    answer = rounds[-1].reading.answer
    if answer is not None:
        return answer.keyframe
    spatial = spatial_frames(sample, options)
    return spatial[len(spatial) // 2]


def seg_prompts(
    sample: Sample,
    rounds: Sequence[Round],
    seg_id: int,
    tracked: int,
    options: VideoSegO3Options,
) -> tuple[SegPrompt, ...]:
    """Return a prompt for each [SEG] token and frame.

    Each [SEG] is drawn on its turn's frame and on the larger frames of turn 1; the last one of the
    last turn also on the tracked frame. A cut-off turn draws nothing (chosen by this project).
    """
    spatial = spatial_frames(sample, options)
    prompts: list[SegPrompt] = []
    for number, each in enumerate(rounds):
        positions = _seg_positions(each.turn, seg_id)[-options.segs_per_turn :]
        for position in positions:
            prompts.append(SegPrompt(number, position, each.frame))
            prompts += [SegPrompt(number, position, frame, "video") for frame in spatial]
        is_last = number == len(rounds) - 1
        if is_last and positions:
            prompts.append(SegPrompt(number, positions[-1], tracked, "final"))
    return tuple(prompts)


def caption_prompts(turn: Turn, seg_id: int) -> tuple[SegPrompt, ...]:
    """Return a prompt for each [SEG] of a caption of an image: one for each target, in turn."""
    prompts = []
    for target, position in enumerate(_seg_positions(turn, seg_id)):
        prompts.append(SegPrompt(0, position, 0, target=target))
    return tuple(prompts)


def facts_of_round(each: Round) -> dict[str, Any]:
    """Return a round as an entry of the episode log."""
    action = None
    look = None
    if each.reading.answer is not None:
        action = "answer"
        look = each.reading.answer
    if each.reading.select is not None:
        action = "select"
        look = each.reading.select
    facts: dict[str, Any] = {"action": action, "frame": each.frame}
    if look is not None:
        facts |= {"start": look.start, "stop": look.stop, "keyframe": look.keyframe}
    return facts


def _seg_positions(turn: Turn, seg_id: int) -> list[int]:
    if not turn.complete:
        return []
    return [i for i, token in enumerate(turn.completion_ids) if token == seg_id]

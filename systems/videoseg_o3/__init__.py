"""VideoSEG-O3: segmentation by looking again, coarse to fine, with masks that the policy draws.

Turn 1 sees small frames of the whole video and a few larger ones. It thinks, and either selects a
span and a keyframe to see more of in the next turn, or answers with a span and a keyframe. Every
turn writes [SEG]; the policy's mask head draws masks at these tokens after the episode. See
docs/spec/videoseg_o3.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from core.types import (
    Answer,
    Ask,
    End,
    Episode,
    EpisodeMasks,
    Reward,
    Sample,
    SegPrompt,
    Turn,
    Vision,
)
from systems.base import (
    DEFAULT_VISION,
    BaseSystem,
    Demonstration,
    check_group,
    end_of,
    said,
)
from systems.videoseg_o3.demonstrate import completions, dialogue, task_dialogue
from systems.videoseg_o3.options import MASK_TERMS, VideoSegO3Options
from systems.videoseg_o3.prompts import ask_first, ask_more, spatial_frames, system_message
from systems.videoseg_o3.rounds import (
    caption_prompts,
    facts_of_round,
    read,
    read_rounds,
    seg_prompts,
    tracked_frame,
)
from systems.videoseg_o3.score import rewards_of
from systems.videoseg_o3.traces import SEG


@runtime_checkable
class TokenIds(Protocol):
    """A policy that gives the id of one of its tokens; None for other texts."""

    def id_of(self, token: str) -> int | None: ...


class VideoSegO3(BaseSystem[VideoSegO3Options]):
    """The system: how an episode is played, rewarded and demonstrated."""

    name = "videoseg_o3"
    schema = VideoSegO3Options

    def __init__(
        self, options: VideoSegO3Options | None = None, vision: Vision = DEFAULT_VISION
    ) -> None:
        super().__init__(options, vision)
        self.options.check_pixels(vision)

    @property
    def system_message(self) -> str:
        return system_message(self.options)

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Play turns until one selects nothing readable or is the last.

        Facts of the answer: `rounds`, with the look of each turn and the `frame` of its mask, and
        `spatial`, the other frames on which masks are rewarded. The answer's keyframe is the start
        of tracking. It has no `segs` if the policy does not give the id of [SEG].
        """
        options = self.options
        question = ask_first(sample, options, self.vision)
        turns: list[Turn] = []
        while True:
            turn = await ask(question, max_tokens=options.frames.max_tokens)
            turns.append(turn)
            select = read(said(turn), sample.video.num_frames, options).select
            if select is None or len(turns) == options.max_turns:
                break
            is_last = len(turns) == options.max_turns - 1
            question = ask_more(sample, select, options, self.vision, last=is_last)

        seg_id = ask.id_of(SEG) if isinstance(ask, TokenIds) else None
        return self.episode(sample, turns, seg_id)

    def episode(self, sample: Sample, turns: Sequence[Turn], seg_id: int | None) -> Episode:
        """Return the episode of these turns, which may also be those of a demonstration.

        Args:
            sample: the sample.
            turns: at least one.
            seg_id: the id of the [SEG] token; without it nothing is drawn.
        """
        options = self.options
        if sample.notes.task:
            return self._task_episode(sample, turns, seg_id)
        rounds = read_rounds(sample, turns, options)
        tracked = tracked_frame(sample, rounds, options)
        segs: tuple[SegPrompt, ...] = ()
        if seg_id is not None:
            segs = seg_prompts(sample, rounds, seg_id, tracked, options)
        facts = {
            "rounds": [facts_of_round(each) for each in rounds],
            "spatial": spatial_frames(sample, options),
        }
        last = rounds[-1]
        readable = last.reading.look is not None and SEG in said(last.turn)
        answer = Answer((), facts, segs, keyframe=tracked)
        return Episode(sample.uid, tuple(turns), end_of(last.turn, readable), answer)

    def _task_episode(self, sample: Sample, turns: Sequence[Turn], seg_id: int | None) -> Episode:
        """Return the episode of a demonstration of another task; a caption draws masks."""
        segs: tuple[SegPrompt, ...] = ()
        if sample.notes.task == "gcg" and seg_id is not None:
            segs = caption_prompts(turns[0], seg_id)
        return Episode(sample.uid, tuple(turns), End.DONE, Answer(segs=segs))

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("qa", "vtg", "gcg")

    @property
    def masks_by(self) -> Literal["", "policy"]:
        weights = self.options.all_weights
        return "policy" if any(weights[name] for name in MASK_TERMS) else ""

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """Return the weighted sum of each episode's terms; see `systems.videoseg_o3.score`."""
        check_group(sample, episodes)
        return rewards_of(sample, episodes, masks, self.options)

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        """Return a dialogue with the right answer; every turn is learned.

        Raises:
            ValueError: the targets are in no frame, or this system cannot play the dialogue.
        """
        if sample.notes.task:
            return task_dialogue(sample, self.options, self.vision)
        texts = completions(sample, self.options.max_turns, rng)
        return dialogue(sample, texts, self.options, self.vision)

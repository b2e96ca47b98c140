"""ReVSeg (arXiv 2512.02835): segmentation of a video by reasoning in two rounds.

Round 1 sees frames of the whole video at low resolution, thinks, and answers with a keyframe and a
description of the target in it. Round 2 sees that keyframe at high resolution and answers with a
box. A segmenter tracks the box after the episode. See docs/spec/revseg.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.geometry import Box, Grid, scale_box, uniform_frames
from core.parsing import is_tagged
from core.types import Answer, Ask, Episode, EpisodeMasks, MaskPrompt, Reward, Sample, Turn
from systems.base import BaseSystem, Demonstration, check_group, end_of, said, video_hw
from systems.revseg.answers import has_box_form, read_box, read_keyframe
from systems.revseg.demonstrate import dialogue
from systems.revseg.options import ReVSegOptions
from systems.revseg.prompts import ask_box, ask_keyframe
from systems.revseg.score import Truth, rewards_of, truth_of


class ReVSeg(BaseSystem[ReVSegOptions]):
    """The system: how an episode is played, rewarded and demonstrated."""

    name = "revseg"
    schema = ReVSegOptions

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Play one episode (Alg. 1): keyframe and description, then the box.

        It stops at the first unreadable answer. Facts of the answer: `frame_idx`, the keyframe's
        index among the sampled frames; `description`; `box`, in pixels of the image in which it was
        given; and whether each of the four RULES of the format was kept.
        """
        options = self.options
        frames = self.frames(sample)
        if not options.decompose:
            return await self._play_at_once(sample, frames, ask)

        first = await ask(
            ask_keyframe(sample.query, frames, options, self.box_grid),
            max_tokens=options.max_tokens_1,
        )
        choice = read_keyframe(said(first), len(frames))
        if choice is None:
            return self._episode(sample, frames, (first,), None, None)

        frame_idx, description = choice
        second = await ask(
            ask_box(frames[frame_idx], description, options, self.box_grid),
            max_tokens=options.max_tokens_2,
        )
        box = read_box(said(second), self.box_grid, options.strict_turn2_tags)
        return self._episode(sample, frames, (first, second), choice, box)

    async def _play_at_once(self, sample: Sample, frames: Sequence[int], ask: Ask) -> Episode:
        """Play the ablation: keyframe, description and box in one answer."""
        options = self.options
        only = await ask(
            ask_keyframe(sample.query, frames, options, self.box_grid),
            max_tokens=options.max_tokens_1 + options.max_tokens_2,
        )
        choice = read_keyframe(said(only), len(frames))
        box = None
        if choice is not None:
            box = read_box(said(only), self.box_grid, strict=True)
        return self._episode(sample, frames, (only,), choice, box)

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """Return the weighted sum of format, temporal and spatial reward for each episode."""
        check_group(sample, episodes)
        return rewards_of(episodes, self.truth(sample), self.options)

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        """Return a dialogue with the right answers; see `systems.revseg.demonstrate`."""
        frames = self.frames(sample)
        return dialogue(sample, frames, self.truth(sample), self.options, self.box_grid, rng)

    @property
    def box_grid(self) -> Grid:
        """The numbers in which the policy gives its box."""
        return self.grid(self.options.box_hw)

    def frames(self, sample: Sample) -> list[int]:
        """Return the numbers of the sampled frames in the video."""
        return uniform_frames(sample.video.num_frames, self.options.num_frames)

    def truth(self, sample: Sample) -> Truth:
        """Return the ground truth in the sampled frames."""
        return truth_of(sample, self.frames(sample), self.options.box_hw)

    def _episode(
        self,
        sample: Sample,
        frames: Sequence[int],
        turns: tuple[Turn, ...],
        choice: tuple[int, str] | None,
        box: Box | None,
    ) -> Episode:
        """Put together what was said and what was read: round 1's `choice`, round 2's `box`."""
        at_once = not self.options.decompose
        asked_for_box = at_once or len(turns) == 2
        strict = at_once or self.options.strict_turn2_tags
        frame_idx, description = choice or (None, "")
        facts = {
            "frame_idx": frame_idx,
            "description": description,
            "box": list(box) if box else None,
            "tags_1": is_tagged(said(turns[0]), ("think", "answer")),
            "json_1": choice is not None,
            "tags_2": asked_for_box and has_box_form(said(turns[-1]), strict),
            "json_2": box is not None,
        }

        keyframe = None if frame_idx is None else frames[frame_idx]
        prompts = self._mask_prompts(sample, keyframe, box)
        answer = Answer(prompts, facts, keyframe=keyframe)
        return Episode(sample.uid, turns, end_of(turns[-1], readable=bool(prompts)), answer)

    def _mask_prompts(
        self, sample: Sample, keyframe: int | None, box: Box | None
    ) -> tuple[MaskPrompt, ...]:
        if keyframe is None or box is None:
            return ()
        return (MaskPrompt(keyframe, scale_box(box, self.options.box_hw, video_hw(sample))),)

"""VideoSeg-R1 (AAAI 2026): one round of reasoning about a frame, with a box and points per object.

A frozen frame sampler picks a key segment and a target frame. The policy sees frames of the
segment, a few of the whole video and the target frame at high resolution, thinks, and lists the
objects. A segmenter makes masks of boxes and points after the episode. A video of one frame is an
image. See docs/spec/videoseg_r1.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from core.geometry import Grid
from core.types import (
    Answer,
    Ask,
    Episode,
    EpisodeMasks,
    Hints,
    MaskMaker,
    MaskPrompt,
    Reward,
    Sample,
    Vision,
)
from systems.base import (
    DEFAULT_VISION,
    BaseSystem,
    Demonstration,
    check_group,
    end_of,
    said,
    video_hw,
)
from systems.videoseg_r1.answers import mask_prompt, read_objects, reasoning
from systems.videoseg_r1.demonstrate import dialogue
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.prompts import ask_objects
from systems.videoseg_r1.sampler import Choice, Choices, choose
from systems.videoseg_r1.score import rewards_of
from systems.videoseg_r1.target_frame import choice_around, training_choice


class VideoSegR1(BaseSystem[VideoSegR1Options]):
    """The system: how an episode is played, rewarded and demonstrated."""

    name = "videoseg_r1"
    schema = VideoSegR1Options

    def __init__(
        self, options: VideoSegR1Options | None = None, vision: Vision = DEFAULT_VISION
    ) -> None:
        super().__init__(options, vision)
        self.choices = Choices()

    def shown(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample for training: the target frame and its segment come as hints.

        If no frame shows a target, any frame may be the target frame.
        """
        if self.options.training_frame == "sampler":
            return sample.bare
        choice = training_choice(sample, self.options, rng)
        if choice is None:
            frame = int(rng.choice(sample.video.num_frames))
            choice = choice_around(sample, frame, rng)
        hints = Hints(choice.frame, (choice.start, choice.stop))
        return replace(sample.bare, hints=hints)

    @property
    def uses_hints(self) -> bool:
        return self.options.sampler != "first"

    def hints(self, episode: Episode) -> Hints | None:
        """Return the sampler's choice, which the paper uses "only during inference"."""
        answer = episode.answer
        if answer.keyframe is None:
            return None
        start, stop = answer.facts["segment"]
        return Hints(answer.keyframe, (start, stop))

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Play one episode: the sampler's choice, unless the hints give it, then one answer.

        Facts of the answer: `segment` [start, stop), the `objects` as read, in pixels of the target
        image, and `readable`. An empty list is a readable answer.
        """
        options = self.options
        choice = _choice_from_hints(sample)
        if choice is None:
            choice = await self._sample_choice(sample, ask)

        question = ask_objects(
            sample.query, sample.video.num_frames, choice, options, self.target_grid
        )
        turn = await ask(question, max_tokens=options.max_tokens)
        objects = read_objects(said(turn), self.target_grid)

        prompts: list[MaskPrompt] = []
        for found in objects or []:
            prompt = mask_prompt(found, choice.frame, video_hw(sample), options.target_hw)
            if prompt is not None:
                prompts.append(prompt)
        facts = {
            "segment": [choice.start, choice.stop],
            "readable": objects is not None,
            "objects": objects or [],
        }
        answer = Answer(
            tuple(prompts),
            facts,
            keyframe=choice.frame,
            reasoning_tokens=ask.count(reasoning(turn.text)),
        )
        end = end_of(turn, readable=objects is not None)
        return Episode(sample.uid, (*choice.turns, turn), end, answer)

    @property
    def masks_by(self) -> MaskMaker:
        return "segmenter" if self.options.iou_source == "mask" else ""

    @property
    def needs_masks(self) -> bool:
        return self.options.iou_source == "mask" or self.options.asks_negative

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """Return VisionReasoner's sum, negative points included, times the length factor."""
        check_group(sample, episodes)
        assert masks is not None or not self.masks_by, "this reward is computed from masks"
        return rewards_of(sample, episodes, masks, self.options, self.target_grid)

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        """Return a dialogue with the right answer.

        The target frame is chosen as in training, unless the hints give it.

        Raises:
            ValueError: the targets are in no frame.
        """
        choice = _choice_from_hints(sample)
        if choice is None:
            choice = training_choice(sample, self.options, rng)
        if choice is None:
            raise ValueError(
                f"sample {sample.uid!r}: its targets are in none of the "
                f"{sample.video.num_frames} frames"
            )
        return dialogue(sample, choice, self.options, self.target_grid, rng)

    @property
    def target_grid(self) -> Grid:
        """The numbers in which the policy writes places in the target frame."""
        return self.grid(self.options.target_hw)

    async def _sample_choice(self, sample: Sample, ask: Ask) -> Choice:
        """Run the frame sampler, once for all episodes of a query and a weight version."""
        video = sample.video

        async def make() -> Choice:
            return await choose(video.uid, video.num_frames, sample.query, ask, self.options.plan)

        return await self.choices.get((video.uid, sample.query, ask.version), make)


def _choice_from_hints(sample: Sample) -> Choice | None:
    if sample.hints is None:
        return None
    start, stop = sample.hints.key_segment or (0, sample.video.num_frames)
    return Choice(start, stop, sample.hints.target_frame)

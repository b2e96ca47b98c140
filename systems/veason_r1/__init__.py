"""Veason-R1: one turn of reasoning that names a keyframe and the boxes of the objects in it.

The policy sees a few frames of the whole video. A segmenter tracks the boxes, after the episode,
through the video; the reward is computed from these masks too. See docs/spec/veason_r1.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from core.geometry import Grid, scale_box, uniform_frames
from core.masks import boxes_areas
from core.parsing import is_tagged
from core.types import (
    Answer,
    Ask,
    Episode,
    EpisodeMasks,
    Hints,
    MaskMaker,
    MaskPrompt,
    Sample,
)
from systems.base import (
    BaseSystem,
    Demonstration,
    end_of,
    said,
    video_hw,
)
from systems.veason_r1.answers import Found, read_answer
from systems.veason_r1.demonstrate import ideal_answer
from systems.veason_r1.options import VeasonR1Options
from systems.veason_r1.prompts import ask_objects
from systems.veason_r1.score import boxes_term, clip_term, form_term, keyframe_term

# Frames from which training picks the one that is always shown.
LARGEST = 5


class VeasonR1(BaseSystem[VeasonR1Options]):
    """The system: how an episode is played, rewarded and demonstrated."""

    name = "veason_r1"
    schema = VeasonR1Options

    def shown(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample without ground truth; its hint is a frame with large targets."""
        _, areas_F = boxes_areas(sample)
        if not self.options.large_frame or not areas_F.any():
            return sample.bare
        largest = np.argsort(-areas_F, kind="stable")[:LARGEST]
        visible = largest[areas_F[largest] > 0]
        return replace(sample.bare, hints=Hints(target_frame=int(rng.choice(visible))))

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Play one episode: a single turn.

        Facts of the answer: `frame_idx`, the keyframe's index among the shown frames; `boxes` in
        pixels of a shown frame; `tags` and `json`: the answer has both tags, and is readable.
        """
        options = self.options
        frames = self.frames(sample)
        turn = await ask(
            ask_objects(sample.query, frames, options, self.box_grid),
            max_tokens=options.max_tokens,
        )

        text = said(turn)
        found = read_answer(text, len(frames), self.box_grid, options.prompt)
        facts = {
            "frame_idx": found.place if found else None,
            "boxes": [list(box) for box in found.boxes] if found else [],
            "tags": is_tagged(text, ("think", "answer")),
            "json": found is not None,
        }
        keyframe = frames[found.place] if found else None
        answer = Answer(self._mask_prompts(sample, keyframe, found), facts, keyframe=keyframe)
        return Episode(sample.uid, (turn,), end_of(turn, found is not None), answer)

    @property
    def masks_by(self) -> MaskMaker:
        return "tracker" if self.options.all_weights["clip"] else ""

    @property
    def weights(self) -> dict[str, float]:
        return self.options.all_weights

    def terms(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None
    ) -> dict[str, Tensor]:
        """Return form, keyframe and boxes; also clip if it has a weight."""
        terms = {
            "form": form_term(episodes),
            "keyframe": keyframe_term(sample, episodes),
            "boxes": boxes_term(sample, episodes, self.options.frame_hw),
        }
        if self.masks_by:
            assert masks is not None, "this reward is computed from tracked masks"
            readable_G = torch.tensor([episode.answer.facts["json"] for episode in episodes])
            # An answer that names nothing is right about a video without targets; an unreadable
            # one is not.
            terms["clip"] = torch.where(readable_G, clip_term(sample, masks), 0.0)
        return terms

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        """Return the ideal dialogue; see `ideal_answer`."""
        options = self.options
        frames = self.frames(sample)
        text = ideal_answer(sample, frames, self.box_grid, options.prompt, rng)
        return ((ask_objects(sample.query, frames, options, self.box_grid), text),)

    @property
    def box_grid(self) -> Grid:
        """The numbers in which the policy gives its boxes."""
        return self.grid(self.options.frame_hw)

    def frames(self, sample: Sample) -> list[int]:
        """Return the numbers of the shown frames: evenly spread, with the hint's among them."""
        frames = uniform_frames(sample.video.num_frames, self.options.num_frames)
        if sample.hints is not None:
            sure = sample.hints.target_frame
            nearest = min(frames, key=lambda frame: abs(frame - sure))
            frames[frames.index(nearest)] = sure
        return frames

    def _mask_prompts(
        self, sample: Sample, keyframe: int | None, found: Found | None
    ) -> tuple[MaskPrompt, ...]:
        """Return a prompt for each box with an area, in pixels of the video."""
        if keyframe is None or found is None:
            return ()
        prompts = []
        for box in found.boxes:
            x0, y0, x1, y1 = scale_box(box, self.options.frame_hw, video_hw(sample))
            if x1 > x0 and y1 > y0:
                prompts.append(MaskPrompt(keyframe, (x0, y0, x1, y1)))
        return tuple(prompts)

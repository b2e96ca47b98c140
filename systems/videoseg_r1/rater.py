"""Rates how hard a query about a video is, for VideoSeg-R1's length budget.

`ray_jobs.rate_difficulty` plays it with any policy. Where the notes of a sample hold ratings, it
can be scored and demonstrated as well, so that a small rater can be taught on synthetic data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.difficulty import (
    ASPECTS,
    LEAST,
    MOST,
    difficulty,
    is_complete,
    rating_answer,
    rating_question,
    read_ratings,
)
from core.geometry import uniform_frames
from core.settings import setting
from core.types import Answer, Ask, Episode, EpisodeMasks, Reward, Sample
from systems.base import BaseSystem, Content, Demonstration, end_of, show_frames


@dataclass(frozen=True)
class RaterOptions:
    """`system.options` of the rater."""

    num_frames: int = setting(8, help="frames shown, evenly spread", least=1)
    frame_side: int = setting(336, help="height and width of a frame, in pixels", least=1)
    max_tokens: int = setting(256, help="of an answer", least=1)


class DifficultyRater(BaseSystem[RaterOptions]):
    """One question and one answer. Facts of the answer: `ratings`, those that could be read."""

    name = "difficulty_rater"
    schema = RaterOptions

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Ask once. The episode is DONE if all five ratings could be read.

        A cut-off answer is read as well.
        """
        turn = await ask(self.question(sample), max_tokens=self.options.max_tokens)
        ratings = read_ratings(turn.text)
        end = end_of(turn, readable=is_complete(ratings))
        return Episode(sample.uid, (turn,), end, Answer(facts={"ratings": ratings}))

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """Return r = share of readable ratings + 1 - |D - D*| / 9, D* the known difficulty.

        Raises:
            ValueError: the notes of the sample hold no ratings.
        """
        truth = difficulty(_known_ratings(sample))
        rewards = []
        for episode in episodes:
            ratings = episode.answer.facts["ratings"]
            agreement = 0.0
            if ratings:
                agreement = 1 - abs(difficulty(ratings) - truth) / (MOST - LEAST)
            parts = {"format": len(ratings) / len(ASPECTS), "agreement": agreement}
            rewards.append(Reward(sum(parts.values()), parts))
        return rewards

    def demonstrate(self, sample: Sample, rng: np.random.Generator) -> Demonstration:
        """Return the question and the known ratings.

        Raises:
            ValueError: the notes of the sample hold no ratings.
        """
        return ((self.question(sample), rating_answer(_known_ratings(sample))),)

    def question(self, sample: Sample) -> Content:
        """Return the frames, each after its number, and the question."""
        side = self.options.frame_side
        frames = uniform_frames(sample.video.num_frames, self.options.num_frames)
        names = [f"Frame {i}:" for i in range(len(frames))]
        content = show_frames(names, frames, self.vision.round_size(side, side))
        return [*content, rating_question(sample.query, len(frames))]


def _known_ratings(sample: Sample) -> dict[str, int]:
    ratings = sample.notes.ratings
    if ratings is None:
        raise ValueError(f"sample {sample.uid!r}: no ratings are known; give difficulty.folder")
    return dict(ratings)

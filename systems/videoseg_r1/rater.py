"""Not a published system: rates how hard a sentence about a video is, by the question of `core.difficulty`.

`ray_jobs.rate_difficulty` plays it with any policy of the engine. As an ordinary system it can be scored and
demonstrated too, where the difficulty is known (`sample.notes`): a small rater can be taught on synthetic data.
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
from core.types import Answer, Ask, End, Episode, EpisodeMasks, Reward, Sample, View
from systems.base import WHERE, BaseSystem


@dataclass(frozen=True)
class RaterOptions:
    """`system.options` of the rater. `frame_side` is in pixels, a multiple of 28 (one visual token)."""

    num_frames: int = 8  # sampled uniformly from the video
    frame_side: int = 336
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.max_tokens < 1:
            raise ValueError(
                f"{WHERE}: num_frames={self.num_frames}, max_tokens={self.max_tokens}: must be positive"
            )


class DifficultyRater(BaseSystem[RaterOptions]):
    """One question, one answer. Facts: `ratings`, those that could be read."""

    name: str = "difficulty_rater"
    schema = RaterOptions

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Asks once; DONE only if all five ratings could be read. An answer that was cut off is read all the same."""
        turn = await ask(self.content(sample), max_tokens=self.options.max_tokens)
        ratings = read_ratings(turn.text)
        end = (
            End.DONE if is_complete(ratings) else End.UNREADABLE if turn.complete else End.TRUNCATED
        )
        return Episode(sample.uid, (turn,), end, Answer(facts={"ratings": ratings}))

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """r = share of the ratings that could be read + 1 - |D - D*| / 9, with D* the known difficulty.

        Raises ValueError for a sample whose notes know none.
        """
        truth = difficulty(_known(sample))
        rewards = []
        for episode in episodes:
            ratings = episode.answer.facts["ratings"]
            close = 1 - abs(difficulty(ratings) - truth) / (MOST - LEAST) if ratings else 0.0
            parts = {"format": len(ratings) / len(ASPECTS), "agreement": close}
            rewards.append(Reward(sum(parts.values()), parts))
        return rewards

    def demonstrate(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[tuple[list[str | View], str], ...]:
        """Question and right answer. Raises ValueError for a sample whose notes know no ratings."""
        return ((self.content(sample), rating_answer(_known(sample))),)

    def content(self, sample: Sample) -> list[str | View]:
        """What the user says: the frames, each after its number, then the question."""
        side, _ = self.vision.round_size(self.options.frame_side, self.options.frame_side)
        content = list[str | View]()
        frames = uniform_frames(sample.video.num_frames, self.options.num_frames)
        for i, frame in enumerate(frames):
            content += [f"Frame {i}:", View(frame, side, side)]
        return [*content, rating_question(sample.query, len(frames))]


def _known(sample: Sample) -> dict[str, int]:
    ratings = sample.notes.ratings
    if ratings is None:
        raise ValueError(f"sample {sample.uid!r}: no ratings are known; give difficulty.folder")
    return dict(ratings)

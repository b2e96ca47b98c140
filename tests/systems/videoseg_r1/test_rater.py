"""The difficulty rater, played by a scripted policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from core.difficulty import ASPECTS, rating_answer
from core.geometry import uniform_frames
from core.types import End, Episode, Notes, Sample, Turn, Video, View
from systems import make
from systems.videoseg_r1.rater import DifficultyRater

RATINGS = dict(zip(ASPECTS, (2, 4, 6, 8, 10), strict=True))
VIDEO = Video("v", "nowhere", tuple(f"{frame:05d}" for frame in range(10)), 60, 80)
SAMPLE = Sample("v/0", VIDEO, "the dog", (), notes=Notes(ratings=RATINGS))


def play(text: str, complete: bool = True) -> Episode:
    """Play one completion; check that the question shows two frames and the query."""

    async def ask(
        content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn:
        views = [piece for piece in content if isinstance(piece, View)]
        assert views == [View(frame, 56, 56) for frame in uniform_frames(10, 2)]
        assert max_tokens == 40
        instruction = content[-1]
        assert isinstance(instruction, str)
        assert "the dog" in instruction
        return Turn((), (1,), (0.0,), text, (), complete, 0)

    rater = make("difficulty_rater", {"num_frames": 2, "frame_side": 56, "max_tokens": 40})
    return asyncio.run(rater.play(SAMPLE, cast(Any, ask)))


def test_an_episode_with_five_ratings_ends_well() -> None:
    episode = play(rating_answer(RATINGS))
    assert episode.end is End.DONE
    assert episode.answer.facts == {"ratings": RATINGS}


def test_an_episode_without_all_ratings_is_unreadable() -> None:
    episode = play('{"scene_complexity": 3}')
    assert episode.end is End.UNREADABLE
    assert episode.answer.facts == {"ratings": {"scene_complexity": 3}}


def test_an_episode_cut_off_is_truncated() -> None:
    episode = play("{", complete=False)
    assert episode.end is End.TRUNCATED
    assert episode.answer.facts == {"ratings": {}}


def test_the_reward_counts_readable_ratings_and_the_distance_to_the_difficulty() -> None:
    right = play(rating_answer(RATINGS))
    # The answered difficulty is 9, the true one 6.
    too_high = play(rating_answer(dict.fromkeys(ASPECTS, 9)))
    unreadable = play("no idea")
    rewards = DifficultyRater().score(SAMPLE, [right, too_high, unreadable])
    totals = [reward.total for reward in rewards]
    assert totals == pytest.approx([2.0, 2 - 3 / 9, 0.0])


def test_a_demonstration_earns_the_highest_reward() -> None:
    rater = DifficultyRater()
    ((_, text),) = rater.demonstrate(SAMPLE, np.random.default_rng(0))
    (reward,) = rater.score(SAMPLE, [play(text)])
    assert reward.total == 2.0


def test_a_demonstration_needs_ratings() -> None:
    unrated = Sample("v/1", VIDEO, "the dog", ())
    with pytest.raises(ValueError, match="'v/1': no ratings are known; give difficulty.folder"):
        DifficultyRater().demonstrate(unrated, np.random.default_rng(0))


def test_the_side_of_a_frame_is_rounded_to_whole_image_tokens() -> None:
    rater = make("difficulty_rater", {"frame_side": 60})
    ((content, _),) = rater.demonstrate(SAMPLE, np.random.default_rng(0))
    assert content[1] == View(0, 56, 56)

"""The rater as a system, with a scripted policy."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from core.difficulty import ASPECTS, rating_answer
from core.geometry import uniform_frames
from core.types import End, Notes, Sample, Turn, Video, View
from systems import make
from systems.videoseg_r1.rater import DifficultyRater

RATINGS = dict(zip(ASPECTS, (2, 4, 6, 8, 10), strict=True))
VIDEO = Video("v", "nowhere", tuple(f"{i:05d}" for i in range(10)), 60, 80)
SAMPLE = Sample("v/0", VIDEO, "the dog", (), notes=Notes(ratings=RATINGS))


def play(text: str, complete: bool = True):
    async def ask(content, *, max_tokens: int, trainable: bool = True) -> Turn:
        views = [piece for piece in content if isinstance(piece, View)]
        assert views == [View(f, 56, 56) for f in uniform_frames(10, 2)]
        assert max_tokens == 40
        assert "the dog" in content[-1]
        return Turn((), (1,), (0.0,), text, (), complete, 0)

    rater = make("difficulty_rater", {"num_frames": 2, "frame_side": 56, "max_tokens": 40})
    return asyncio.run(rater.play(SAMPLE, cast(Any, ask)))


def test_an_episode_ends_well_only_with_five_ratings() -> None:
    whole = play(rating_answer(RATINGS))
    part = play('{"scene_complexity": 3}')
    cut = play("{", complete=False)
    assert (whole.end, whole.answer.facts) == (End.DONE, {"ratings": RATINGS})
    assert (part.end, part.answer.facts) == (End.UNREADABLE, {"ratings": {"scene_complexity": 3}})
    assert (cut.end, cut.answer.facts) == (End.TRUNCATED, {"ratings": {}})


def test_the_reward_is_what_could_be_read_and_how_near_the_difficulty_is() -> None:
    rater = DifficultyRater()
    off = rating_answer(dict.fromkeys(ASPECTS, 9))  # D is 9, the truth 6
    rewards = rater.score(SAMPLE, [play(rating_answer(RATINGS)), play(off), play("no idea")])
    assert [r.total for r in rewards] == pytest.approx([2.0, 2 - 3 / 9, 0.0])


def test_the_demonstration_earns_all() -> None:
    [(_, text)] = DifficultyRater().demonstrate(SAMPLE, np.random.default_rng(0))
    assert DifficultyRater().score(SAMPLE, [play(text)])[0].total == 2.0
    with pytest.raises(ValueError, match="'v/1': no ratings are known; give difficulty.folder"):
        DifficultyRater().demonstrate(Sample("v/1", VIDEO, "the dog", ()), np.random.default_rng(0))
    rounded = make("difficulty_rater", {"frame_side": 60})
    assert rounded.demonstrate(SAMPLE, np.random.default_rng(0))[0][0][1] == View(0, 56, 56)

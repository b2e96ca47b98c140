"""Figures of evaluations, and the bound on failed episodes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from core.types import End, Episode, Notes, Reward, Sample, Video
from ray_jobs.driver.evaluation import stop_on_failures
from ray_jobs.driver.results import Evaluation, Result, mean_parts, paired_gain


def test_paired_gain() -> None:
    """Differences 1, 2, 3, 6: mean 3, s = sqrt(14/3), standard error s / 2."""
    before = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}
    after = {"d": 46.0, "a": 11.0, "b": 22.0, "c": 33.0}
    assert paired_gain(before, after) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2))


def _result(uid: str, jf: float, reward: float, end: End = End.DONE) -> Result:
    sample = Sample(uid, Video("v", "v", ("0",), 2, 2), "the circle", ())
    scored = None
    if end is not End.FAILED:
        scored = Reward(reward, {"box": reward / 2})
    return Result(sample, Episode(uid, (), end), (), scored, {"J": jf, "F": jf})


def test_the_reward_and_jf_of_the_same_expression_are_compared() -> None:
    """Between the expressions reward and J&F disagree, because these differ in difficulty."""
    same = [
        _result("a", 0.1, 8.0),
        _result("a", 0.2, 9.0),
        _result("b", 0.7, 1.0),
        _result("b", 0.9, 3.0),
    ]
    assert Evaluation(tuple(same)).reward_jf_correlation() == pytest.approx(1.0)
    failed = Evaluation((*same, _result("a", 0.9, 0.0, End.FAILED)))
    assert failed.reward_jf_correlation() == pytest.approx(1.0)
    assert mean_parts([r.parts for r in failed.results]) == {"box": pytest.approx(21 / 2 / 5)}
    once = Evaluation((same[0], same[2]))
    assert once.reward_jf_correlation() is None


def _episodes(failed: int, total: int, error: str) -> list[Episode]:
    bad = Episode("v/0", (), End.FAILED, error=error)
    good = Episode("v/0", (), End.DONE, error=error)
    return [bad] * failed + [good] * (total - failed)


def test_failures_below_the_bound_are_borne() -> None:
    stop_on_failures(_episodes(1, 20, "boom"), 0.05)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    error = "Traceback (most recent call last):\n  File x\nKeyError: 'frames'"
    with pytest.raises(RuntimeError, match="2 of 20 episodes failed(.|\n)*File x"):
        stop_on_failures(_episodes(2, 20, error), 0.05)


def test_a_fault_of_the_data_is_told_in_one_line() -> None:
    message = "v.mp4: the video stops after frame 3: copy it"
    error = f"Traceback (most recent call last):\n  File x\nValueError: {message}"
    with pytest.raises(ValueError, match=rf"^{message} \(20 of 20 .*\)$"):
        stop_on_failures(_episodes(20, 20, error), 0.05)


def test_a_video_with_unlabelled_frames_has_no_reward() -> None:
    known = _result("a", 0.5, 3.0)
    notes = Notes(frames_listed=("0",), others_unknown=True)
    other = _result("b", 0.7, 0.0)
    unknown = replace(other, sample=replace(other.sample, notes=notes), reward=None)
    found = Evaluation((known, unknown))
    assert found.mean("reward") == 3.0
    assert found.mean("jf") == pytest.approx(60)
    assert Evaluation((unknown,)).mean("reward") == 0.0

"""Held-out training videos: whole, the same in every run, about the share that was asked for."""

from __future__ import annotations

import pytest

from core.types import Sample, Video
from data.holdout import held_out_part, is_held_out, training_part


def samples(videos: int, expressions: int = 3) -> list[Sample]:
    made = []
    for number in range(videos):
        video = Video(f"clip{number}", f"clips/{number}", ("0.jpg",), 8, 8)
        for each in range(expressions):
            made.append(Sample(f"clip{number}/{each}", video, "the dog", ()))
    return made


def test_both_parts_are_the_whole_and_share_no_video() -> None:
    every = samples(400)
    train = training_part(every, 0.1)
    watched = held_out_part(every, 0.1)
    assert sorted([*train, *watched], key=every.index) == every
    assert not {each.video.uid for each in train} & {each.video.uid for each in watched}
    assert 0.05 < len(watched) / len(every) < 0.15


def test_the_choice_does_not_depend_on_the_rest_and_grows_with_the_share() -> None:
    """Another data set, order or process chooses the same videos."""
    chosen = {each.video.uid for each in held_out_part(samples(400), 0.1)}
    assert {each.video.uid for each in held_out_part(samples(800), 0.1)} >= chosen
    assert {each.video.uid for each in held_out_part(samples(400), 0.2)} > chosen
    assert is_held_out("clip10", 0.1) == ("clip10" in chosen)


def test_the_first_ones_to_watch_come_from_the_whole_data_set() -> None:
    """A mix is read set after set, and only the first expressions are measured."""
    watched = held_out_part(samples(2000), 0.2)
    numbers = [int(each.video.uid.removeprefix("clip")) for each in watched[:50]]
    assert min(numbers) < 500
    assert max(numbers) > 1500
    assert held_out_part(samples(2000)[::-1], 0.2) == watched


def test_nothing_is_held_out_by_default() -> None:
    every = samples(50)
    assert training_part(every, 0.0) == every


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="data.holdout=0.001: none of 5 training videos"):
        held_out_part(samples(5), 0.001)
    with pytest.raises(ValueError, match="data.holdout=0.9999: no training video is left"):
        training_part(samples(2), 0.9999)

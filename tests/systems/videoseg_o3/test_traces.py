"""Search traces of VideoSEG-O3: plans from true areas, and their texts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from systems.videoseg_o3.traces import Look, plan_search, write_look, write_search

# Pixels of the target on 16 frames: visible from 3 to 10, with a gap.
AREAS = np.array([0, 0, 0, 5, 9, 0, 7, 8, 6, 4, 1, 0, 0, 0, 0, 0])


def search(turns: int, seed: int) -> list[Look]:
    return plan_search(AREAS, turns, np.random.default_rng(seed))


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_a_search_has_one_look_for_each_turn(turns: int) -> None:
    for seed in range(50):
        assert len(search(turns, seed)) == turns


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_the_last_look_is_all_that_shows_the_target(turns: int) -> None:
    for seed in range(50):
        last = search(turns, seed)[-1]
        assert last.start == 3
        assert last.stop == 11
        # The frames with the five largest areas.
        assert last.keyframe in (3, 4, 6, 7, 8)


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_every_look_lies_in_the_look_before_it(turns: int) -> None:
    for seed in range(50):
        for wide, narrow in itertools.pairwise(search(turns, seed)):
            assert 0 <= wide.start <= narrow.start
            assert narrow.stop <= wide.stop <= len(AREAS)


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_every_keyframe_shows_the_target(turns: int) -> None:
    for seed in range(50):
        for look in search(turns, seed):
            assert AREAS[look.keyframe] > 0
            assert look.start <= look.keyframe < look.stop


def test_the_same_seed_plans_the_same_search() -> None:
    assert search(3, seed=3) == search(3, seed=3)


def test_searches_of_different_seeds_differ() -> None:
    searches = {tuple(search(3, seed)) for seed in range(20)}
    assert len(searches) > 10
    starts = {looks[0].start for looks in searches}
    assert starts > {3}
    assert max(looks[0].stop for looks in searches) > 11


def test_a_search_for_a_target_in_every_frame() -> None:
    looks = plan_search(np.ones(4), 2, np.random.default_rng(0))
    assert looks[0].stop == 4


def test_a_search_needs_a_frame_with_the_target() -> None:
    with pytest.raises(ValueError, match="nothing to find in any of 4 frames"):
        plan_search(np.zeros(4), 2, np.random.default_rng(0))


def test_the_text_of_a_look_has_an_inclusive_end() -> None:
    assert write_look(Look(3, 6, 4)) == '<VTG>{"start":3,"end":5,"keyframe":4}</VTG>'


def test_the_text_of_a_search() -> None:
    wide = Look(2, 9, 3)
    narrow = Look(3, 6, 4)
    assert write_search([wide, narrow], "red circle", "it grows") == [
        "<think>Step 1: it grows, seen from 2 to 8. Step 2: red circle. Step 3: it grows. "
        "Action: see new segment.</think>"
        '<select><VTG>{"start":2,"end":8,"keyframe":3}</VTG><RefSeg>[SEG]</RefSeg></select>',
        "<think>Step 1: it grows, seen from 3 to 5. Step 2: red circle. Step 3: it grows. "
        "Action: confirmed.</think>"
        '<answer><VTG>{"start":3,"end":5,"keyframe":4}</VTG><RefSeg>[SEG]</RefSeg></answer>',
    ]

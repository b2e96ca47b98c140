"""Searches from true areas, and how they are written."""

import itertools

import numpy as np
import pytest

from systems.videoseg_o3.traces import Look, plan_search, write_look, write_search

AREAS = np.array([0, 0, 0, 5, 9, 0, 7, 8, 6, 4, 1, 0, 0, 0, 0, 0])  # shown in 3..10, with a gap


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_a_search_narrows_down_to_what_shows_the_target(turns):
    for seed in range(50):
        looks = plan_search(AREAS, turns, np.random.default_rng(seed))
        assert len(looks) == turns
        assert (looks[-1].start, looks[-1].stop) == (3, 11)
        assert looks[-1].keyframe in (3, 4, 6, 7, 8)  # the five largest
        for wide, narrow in itertools.pairwise(looks):
            assert 0 <= wide.start <= narrow.start
            assert narrow.stop <= wide.stop <= len(AREAS)
        for look in looks:
            assert AREAS[look.keyframe] > 0
            assert look.start <= look.keyframe < look.stop


def test_searches_differ_and_repeat():
    made = [tuple(plan_search(AREAS, 3, np.random.default_rng(seed))) for seed in range(20)]
    assert len(set(made)) > 10
    assert made[3] == tuple(plan_search(AREAS, 3, np.random.default_rng(3)))
    assert {looks[0].start for looks in made} > {3}
    assert max(looks[0].stop for looks in made) > 11


def test_shown_all_the_time():
    assert plan_search(np.ones(4), 2, np.random.default_rng(0))[0].stop == 4


def test_nothing_to_find():
    with pytest.raises(ValueError, match="nothing to find in any of 4 frames"):
        plan_search(np.zeros(4), 2, np.random.default_rng(0))


def test_how_it_is_written():
    wide = Look(2, 9, 3)
    narrow = Look(3, 6, 4)
    assert write_look(narrow) == '<VTG>{"start":3,"end":5,"keyframe":4}</VTG>'
    assert write_search([wide, narrow], "red circle", "it grows") == [
        "<think>Step 1: it grows, seen from 2 to 8. Step 2: red circle. Step 3: it grows. "
        "Action: see new segment.</think>"
        '<select><VTG>{"start":2,"end":8,"keyframe":3}</VTG><RefSeg>[SEG]</RefSeg></select>',
        "<think>Step 1: it grows, seen from 3 to 5. Step 2: red circle. Step 3: it grows. "
        "Action: confirmed.</think>"
        '<answer><VTG>{"start":3,"end":5,"keyframe":4}</VTG><RefSeg>[SEG]</RefSeg></answer>',
    ]

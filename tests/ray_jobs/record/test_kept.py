"""What is kept of a step for the replay page, and that it stays within its bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.masks import area, encode
from core.types import End, Episode, Group, Reward
from ray_jobs.record.kept import chosen, forget_after, masks_of, spread, write_kept
from ray_jobs.record.pictures import Pictures


def _groups(names: str) -> list[Group]:
    return [Group(name, (Episode(name, (), End.DONE),) * 4) for name in names]


def test_whole_groups_are_chosen_and_at_least_one() -> None:
    assert [len(chosen(_groups("abcde"), most)) for most in (0, 1, 7, 8, 99)] == [0, 1, 1, 2, 5]


def test_a_sample_is_chosen_again_whatever_is_played_beside_it() -> None:
    [first] = chosen(_groups("abcdefgh"), 4)
    assert chosen(_groups("hgfedcba"), 4) == [first]
    assert first in chosen([first, *_groups("z")], 8)


def test_frames_are_spread_and_hold_the_wanted_ones() -> None:
    assert spread(5, 8, []) == [0, 1, 2, 3, 4]
    assert spread(100, 2, [7, 400]) == [7, 25, 75]


def test_masks_on_one_frame_are_united() -> None:
    left = np.zeros((4, 6), bool)
    left[:, :2] = True
    right = ~left
    reward = Reward(1.0, {}, masks=((5, encode(left)), (2, encode(left)), (5, encode(right))))
    (first, alone), (second, both) = masks_of(reward)
    assert (first, second) == (2, 5)
    assert (area(alone), area(both)) == (8, 24)
    assert masks_of(None) == []


def test_later_steps_are_forgotten(tmp_path: Path) -> None:
    for name in ("step_2", "step_10", "eval_10_greedy"):
        write_kept(tmp_path, name, [{"sample": "v/0"}])
    forget_after(tmp_path, 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "eval_10_greedy.jsonl",
        "step_2.jsonl",
    ]


def test_pictures_stop_at_their_limit_and_equal_ones_count_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    pictures = Pictures.open(tmp_path, 12_000)
    assert pictures.add("a", noise)
    used = pictures.used
    assert pictures.add("a", noise)
    assert pictures.used == used
    # The first steps leave room for the last ones.
    assert not pictures.add("b", noise, share=0.1)
    for name in "bcdef":
        pictures.add(name, noise)
    assert pictures.used <= 12_000
    again = Pictures.open(tmp_path, 12_000)
    assert again.used == pictures.used
    assert not again.add("g", noise)

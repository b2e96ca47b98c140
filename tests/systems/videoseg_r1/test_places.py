"""Boxes and points without masks (VisionReasoner's images): truth, reward, demonstration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.types import Answer, End, Episode, Sample, Turn
from data.load import load_samples
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.score import truth_in
from systems.videoseg_r1.target_frame import visible_frames
from tests.data.fixture_files import HEIGHT, WIDTH
from tests.data.fixture_places_tasks import visionreasoner

OPTIONS = VideoSegR1Options(answer="box_point", target_height=56, target_width=56, think=False)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    visionreasoner(tmp_path)
    return load_samples("visionreasoner", str(tmp_path), "train")[0]


def test_truth_is_the_published_numbers(sample: Sample) -> None:
    """At the size of the image nothing is scaled; a corner on its edge is its last pixel."""
    truth = truth_in(sample, 0, (HEIGHT, WIDTH))
    assert truth.boxes_N4.tolist() == [[4, 2, 11, 9], [20, 8, 31, 23]]
    assert truth.points_N2.tolist() == [[7, 5], [26, 15]]


def test_the_image_shows_its_targets(sample: Sample) -> None:
    assert visible_frames(sample, OPTIONS).tolist() == [0]


def test_a_demonstration_earns_everything_and_a_swapped_one_less(sample: Sample) -> None:
    system = VideoSegR1(OPTIONS)
    [(_, answer)] = system.demonstrate(sample, np.random.default_rng(0))
    objects = json.loads(answer.removeprefix("<answer>").removesuffix("</answer>"))
    assert [set(found) for found in objects] == [{"bbox_2d", "point_2d"}] * 2
    rewards = system.score(sample, [episode(sample, answer), episode(sample, other(objects))])
    assert rewards[0].parts["accuracy"] == 3.0
    assert rewards[1].parts["accuracy"] < 3.0


def other(objects: list[dict[str, list[int]]]) -> str:
    """An answer with one object only."""
    return f"<answer>{json.dumps(objects[:1])}</answer>"


def episode(sample: Sample, text: str) -> Episode:
    turn = Turn((), (), (), text, (), True, 0)
    return Episode(sample.uid, (turn,), End.DONE, Answer(keyframe=0, reasoning_tokens=0))


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (OPTIONS, False),
        (VideoSegR1Options(answer="box"), False),
        (VideoSegR1Options(), True),
        (VideoSegR1Options(answer="box_point", iou_source="mask"), True),
    ],
)
def test_rewards_that_need_masks(options: VideoSegR1Options, needed: bool) -> None:
    assert VideoSegR1(options).needs_masks == needed

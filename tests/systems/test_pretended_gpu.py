"""Rewards of all systems on a pretended GPU: the CPU's figures to the bit, and few transfers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from core.types import Episode, EpisodeMasks, Reward, Sample, System
from tests.fake_cuda import Traffic, fake_cuda
from tests.systems import o3_script, r1_script, revseg_script
from tests.systems.veason_r1 import test_veason_r1 as veason_script

Case = tuple[System, Sample, list[Episode], EpisodeMasks | None]


def r1_case(**options: Any) -> Case:
    """Answers about two target frames, one of them without a target; extra and missing objects."""
    perfect = r1_script.say(r1_script.PERFECT)
    one = r1_script.say(r1_script.PERFECT[:1], "because " * 80)
    many = r1_script.say(r1_script.PERFECT + r1_script.PERFECT[::-1])
    texts = [perfect, one, many, "sorry", r1_script.say([])]
    sample = r1_script.sample(seen=range(6))
    episodes = []
    for text in texts:
        episode, _, system = r1_script.play(text, sample, **options)
        episodes.append(episode)
    return system, sample, episodes, None


def r1_mask_case() -> Case:
    system, sample, episodes, _ = r1_case(iou_source="mask")
    boxes = []
    for episode in episodes:
        found = [r1_script.LEFT, r1_script.RIGHT] * len(episode.answer.prompts)
        boxes.append(found[: len(episode.answer.prompts)])
    return system, sample, episodes, r1_script.drawn(sample, *boxes)


def revseg_case(**options: Any) -> Case:
    good = (revseg_script.GOOD_1, revseg_script.GOOD_2)
    groups = [good, (good[0].replace("2", "1"), good[1]), (good[0], "sorry"), ("",)]
    episodes = []
    for texts in groups:
        episode, _, system = revseg_script.play(*texts, **options)
        episodes.append(episode)
    return system, revseg_script.sample(), episodes, None


def o3_case(**options: Any) -> Case:
    answers = [
        (o3_script.ANSWER,),
        (o3_script.SELECT, o3_script.ANSWER),
        (o3_script.SELECT, o3_script.SELECT_2, o3_script.ANSWER),
        (o3_script.SELECT, "sorry"),
    ]
    episodes = []
    masks: list[list[np.ndarray | None]] = []
    for texts in answers:
        episode, _, system = o3_script.play(*texts, **options)
        episodes.append(episode)
        masks.append([o3_script.square(12 + seg.turn) for seg in episode.answer.segs])
    return system, o3_script.sample(), episodes, masks


def veason_case() -> Case:
    texts = [
        veason_script.say(1, veason_script.BOXES),
        veason_script.say(2, veason_script.BOXES[:1]),
        "sorry",
    ]
    episodes = []
    for text in texts:
        episode, _, system = veason_script.play(text)
        episodes.append(episode)
    masks = [
        veason_script.tracked([veason_script.LEFT, veason_script.RIGHT], (3, 4, 5)),
        veason_script.tracked([veason_script.LEFT], (2, 3)),
        [None] * 8,
    ]
    return system, veason_script.sample(), episodes, masks


def on_gpu(case: Case) -> tuple[Sequence[Reward], Traffic]:
    system, sample, episodes, masks = case
    with fake_cuda(default=True) as traffic:
        rewards = system.score(sample, episodes, masks)
    return rewards, traffic


CASES: dict[str, Callable[[], Case]] = {
    "videoseg_r1": r1_case,
    "box": lambda: r1_case(answer="box"),
    "point": lambda: r1_case(answer="point"),
    "negative": lambda: r1_case(answer="box_negative"),
    "no length": lambda: r1_case(length_penalty="none"),
    "masks": r1_mask_case,
    "revseg": revseg_case,
    "binary": lambda: revseg_case(temporal_reward="binary"),
    "no temporal": lambda: revseg_case(temporal_reward="none"),
    "videoseg_o3": o3_case,
    "intended": lambda: o3_case(rewards="as_intended"),
    "veason_r1": veason_case,
}


@pytest.mark.parametrize("name", CASES)
def test_a_gpu_gives_the_same_rewards(name: str) -> None:
    case = CASES[name]()
    system, sample, episodes, masks = case
    expected = system.score(sample, episodes, masks)
    rewards, traffic = on_gpu(case)
    assert rewards == expected
    assert len({reward.total for reward in rewards}) > 1
    assert traffic.operations


def test_rewards_stay_on_the_gpu() -> None:
    """What comes down for a group: the matching of its objects, and all terms together."""
    one_frame = r1_script.sample()
    episodes = []
    for text in (r1_script.say(r1_script.PERFECT), "sorry"):
        episode, _, system = r1_script.play(text, one_frame)
        episodes.append(episode)
    _, traffic = on_gpu((system, one_frame, episodes * 8, None))
    # Besides, the number of negative points is checked.
    assert traffic.down <= 3
    _, traffic = on_gpu(revseg_case())
    assert traffic.down <= 3

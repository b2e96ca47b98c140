"""Examination of a policy taught by object lessons: rewards on held-out scenes."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np

from models.dialogue import Dialogue
from systems.videoseg_r1 import VideoSegR1
from tiny.school.batched import Batched
from tiny.school.object_lessons import Lessons, shrunk
from tiny.school.speaker import Speaker
from tiny.world.scene import Scene, random_scene

# A seed of no lesson.
EXAM_SEED = 990_117


def examine(
    system: VideoSegR1, net: Batched, dialogue: Dialogue, count: int, temperature: float = 0.0
) -> dict[str, float]:
    """Return the mean reward and its parts on `count` scenes with the target frame given.

    "sees" is the share of scenes for which the frame sampler finds a frame with the target, "best"
    the mean size of the target there, relative to its largest.
    """
    rng = np.random.default_rng(EXAM_SEED)
    lessons = Lessons(system, rng)
    marks = []
    for _ in range(count):
        marks.append(_mark(system, net, dialogue, lessons, random_scene(rng), temperature))

    means = {}
    names = dict.fromkeys(name for mark in marks for name in mark)
    for name in names:
        means[name] = float(np.mean([mark[name] for mark in marks if name in mark]))
    return means


def _mark(
    system: VideoSegR1,
    net: Batched,
    dialogue: Dialogue,
    lessons: Lessons,
    scene: Scene,
    temperature: float,
) -> dict[str, float]:
    sample = lessons.sample(scene, lessons.query(scene))
    speaker = Speaker(net, dialogue, partial(shrunk, scene), temperature)
    episode = asyncio.run(system.play(system.shown(sample, lessons.rng), speaker))
    reward = system.score(sample, [episode])[0]
    mark = {
        "reward": reward.total,
        **reward.parts,
        "readable": float(episode.answer.facts["readable"]),
        "tokens": float(episode.answer.reasoning_tokens or 0),
    }
    if sample.targets:
        # A system of its own, because `system` keeps the choices of its frame sampler.
        fresh = VideoSegR1(system.options)
        frame = asyncio.run(fresh.play(sample.bare, speaker)).answer.keyframe
        sizes_F = lessons.areas(scene, sample)
        mark["sees"] = float(sizes_F[frame] > 0)
        mark["best"] = float(sizes_F[frame] / sizes_F.max())
    return mark

"""Taught answers earn the full reward, and all questions of a lesson share their images."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText

from core.geometry import Grid
from core.types import Answer, End, Episode, Turn, View
from models.dialogue import load_dialogue
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.answers import read_objects
from systems.videoseg_r1.sampler import read_interval, read_position
from tiny.school.extend import extend
from tiny.school.object_lessons import Lessons
from tiny.school.object_losses import Marker
from tiny.school.rows import pack
from tiny.teach import teach
from tiny.world.scene import COLOURS, random_scene

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "key_frames": 2,
    "reference_frames": 3,
    "frame_height": 84,
    "frame_width": 84,
    "target_height": 112,
    "target_width": 112,
    "prompt": "short",
    "negative_limit": 6.0,
    "sampler_frames": 4,
    "max_tokens": 60,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("teach") / "start"
    extend(ROOT / "tiny" / "weights" / "revseg", out)
    return out


def test_lessons_share_their_images_and_are_read(start: Path) -> None:
    lessons = Lessons(VideoSegR1.make(OPTIONS), np.random.default_rng(0))
    marker = Marker(load_dialogue(start))
    taken = [lessons.take() for _ in range(40)]
    kinds = set()
    for dialogues, images in taken:
        views = [piece for piece in dialogues[0][0] if isinstance(piece, View)]
        sizes = [(view.height, view.width) for view in views]
        assert [image.shape[:2] for image in images] == sizes
        for content, answer in dialogues:
            assert [piece for piece in content if isinstance(piece, View)] == views
            ask = str(content[-1])
            if "Part with" in ask:
                kinds.add("part")
                assert read_interval(answer, 0, 24) is not None
            elif "Best view" in ask:
                kinds.add("best")
                assert read_position(answer) is not None
            else:
                found = read_objects(answer, Grid((112, 112)))
                kinds.add("none" if found == [] else "objects")
                assert found is not None
    assert kinds == {"part", "best", "objects", "none"}
    rows = pack([marker(lesson.dialogues) for lesson in taken], marker.dialogue.image_id)
    assert rows.branch_BT.max(1).values.tolist() == [len(lesson.dialogues) for lesson in taken]
    coordinates = rows.value_BT[rows.value_BT >= 0]
    assert len(coordinates) > 100
    assert int(coordinates.max()) <= 112


def test_the_taught_answer_earns_what_can_be_earned() -> None:
    system = VideoSegR1.make(OPTIONS)
    rng = np.random.default_rng(1)
    lessons = Lessons(system, rng)
    for _ in range(12):
        scene = random_scene(rng)
        sample = lessons.sample(scene, lessons.query(scene))
        shown = system.shown(sample, rng)
        assert shown.hints is not None
        hinted = replace(sample, hints=shown.hints)
        ((_, answer),) = system.demonstrate(hinted, rng)
        answered = Answer(keyframe=shown.hints.target_frame, reasoning_tokens=1)
        reward = system.score(sample, [_episode(sample.uid, answer, answered)])[0].parts
        assert (reward["think_format"], reward["accuracy"], reward["non_repeat"]) == (1, 3, 1)
        assert reward["negative"] == (1 if sample.targets else 0)


def _episode(uid: str, text: str, answer: Answer) -> Episode:
    turn = Turn((), (), (), text, (), complete=True, version=0)
    return Episode(uid, (turn,), End.DONE, answer)


def test_teaching_changes_the_policy_and_writes_a_folder(start: Path, tmp_path: Path) -> None:
    out = tmp_path / "taught"
    options = argparse.Namespace(
        preset="videoseg_r1_tiny",
        init=str(start),
        out=str(out),
        minutes=0.03,
        rows=1,
        lr=1e-3,
        warm_steps=1,
        seed=0,
        freeze_vision=True,
        precision="bf16",
        exam=1,
        save_seconds=1e9,
        log_seconds=1e9,
    )
    teach(options)
    before = AutoModelForImageTextToText.from_pretrained(start)
    after = AutoModelForImageTextToText.from_pretrained(out)
    changed = set()
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if not old.equal(new):
            changed.add(name)
    assert changed
    assert not any("visual" in name for name in changed)
    assert after.dtype == before.dtype
    assert {file.name for file in out.iterdir()} == {file.name for file in start.iterdir()}


def test_several_objects_come_in_one_order() -> None:
    rng = np.random.default_rng(3)
    seen = 0
    lessons = Lessons(VideoSegR1.make(OPTIONS), rng)
    while seen < 5:
        scene = random_scene(rng)
        query = lessons.query(scene)
        if query.kind == "several":
            seen += 1
            things = [scene.things[i] for i in query.objects]
            colours = [list(COLOURS).index(thing.colour) for thing in things]
            names = " and ".join(f"the {thing.name}" for thing in things)
            assert colours == sorted(colours)
            assert query.thought.startswith(names)

"""Lessons for VideoSeg-R1: questions about one synthetic scene with the same images, and answers.

A lesson is about one target frame (which objects does each of several sentences refer to?) or
about time (in which part of the video is each of them, and in which frame best?). Every form of
question of the system comes up: with and without reasoning, with boxes, points or both. Thoughts
vary in length, so that reinforcement learning can find the best length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from core.masks import encode_frames
from core.types import Notes, Sample, Target, Video, View
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.sampler import (
    interval_answer,
    interval_question,
    position_answer,
    position_question,
)
from systems.videoseg_r1.target_frame import LARGEST
from tiny.world.queries import Query, description, pick_query, queries
from tiny.world.scene import COLOURS, NUM_FRAMES, SIDE, Scene, random_scene

# Questions with their answers; all show the same images.
Dialogues = list[tuple[list[str | View], str]]

MIX: Mapping[str, float] = {
    "look": 0.36,
    "motion": 0.12,
    "order": 0.17,
    "size": 0.09,
    "relation": 0.05,
    "hiding": 0.03,
    "several": 0.14,
    "none": 0.04,
}
# Most sentences of a lesson.
MOST = 4
KINDS = ("objects", "video", "part")
SHARES = (0.6, 0.2, 0.2)
# Options of the system that change the form of its question.
FORMS: tuple[dict[str, bool | str], ...] = (
    {},
    {"think": False},
    {"answer": "box"},
    {"answer": "point"},
    {"answer": "box_point"},
    {"answer": "box_negative"},
)
FORM_SHARES = (0.65, 0.11, 0.06, 0.06, 0.06, 0.06)
# True statements in a thought beyond the one that answers.
MORE = (0, 1, 2)
MORE_SHARES = (0.4, 0.35, 0.25)
VIDEO = Video("scene", "", tuple(str(i) for i in range(NUM_FRAMES)), SIDE, SIDE)


class Lesson(NamedTuple):
    """Questions with their answers, and the images that each of the questions shows, in order."""

    dialogues: Dialogues
    images: list[np.ndarray]


class Lessons:
    """Endless lessons for one system."""

    def __init__(self, system: VideoSegR1, rng: np.random.Generator) -> None:
        self.rng = rng
        self.plan = system.options.plan
        self.forms = [VideoSegR1(replace(system.options, **form)) for form in FORMS]  # type: ignore[arg-type]
        self.by_largest = VideoSegR1(replace(system.options, training_frame="largest"))
        self.by_visible = VideoSegR1(replace(system.options, training_frame="visible"))

    def take(self) -> Lesson:
        """Return the next lesson."""
        while True:
            scene = random_scene(self.rng)
            kind = KINDS[self.rng.choice(len(KINDS), p=SHARES)]
            if kind == "objects":
                dialogues = self._about_objects(scene)
            else:
                dialogues = self._about_time(scene, part=kind == "part")
            if dialogues:
                content = dialogues[0][0]
                images = [shrunk(scene, piece) for piece in content if isinstance(piece, View)]
                return Lesson(dialogues, images)

    def query(self, scene: Scene) -> Query:
        """Draw a query."""
        return pick_query(self.rng, self._queries(scene), MIX)

    def sample(self, scene: Scene, query: Query) -> Sample:
        """Return the query as a data set would give it, with a thought of random length."""
        targets = []
        for i in query.objects:
            rles_F = encode_frames(scene.owner_FHW == i)
            areas_F = scene.areas_OF[i]
            masks_F = [rle if area > 0 else None for rle, area in zip(rles_F, areas_F, strict=True)]
            targets.append(Target(str(i), masks_F))
        notes = Notes(thought=self._thought(scene, query), description=description(scene, query))
        return Sample("scene/0", VIDEO, query.text, tuple(targets), query.kind, notes)

    def areas(self, scene: Scene, sample: Sample) -> np.ndarray:
        """Return the visible pixels of all targets in each frame."""
        return scene.areas_OF[[int(target.uid) for target in sample.targets]].sum(0)

    def _queries(self, scene: Scene) -> list[Query]:
        return [in_order(scene, query) for query in queries(scene)]

    def _thought(self, scene: Scene, query: Query) -> str:
        """Return the query's thought, sometimes with more that is true of the same objects."""
        others: list[str] = []
        if query.objects:
            for other in self._queries(scene):
                if other.objects == query.objects and other.thought != query.thought:
                    others.append(other.thought)
            others = list(dict.fromkeys(others))

        more = min(int(self.rng.choice(MORE, p=MORE_SHARES)), len(others))
        picked = self.rng.permutation(len(others))[:more]
        return "; ".join([query.thought, *(others[i] for i in picked)])

    def _about_objects(self, scene: Scene) -> Dialogues:
        """Return several sentences about one target frame; it shows an object of each."""
        first = self.query(scene)
        chooser = self.by_visible if self.rng.random() < 0.3 else self.by_largest
        shown = chooser.shown(self.sample(scene, first), self.rng)
        assert shown.hints is not None, "lessons show the target frame"
        frame = shown.hints.target_frame

        others = []
        for query in self._queries(scene):
            visible = not query.objects or scene.areas_OF[list(query.objects), frame].any()
            if query != first and visible:
                others.append(query)
        chosen = [first]
        while others and len(chosen) < MOST:
            query = pick_query(self.rng, others, MIX)
            chosen.append(query)
            others.remove(query)

        dialogues: Dialogues = []
        for query in chosen:
            sample = self.sample(scene, query)
            form = self.forms[self.rng.choice(len(FORMS), p=FORM_SHARES)]
            dialogues += form.demonstrate(replace(sample, hints=shown.hints), self.rng)
        return dialogues

    def _about_time(self, scene: Scene, part: bool) -> Dialogues:
        """Return, for several sentences, their span in the video and their best frame.

        Args:
            part: True asks about a part of the video instead of the whole.
        """
        asked = [query for query in queries(scene) if query.objects]
        self.rng.shuffle(asked)  # type: ignore[arg-type]
        start = 0
        stop = NUM_FRAMES
        if part:
            start, stop = self._part(scene, asked[0])

        dialogues: Dialogues = []
        for query in asked[:MOST]:
            size_F = scene.areas_OF[list(query.objects)].sum(0)
            visible = start + np.flatnonzero(size_F[start:stop])
            if not len(visible):
                continue
            span = interval_answer(int(visible[0]), int(visible[-1]) + 1)
            dialogues.append((interval_question(query.text, start, stop, self.plan), span))

            largest = visible[np.argsort(-size_F[visible], kind="stable")][:LARGEST]
            best = int(self.rng.choice(largest))
            position = position_answer(start, stop, best)
            dialogues.append((position_question(query.text, start, stop, self.plan), position))
        return dialogues

    def _part(self, scene: Scene, query: Query) -> tuple[int, int]:
        """Return roughly the span of the query's objects, with the errors of an answer."""
        visible = np.flatnonzero(scene.areas_OF[list(query.objects)].sum(0))
        low, high = self.rng.normal((visible[0], visible[-1] + 1), 2.0)
        start = min(max(round(low), 0), NUM_FRAMES - 4)
        stop = min(max(round(high), start + 4), NUM_FRAMES)
        return start, stop


def in_order(scene: Scene, query: Query) -> Query:
    """Return the query with its objects in the order of their colours.

    Thought and answer list them in this order: one right answer is learned faster than several.
    """
    if len(query.objects) < 2:
        return query

    rank = list(COLOURS)
    objects = tuple(sorted(query.objects, key=lambda i: rank.index(scene.things[i].colour)))
    before = " and ".join(f"the {scene.things[i].name}" for i in query.objects)
    after = " and ".join(f"the {scene.things[i].name}" for i in objects)
    assert before in query.thought, query
    return replace(query, objects=objects, thought=query.thought.replace(before, after))


def shrunk(scene: Scene, view: View) -> np.ndarray:
    """Return the pixels of a view of the scene, as `data.frames.reading.show_views` makes them."""
    frame_HWC = scene.frames_FHWC[view.frame]
    if frame_HWC.shape[:2] == (view.height, view.width):
        return frame_HWC

    size = (view.width, view.height)
    return np.asarray(cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA))

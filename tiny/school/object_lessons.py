"""What `tiny.teach` teaches: questions about one synthetic scene that share their frames, with right answers.

A lesson is either about one target frame (which objects does each of several sentences mean in it?) or about time
(in which part of the video is each of them, and where in it best?). Every form of question of the system comes up:
with and without reasoning, with box, points or all. Thoughts are of several lengths, so that how long it pays to think
is left to reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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

Lesson = list[
    tuple[list[str | View], str]
]  # what is asked and what to answer; all show the same frames
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
MOST = 4  # questions of a lesson about one frame
KINDS = ("objects", "video", "part")
SHARES = (0.6, 0.2, 0.2)
FORMS = (
    {},
    {"think": False},
    *({"answer": a} for a in ("box", "point", "box_point", "box_negative")),
)
FORM_SHARES = (0.65, 0.11, 0.06, 0.06, 0.06, 0.06)
# true statements beyond the one that answers
MORE = (0, 1, 2)
MORE_SHARES = (0.4, 0.35, 0.25)
VIDEO = Video("scene", "", tuple(str(i) for i in range(NUM_FRAMES)), SIDE, SIDE)


class Lessons:
    """Endless lessons for one system."""

    def __init__(self, system: VideoSegR1, rng: np.random.Generator) -> None:
        self.rng = rng
        self.plan = system.options.plan
        self.forms = [VideoSegR1(replace(system.options, **form)) for form in FORMS]  # type: ignore[arg-type]
        self.frames = [
            VideoSegR1(replace(system.options, training_frame=f)) for f in ("largest", "visible")
        ]

    def take(self) -> tuple[Lesson, list[np.ndarray]]:
        """A lesson and the images that each of its questions shows, in order."""
        while True:
            made = random_scene(self.rng)
            kind = KINDS[self.rng.choice(len(KINDS), p=SHARES)]
            lesson = (
                self._objects(made) if kind == "objects" else self._time(made, part=kind == "part")
            )
            if lesson:
                return lesson, [
                    shrunk(made, piece) for piece in lesson[0][0] if isinstance(piece, View)
                ]

    def query(self, made: Scene) -> Query:
        return pick_query(self.rng, self._queries(made), MIX)

    def sample(self, made: Scene, query: Query) -> Sample:
        """The question as a data set would give it, with a thought of random length."""
        targets = []
        for i in query.objects:
            rles_F = encode_frames(made.owner_FHW == i)
            seen_F = made.areas_OF[i] > 0
            targets.append(
                Target(
                    str(i), [r if seen else None for r, seen in zip(rles_F, seen_F, strict=True)]
                )
            )
        notes = Notes(thought=self._thought(made, query), description=description(made, query))
        return Sample("scene/0", VIDEO, query.text, tuple(targets), query.kind, notes)

    def areas(self, made: Scene, sample: Sample) -> np.ndarray:
        """Visible pixels of all targets in each frame."""
        return made.areas_OF[[int(target.uid) for target in sample.targets]].sum(0)

    def _queries(self, made: Scene) -> list[Query]:
        return [in_order(made, query) for query in queries(made)]

    def _thought(self, made: Scene, query: Query) -> str:
        others = [
            q.thought
            for q in self._queries(made)
            if q.objects == query.objects and q.thought != query.thought
        ]
        others = list(dict.fromkeys(others)) if query.objects else []
        more = min(int(self.rng.choice(MORE, p=MORE_SHARES)), len(others))
        picked = self.rng.permutation(len(others))[:more]
        return "; ".join([query.thought, *(others[i] for i in picked)])

    def _objects(self, made: Scene) -> Lesson:
        """Several sentences about one target frame; at least one of the objects of each is in it."""
        first = self.query(made)
        shows = self.frames[int(self.rng.random() < 0.3)].shown(self.sample(made, first), self.rng)
        assert shows.hints is not None, "lessons show the target frame"
        frame = shows.hints.target_frame
        here = lambda query: not query.objects or made.areas_OF[list(query.objects), frame].any()
        others = [q for q in self._queries(made) if q != first and here(q)]
        chosen = [first]
        while others and len(chosen) < MOST:
            chosen.append(pick_query(self.rng, others, MIX))
            others.remove(chosen[-1])
        lesson: Lesson = []
        for query in chosen:
            sample = self.sample(made, query)
            form = self.forms[self.rng.choice(len(FORMS), p=FORM_SHARES)]
            lesson += form.demonstrate(replace(sample, hints=shows.hints), self.rng)
        return lesson

    def _time(self, made: Scene, part: bool) -> Lesson:
        """Where several sentences are in the whole video, or in a part of it, and which frame shows them best."""
        asked = [q for q in queries(made) if q.objects]
        self.rng.shuffle(asked)  # type: ignore[arg-type]
        start, stop = self._part(made, asked[0]) if part else (0, NUM_FRAMES)
        lesson: Lesson = []
        for query in asked[:MOST]:
            size_F = made.areas_OF[list(query.objects)].sum(0)
            there = start + np.flatnonzero(size_F[start:stop])
            if not len(there):
                continue
            span = interval_answer(int(there[0]), int(there[-1]) + 1)
            best = self.rng.choice(there[np.argsort(-size_F[there], kind="stable")][:LARGEST])
            lesson.append((interval_question(query.text, start, stop, self.plan), span))
            position = position_answer(start, stop, int(best))
            lesson.append((position_question(query.text, start, stop, self.plan), position))
        return lesson

    def _part(self, made: Scene, query: Query) -> tuple[int, int]:
        """About where the query's objects are seen: what an answer about the whole video might have been."""
        there = np.flatnonzero(made.areas_OF[list(query.objects)].sum(0))
        low, high = (round(x) for x in self.rng.normal((there[0], there[-1] + 1), 2.0))
        low = min(max(low, 0), NUM_FRAMES - 4)
        return low, min(max(high, low + 4), NUM_FRAMES)


def in_order(made: Scene, query: Query) -> Query:
    """The same sentence with its objects in the order of their colours, in which thought and answer list them: one
    right answer can be learned faster than any order of it."""
    if len(query.objects) < 2:
        return query
    rank = list(COLOURS)
    objects = tuple(sorted(query.objects, key=lambda i: rank.index(made.things[i].colour)))
    before, after = (
        " and ".join(f"the {made.things[i].name}" for i in order)
        for order in (query.objects, objects)
    )
    assert before in query.thought, query
    return replace(query, objects=objects, thought=query.thought.replace(before, after))


def shrunk(made: Scene, view: View) -> np.ndarray:
    """The pixels of a view of the scene, as `data.frames.reading.show_views` makes them."""
    frame_HWC = made.frames_FHWC[view.frame]
    if frame_HWC.shape[:2] == (view.height, view.width):
        return frame_HWC
    return np.asarray(
        cv2.resize(frame_HWC, (view.width, view.height), interpolation=cv2.INTER_AREA)
    )

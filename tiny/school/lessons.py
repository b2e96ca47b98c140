"""Lessons in choosing a keyframe and drawing a box on it.

A lesson is one scene: its shown frames (a prefix with the same tokens in every lesson), QUERIES
two-turn dialogues that continue the prefix, and a grounding dialogue about each keyframe.

A dialogue's keyframe is drawn UNIFORMLY from the shown frames with the target, and its label is
that uniform distribution. So the foundation learns when the target is visible, and reinforcement
learning finds out which of those frames is best. Needs numpy and a tokenizer: worker processes
(`tiny.school.workers`) fill lessons.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from core.types import View
from models.dialogue import Dialogue
from models.families import FAMILIES
from tiny.school.script import (
    COLOUR_INDEX,
    COORDINATE,
    DIALOGUE,
    FORMAT,
    NAME,
    SAMPLED,
    SHOWN,
    THOUGHT,
    Arrays,
    Script,
    colour_bits,
    lesson_layout,
)
from tiny.school.sizes import QWEN2_5, Sizes
from tiny.world.queries import Query, description, pick_query, queries
from tiny.world.scene import COLOURS, MOTIONS, SHAPES, SIDE, TRENDS, Scene, random_scene

# Dialogues of a lesson, and turns of a grounding dialogue.
QUERIES = 5
GROUNDED = 3
MIX = {
    "look": 0.42,
    "motion": 0.13,
    "order": 0.15,
    "size": 0.10,
    "relation": 0.05,
    "hiding": 0.03,
    "several": 0.12,
}


class Teacher:
    """Writes dialogues as token ids, in exactly the layout of `models.dialogue`.

    Attributes:
        sampled: Numbers of the shown frames in the video.
        shown: Index among them of each image of the prefix.
        prefix: The first turn up to the question, the same in every dialogue.
        numbers: The token of each number, from 0 to the side of a keyframe.
        labels: The number of each shown frame in the dialogue.
    """

    sampled = SAMPLED
    shown = tuple(range(SHOWN))

    def __init__(self, tokenizer: Any, sizes: Sizes = QWEN2_5) -> None:
        self.sizes = sizes
        self.layout = lesson_layout(sizes, DIALOGUE, 1, dialogues=QUERIES, keyframes=QUERIES)
        self.dialogue = Dialogue(tokenizer, FAMILIES[sizes.model_type]())
        self.known: dict[str, list[int]] = {}

        self.numbers = [self.token(str(i)) for i in range(sizes.key + 1)]
        self.colours = [self.text(f" {name}")[-1] for name in COLOURS]
        self.start = self.dialogue.id_of("<|im_start|>")
        self.end = self.dialogue.end_id
        self.image_id = self.dialogue.image_id
        self.image_opens = self.dialogue.id_of("<|vision_start|>")
        self.image_closes = self.dialogue.id_of("<|vision_end|>")
        self.opening = [self.start, *self.text("user\n")]
        self.reopening = [*self.text("\n"), *self.opening]
        self.turn = [self.end, *self.text("\n"), self.start, *self.text("assistant\n")]

        self.labels = self.frame_labels()
        self.prefix = self._prefix()

    def frame_labels(self) -> list[int]:
        """Return the number of each shown frame in the dialogue."""
        return list(range(SHOWN))

    def token(self, text: str) -> int:
        """Return the id of a text of one token."""
        ids = self.text(text)
        assert len(ids) == 1, f"{text} is not one token"
        return ids[0]

    def text(self, text: str) -> list[int]:
        """Return the ids of a text, tokenised once."""
        if text not in self.known:
            self.known[text] = self.dialogue.text(text)
        return self.known[text]

    def _prefix(self) -> Script:
        script = Script()
        view = View(0, self.sizes.small, self.sizes.small)
        content: list[str | View] = []
        script.say(self.opening)
        for i in self.shown:
            script.say([self.numbers[self.labels[i]]])
            self.show(script, self.sizes.small)
            content += [str(self.labels[i]), view]

        whole = self.dialogue.user(content, first=True, expanded=True)
        assert whole == script.ids + self.turn, "layout differs from models.dialogue"
        return script

    def show(self, script: Script, side: int) -> None:
        """Append an image of this side."""
        script.say([self.image_opens])
        script.show(self.image_id, side // self.sizes.cell)
        script.say([self.image_closes])

    def ask(self, text: str) -> Script:
        """Return the dialogue after the prefix, up to the first answer."""
        script = Script(at=self.prefix.at)
        script.say([*self.text(f" Find {text}."), *self.turn])
        return script

    def point(self, script: Script, name: str) -> None:
        """Append the second question, after the first answer."""
        script.say(self.reopening)
        self.show(script, self.sizes.key)
        script.say([*self.text(f"Locate the {name}."), *self.turn])

    def _first_answer(self, script: Script, thought: str, frame: int, name: str) -> int:
        """Append the first answer; return the place of its frame number."""
        script.say(self.text("<think>"), FORMAT)
        script.say(self.text(thought), THOUGHT)
        script.say([*self.text("</think><answer>"), *self.text('[{"frame_idx": ')], FORMAT)
        # The frame number has no weight here: its loss is that of `frame_share`.
        place = len(script.ids)
        script.say([self.numbers[frame]], means=colour_bits(name))
        script.say(self.text(', "object description": "'), FORMAT)
        script.say(self.text(name), NAME)
        script.say([*self.text('"}]</answer>'), self.end], FORMAT)
        return place

    def _box_answer(self, script: Script, box: np.ndarray, name: str) -> None:
        script.say(self.text('<answer>[{"bbox_2d":['), FORMAT)
        pixels = np.round(box * self.sizes.key / SIDE).astype(int)
        for i, value in enumerate(pixels.tolist()):
            if i > 0:
                script.say(self.text(","), FORMAT)
            script.say([self.numbers[value]], COORDINATE, value, colour_bits(name))
        script.say(self.text('],"label":"'), FORMAT)
        script.say(self.text(name), FORMAT)
        script.say([*self.text('"}]</answer>'), self.end], FORMAT)

    def write(
        self,
        lesson: Arrays,
        row: int,
        i: int,
        rng: np.random.Generator,
        scene: Scene,
        query: Query,
    ) -> None:
        """Write dialogue `i` of lesson `row`; a dialogue with too many tokens stays empty."""
        box_F4 = union_boxes(scene, query.objects)[self.sampled]
        visible = np.flatnonzero(box_F4[:, 2] > 0)
        frame = int(rng.choice(visible))
        script, place = self.two_turns(query, description(scene, query), frame, box_F4[frame])
        if len(script.ids) <= DIALOGUE:
            script.fill(lesson, row, i)
            lesson["key_frame"][row, i] = frame
            lesson["frame_at"][row, i, 0] = place
            lesson["frame_share"][row, i, 0, visible] = 1 / len(visible)

    def two_turns(
        self,
        query: Query,
        name: str,
        frame: int,
        box: np.ndarray,
    ) -> tuple[Script, int]:
        """Return the whole dialogue and the place of its frame number."""
        script = self.ask(query.text)
        place = self._first_answer(script, query.thought, frame, name)
        self.point(script, name)
        self._box_answer(script, box, name)
        return script, place

    def grounding(self, names_boxes: list[tuple[str, np.ndarray]]) -> Script:
        """Return a dialogue about one keyframe, with a question for the box of each name."""
        script = Script()
        for i, (name, box) in enumerate(names_boxes):
            if i == 0:
                script.say(self.opening)
                self.show(script, self.sizes.key)
            else:
                script.say(self.reopening)
            script.say([*self.text(f"Locate the {name}."), *self.turn])
            self._box_answer(script, box, name)
        return script


def fill_lesson(lesson: Arrays, row: int, rng: np.random.Generator, teacher: Teacher) -> None:
    """Write one random lesson into row `row` of arrays in the teacher's layout."""
    scene = random_scene(rng)
    sampled = teacher.sampled
    shown_FHWC = scene.frames_FHWC[sampled]
    num_keyframes = len(lesson["key_frame"][row])

    lesson["small"][row] = resize(shown_FHWC, teacher.sizes.small)
    _fill_truth(lesson, row, scene, sampled)
    for name in teacher.layout.keys() - {"small", "keys", "key_frame", "box", "visible", "traits"}:
        lesson[name][row] = -1 if "value" in name else 0
    # A dialogue that stays empty keeps this random keyframe; its grounding dialogue uses it.
    lesson["key_frame"][row] = rng.integers(0, SHOWN, num_keyframes)

    num_dialogues = len(lesson["ids"][row])
    for i, query in enumerate(different_queries(rng, scene, num_dialogues)):
        teacher.write(lesson, row, i, rng, scene, query)

    keyframes = lesson["key_frame"][row]
    lesson["keys"][row] = resize(shown_FHWC[keyframes], teacher.sizes.key)
    for i, keyframe in enumerate(keyframes):
        frame = sampled[keyframe]
        visible = np.flatnonzero(scene.areas_OF[:, frame] > 0)
        chosen = rng.permutation(visible)[:GROUNDED]
        names_boxes = [(scene.things[k].name, scene.boxes_OF4[k, frame]) for k in chosen]
        if names_boxes:
            teacher.grounding(names_boxes).fill(lesson, row, i, "ground_")


def _fill_truth(lesson: Arrays, row: int, scene: Scene, sampled: np.ndarray) -> None:
    lesson["box"][row] = 0
    lesson["visible"][row] = False
    lesson["traits"][row] = -1
    for i, thing in enumerate(scene.things):
        colour = COLOUR_INDEX[thing.colour]
        lesson["box"][row, :, colour] = scene.boxes_OF4[i, sampled] / SIDE
        lesson["visible"][row, :, colour] = scene.areas_OF[i, sampled] > 0
        shape = SHAPES.index(thing.shape)
        motion = MOTIONS.index(thing.motion)
        trend = TRENDS.index(thing.trend)
        lesson["traits"][row, colour] = (shape, motion, trend)


def union_boxes(scene: Scene, objects: tuple[int, ...]) -> np.ndarray:
    """Return the box around all of `objects` in each frame (F, 4), 0 if none is visible."""
    boxes_OF4 = scene.boxes_OF4[list(objects)]
    visible_OF = scene.areas_OF[list(objects)] > 0
    low_F2 = np.where(visible_OF[..., None], boxes_OF4[..., :2], SIDE).min(0)
    high_F2 = boxes_OF4[..., 2:].max(0)
    any_F1 = visible_OF.any(0, keepdims=True).T
    return np.where(any_F1, np.concatenate([low_F2, high_F2], -1), 0)


def resize(frames_FHWC: np.ndarray, side: int) -> np.ndarray:
    """Return the frames at another size, resampled as in `data.frames.reading`."""
    now = frames_FHWC.shape[1]
    if side == now:
        return frames_FHWC

    flag = cv2.INTER_AREA if side < now else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (side, side), interpolation=flag) for frame in frames_FHWC])


def different_queries(rng: np.random.Generator, scene: Scene, count: int) -> list[Query]:
    """Draw up to `count` different queries with a target."""
    options = [query for query in queries(scene) if query.objects]
    chosen: list[Query] = []
    while options and len(chosen) < count:
        query = pick_query(rng, options, MIX)
        chosen.append(query)
        options.remove(query)
    return chosen

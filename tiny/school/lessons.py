"""Lessons for the tiny foundation: scenes with dialogues about them, as arrays of fixed sizes.

A lesson is one scene: its sampled frames (a prefix that all its dialogues share, the same tokens in every lesson),
`QUERIES` two-turn dialogues that continue the prefix, and as many grounding dialogues about one keyframe each.
A dialogue's keyframe is drawn UNIFORMLY from the sampled frames that show the target, and its label is that uniform
distribution: the foundation learns when the target can be seen, and not which of those frames is best, which is what
reinforcement learning is for. Numpy and the tokenizer only: `tiny.school.workers` forks workers that fill lessons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from core.types import View
from models.dialogue import Dialogue
from models.families import FAMILIES
from tiny.school.sizes import QWEN2_5, Family
from tiny.world.queries import Query, description, pick_query, queries
from tiny.world.scene import COLOURS, MOTIONS, NUM_FRAMES, SHAPES, SIDE, TRENDS, Scene, random_scene

SHOWN = 16  # frames shown in the first turn
SAMPLED = np.round(np.linspace(0, NUM_FRAMES - 1, SHOWN)).astype(np.int64)
QUERIES = 5  # dialogues of a lesson
GROUNDED = 3  # turns of a grounding dialogue
# tokens; prefix + dialogue is then a multiple of 16, which attention kernels like
DIALOGUE = 109
GROUND = 104
MIX = {
    "look": 0.42,
    "motion": 0.13,
    "order": 0.15,
    "size": 0.10,
    "relation": 0.05,
    "hiding": 0.03,
    "several": 0.12,
}
# Weights of a completion's tokens in the loss. Punctuation is learned within seconds, names decide.
FORMAT = 0.3
NAME = 1.0
THOUGHT = 4.0
COORDINATE = 1.0

_COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}
Layout = dict[str, tuple[tuple[int, ...], type]]


def layout(
    family: Family, tokens: int, places: int, dialogues: int = QUERIES, keys: int = QUERIES
) -> Layout:
    """Arrays of a lesson: its dialogues have at most `tokens` tokens and `places` frame numbers to be chosen, and the
    first `keys` of them show a keyframe, about which there is a grounding dialogue, too."""
    return {
        "small": ((SHOWN, family.small, family.small, 3), np.uint8),
        "keys": ((keys, family.key, family.key, 3), np.uint8),
        "key_frame": ((keys,), np.int64),  # index into the shown frames
        "box": (
            (SHOWN, len(COLOURS), 4),
            np.float32,
        ),  # of the thing of a colour, as a share of the side
        "visible": ((SHOWN, len(COLOURS)), np.bool_),
        "traits": (
            (len(COLOURS), 3),
            np.int64,
        ),  # shape, motion, trend; -1: no such colour in the scene
        "ids": ((dialogues, tokens), np.int64),
        "positions": ((dialogues, tokens, 3), np.int64),
        "weight": ((dialogues, tokens), np.float32),  # of predicting the token at this place
        "value": ((dialogues, tokens), np.int64),  # of a coordinate token; -1 elsewhere
        "means": (
            (dialogues, tokens),
            np.int64,
        ),  # bits of the colours a frame number or coordinate is about; else 0
        "frame_at": ((dialogues, places), np.int64),  # of each frame number token; 0: unused
        "frame_share": ((dialogues, places, SHOWN), np.float32),
        "ground_ids": ((keys, GROUND), np.int64),
        "ground_positions": ((keys, GROUND, 3), np.int64),
        "ground_weight": ((keys, GROUND), np.float32),
        "ground_value": ((keys, GROUND), np.int64),
        "ground_means": ((keys, GROUND), np.int64),
    }


@dataclass
class Script:
    """A dialogue under construction: ids with M-RoPE positions, loss weights and coordinate values."""

    ids: list[int]
    positions: list[tuple[int, int, int]]
    weights: list[float]
    values: list[int]
    means: list[int]
    at: int  # next position

    def say(self, ids: list[int], weight: float = 0.0, value: int = -1, means: int = 0) -> None:
        for token in ids:
            self.ids.append(token)
            self.positions.append((self.at, self.at, self.at))
            self.weights.append(weight)
            self.values.append(value)
            self.means.append(means)
            self.at += 1

    def show(self, image_id: int, grid: int) -> None:
        """An image of grid x grid tokens; the text after it continues at its largest position plus one."""
        self.ids += [image_id] * (grid * grid)
        self.positions += [
            (self.at, self.at + r, self.at + c) for r in range(grid) for c in range(grid)
        ]
        self.weights += [0.0] * (grid * grid)
        self.values += [-1] * (grid * grid)
        self.means += [0] * (grid * grid)
        self.at += grid


class Teacher:
    """Writes dialogues in ids, in exactly the layout of `models.dialogue`, with what it needs tokenised once."""

    sampled = SAMPLED  # frames of the video that are shown
    shown = tuple(range(SHOWN))  # which of these each image of the prefix is

    def __init__(self, tokenizer: Any, family: Family = QWEN2_5) -> None:
        self.family = family
        self.layout = layout(family, DIALOGUE, places=1)
        self.dialogue = Dialogue(tokenizer, FAMILIES[family.name]())
        self.known: dict[str, list[int]] = {}
        d = self.dialogue
        self.numbers = [self._number(i) for i in range(family.key + 1)]
        self.colours = [self.text(f" {name}")[-1] for name in COLOURS]
        self.start = d.id_of("<|im_start|>")
        self.end = d.end_id
        self.image_id = d.image_id
        self.look = d.id_of("<|vision_start|>")
        self.looked = d.id_of("<|vision_end|>")
        self.opening = [self.start, *self.text("user\n")]
        self.reopening = [*self.text("\n"), *self.opening]
        self.turn = [self.end, *self.text("\n"), self.start, *self.text("assistant\n")]
        self.labels = self.frame_labels()
        self.prefix = self._prefix()

    def frame_labels(self) -> list[int]:
        """The number by which each shown frame is called."""
        return list(range(SHOWN))

    def _number(self, value: int | str) -> int:
        ids = self.text(str(value))
        assert len(ids) == 1, f"{value} is not one token"
        return ids[0]

    def text(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.dialogue.text(text)
        return self.known[text]

    def _script(self, at: int = 0) -> Script:
        return Script([], [], [], [], [], at)

    def _prefix(self) -> Script:
        made = self._script()
        made.say(self.opening)
        for i in self.shown:
            made.say([self.numbers[self.labels[i]], self.look])
            made.show(self.image_id, self.family.small // self.family.cell)
            made.say([self.looked])
        view = View(0, self.family.small, self.family.small)
        content = [piece for i in self.shown for piece in (str(self.labels[i]), view)]
        whole = self.dialogue.user(content, first=True, expanded=True)
        assert whole == made.ids + self.turn, "layout differs from models.dialogue"
        return made

    def ask(self, text: str) -> Script:
        """The dialogue after the prefix, up to the first answer."""
        made = self._script(self.prefix.at)
        made.say([*self.text(f" Find {text}."), *self.turn])
        return made

    def point(self, made: Script, name: str) -> None:
        """The second question, after the first answer."""
        made.say(self.reopening)
        self._keyframe(made)
        made.say([*self.text(f"Locate the {name}."), *self.turn])

    def _keyframe(self, made: Script) -> None:
        made.say([self.look])
        made.show(self.image_id, self.family.key // self.family.cell)
        made.say([self.looked])

    def _first_answer(self, made: Script, thought: str, frame: int, name: str) -> int:
        made.say(self.text("<think>"), FORMAT)
        made.say(self.text(thought), THOUGHT)
        made.say([*self.text("</think><answer>"), *self.text('[{"frame_idx": ')], FORMAT)
        place = len(made.ids)
        made.say([self.numbers[frame]], means=colour_bits(name))  # its loss is the soft label's
        made.say(self.text(', "object description": "'), FORMAT)
        made.say(self.text(name), NAME)
        made.say([*self.text('"}]</answer>'), self.end], FORMAT)
        return place

    def _box_answer(self, made: Script, box: np.ndarray, name: str) -> None:
        made.say(self.text('<answer>[{"bbox_2d":['), FORMAT)
        for i, value in enumerate(np.round(box * self.family.key / SIDE).astype(int).tolist()):
            if i:
                made.say(self.text(","), FORMAT)
            made.say([self.numbers[value]], COORDINATE, value, colour_bits(name))
        made.say(self.text('],"label":"'), FORMAT)
        made.say(self.text(name), FORMAT)
        made.say([*self.text('"}]</answer>'), self.end], FORMAT)

    def write(
        self,
        out: dict[str, np.ndarray],
        row: int,
        i: int,
        rng: np.random.Generator,
        made: Scene,
        query: Query,
    ) -> None:
        """Dialogue `i` of lesson `row`; left empty if it is too long."""
        box_F4 = union_boxes(made, query.objects)[self.sampled]
        visible = np.flatnonzero(box_F4[:, 2] > 0)
        frame = int(rng.choice(visible))
        script, place = self.two_turns(query, description(made, query), frame, box_F4[frame])
        if len(script.ids) <= DIALOGUE:
            fill_script(out, row, i, "", script)
            out["key_frame"][row, i] = frame
            out["frame_at"][row, i, 0] = place
            out["frame_share"][row, i, 0, visible] = 1 / len(visible)

    def two_turns(self, query: Query, name: str, frame: int, box: np.ndarray) -> tuple[Script, int]:
        made = self.ask(query.text)
        place = self._first_answer(made, query.thought, frame, name)
        self.point(made, name)
        self._box_answer(made, box, name)
        return made, place

    def grounding(self, names_boxes: list[tuple[str, np.ndarray]]) -> Script:
        made = self._script()
        for i, (name, box) in enumerate(names_boxes):
            if i == 0:
                made.say(self.opening)
                self._keyframe(made)
            else:
                made.say(self.reopening)
            made.say([*self.text(f"Locate the {name}."), *self.turn])
            self._box_answer(made, box, name)
        return made


def colour_bits(name: str) -> int:
    """The colours that a description names, as bits: "red circle and blue circle" has two."""
    return sum(1 << _COLOUR_INDEX[word] for word in set(name.split()) & set(_COLOUR_INDEX))


def union_boxes(made: Scene, objects: tuple[int, ...]) -> np.ndarray:
    """Box around all of `objects` in each frame (F, 4), 0 where none is visible."""
    boxes_OF4 = made.boxes_OF4[list(objects)]
    seen_OF = made.areas_OF[list(objects)] > 0
    low_F2 = np.where(seen_OF[..., None], boxes_OF4[..., :2], SIDE).min(0)
    high_F2 = boxes_OF4[..., 2:].max(0)
    some_F1 = seen_OF.any(0, keepdims=True).T
    return np.where(some_F1, np.concatenate([low_F2, high_F2], -1), 0)


def resize(frames_FHWC: np.ndarray, side: int) -> np.ndarray:
    """As `data.frames.reading` does it."""
    if side == frames_FHWC.shape[1]:
        return frames_FHWC
    flag = cv2.INTER_AREA if side < frames_FHWC.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (side, side), interpolation=flag) for frame in frames_FHWC])


def different_queries(rng: np.random.Generator, made: Scene, count: int) -> list[Query]:
    """Up to `count` different queries with a target."""
    options = [q for q in queries(made) if q.objects]
    chosen = list[Query]()
    while options and len(chosen) < count:
        chosen.append(pick_query(rng, options, MIX))
        options.remove(chosen[-1])
    return chosen


def fill(out: dict[str, np.ndarray], row: int, rng: np.random.Generator, teacher: Teacher) -> None:
    """Writes one lesson into row `row` of arrays shaped by the teacher's layout (with a leading lesson axis)."""
    made = random_scene(rng)
    sampled = teacher.sampled
    shown_FHWC = made.frames_FHWC[sampled]
    out["small"][row] = resize(shown_FHWC, teacher.family.small)
    _fill_truth(out, row, made, sampled)
    for name in teacher.layout.keys() - {"small", "keys", "key_frame", "box", "visible", "traits"}:
        out[name][row] = -1 if "value" in name else 0
    out["key_frame"][row] = rng.integers(
        0, SHOWN, len(out["key_frame"][row])
    )  # of dialogues that stay empty
    for i, query in enumerate(different_queries(rng, made, len(out["ids"][row]))):
        teacher.write(out, row, i, rng, made, query)
    out["keys"][row] = resize(shown_FHWC[out["key_frame"][row]], teacher.family.key)
    for i, frame in enumerate(out["key_frame"][row]):
        seen = rng.permutation(np.flatnonzero(made.areas_OF[:, sampled[frame]] > 0))[:GROUNDED]
        names_boxes = [(made.things[k].name, made.boxes_OF4[k, sampled[frame]]) for k in seen]
        if names_boxes:
            fill_script(out, row, i, "ground_", teacher.grounding(names_boxes))


def fill_script(out: dict[str, np.ndarray], row: int, i: int, prefix: str, script: Script) -> None:
    n = len(script.ids)
    out[prefix + "ids"][row, i, :n] = script.ids
    out[prefix + "positions"][row, i, :n] = script.positions
    out[prefix + "weight"][row, i, :n] = script.weights
    out[prefix + "value"][row, i, :n] = script.values
    out[prefix + "means"][row, i, :n] = script.means


def _fill_truth(out: dict[str, np.ndarray], row: int, made: Scene, sampled: np.ndarray) -> None:
    out["box"][row] = 0
    out["visible"][row] = False
    out["traits"][row] = -1
    for i, thing in enumerate(made.things):
        colour = _COLOUR_INDEX[thing.colour]
        out["box"][row, :, colour] = made.boxes_OF4[i, sampled] / SIDE
        out["visible"][row, :, colour] = made.areas_OF[i, sampled] > 0
        out["traits"][row, colour] = (
            SHAPES.index(thing.shape),
            MOTIONS.index(thing.motion),
            TRENDS.index(thing.trend),
        )

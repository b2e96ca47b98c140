"""Lessons in searching a video: dialogues that name a part and a keyframe, look again, draw a mask.

The text is that of `systems.videoseg_o3.traces`. Frames go by their numbers in the video. The
first turn shows SHOWN of them, and some once more at the end: the system shows those larger. Parts
begin and end with a shown frame with the target. As in `tiny.school.lessons` the first keyframe is
uniform over the shown frames with the target; the second turn keeps it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from systems.videoseg_o3.traces import SEG, Action, Look, thought_steps, write_turn
from tiny.school.lessons import Teacher, union_boxes
from tiny.school.script import (
    FORMAT,
    NAME,
    SHOWN,
    THOUGHT,
    Arrays,
    Script,
    colour_bits,
    lesson_layout,
)
from tiny.school.sizes import QWEN3, Sizes
from tiny.world.queries import Query, description
from tiny.world.scene import NUM_FRAMES, SIDE, Scene

# Chosen frame numbers of a dialogue: start, end and keyframe of each turn.
TURNS = 2
PLACES = 6
# Dialogues of a lesson. Only the first KEYS have a second turn; the others stop after the first,
# which is the hard one, and cheap.
KEYS = 2
DIALOGUES = 8
# Tokens of a dialogue after the prefix, and of one that stops after the first turn.
LENGTH = 160
SHORT = 64
# The second turn shows the first and the last frame of the part.
PART = 2
# Share of the short dialogues that answer at once, and of the second turns that may not select.
AT_ONCE = 0.25
LAST = 0.5
# Weight of a copied number.
NUMBER = 1.0


class AnswerPlaces(NamedTuple):
    """Places in a script: start and end in the thought, the keyframe, and [SEG]."""

    start: int
    end: int
    keyframe: int
    seg: int


class SearchTeacher(Teacher):
    """Writes searches.

    Adds to the arrays of a lesson:

        part         shown frames of the second turn
        seg_at       places of [SEG]
        seg_means    colours of the target, as bits
        seg_box      its box in the keyframe, as a share of the side
    """

    sampled = np.array([i * (NUM_FRAMES - 1) // (SHOWN - 1) for i in range(SHOWN)])
    _again = np.searchsorted(sampled, [0, 7, 15, 23])
    shown = (*range(SHOWN), *_again.tolist())

    def __init__(self, tokenizer: Any, sizes: Sizes = QWEN3) -> None:
        super().__init__(tokenizer, sizes)
        self.layout = lesson_layout(sizes, LENGTH, PLACES, DIALOGUES, KEYS) | {
            "part": ((KEYS, PART), np.int64),
            "seg_at": ((DIALOGUES, TURNS), np.int64),
            "seg_means": ((DIALOGUES,), np.int64),
            "seg_box": ((DIALOGUES, 4), np.float32),
        }
        marks = (
            "Step 1:",
            ", seen from ",
            ". Step 2:",
            ". Step 3:",
            '{"start":',
            ',"end":',
            ',"keyframe":',
            SEG,
        )
        self.marks = {mark: self.token(mark) for mark in marks}

    def frame_labels(self) -> list[int]:
        return [int(frame) for frame in self.sampled]

    def write(
        self,
        lesson: Arrays,
        row: int,
        i: int,
        rng: np.random.Generator,
        scene: Scene,
        query: Query,
    ) -> None:
        box_F4 = union_boxes(scene, query.objects)[self.sampled]
        seen = np.flatnonzero(box_F4[:, 2] > 0)
        if not len(seen):
            # The target is visible only between the shown frames.
            return

        first = seen[0]
        last = seen[-1]
        key = int(rng.choice(seen))
        look = Look(self.labels[first], self.labels[last] + 1, self.labels[key])
        name = description(scene, query)

        # A second turn needs a part with more than the frames it shows.
        again = i < KEYS and look.stop - look.start > PART + 1
        at_once = not again and rng.random() < AT_ONCE
        script = self.ask(query.text)
        places = [self.answer(script, "answer" if at_once else "select", look, query, name)]
        if again:
            verb = "Answer" if rng.random() < LAST else "Find"
            self.show_part(script, look, verb, query)
            places.append(self.answer(script, "answer", look, query, name))
        limit = LENGTH if i < KEYS else SHORT
        if len(script.ids) > limit:
            return

        script.fill(lesson, row, i)
        for turn, place in enumerate(places):
            three = slice(3 * turn, 3 * turn + 3)
            lesson["frame_at"][row, i, three] = place.start, place.end, place.keyframe
            lesson["seg_at"][row, i, turn] = place.seg
        # Labels of start, end and keyframe: certain, except the keyframe of the first turn.
        shares = np.zeros((TURNS, 3, SHOWN), np.float32)
        shares[:, 0, first] = 1
        shares[:, 1, last] = 1
        shares[0, 2, seen] = 1 / len(seen)
        shares[1, 2, key] = 1
        lesson["frame_share"][row, i] = shares.reshape(PLACES, SHOWN)
        if i < KEYS:
            lesson["key_frame"][row, i] = key
            lesson["part"][row, i] = (first, last)
        lesson["seg_means"][row, i] = colour_bits(name)
        lesson["seg_box"][row, i] = box_F4[key] / SIDE

    def answer(
        self, script: Script, action: Action, look: Look, query: Query, name: str
    ) -> AnswerPlaces:
        """Append one answer."""
        text = write_turn(action, look, thought_steps(look, name, query.thought))
        ids = self.dialogue.completion(text)
        at = {mark: ids.index(token) for mark, token in self.marks.items()}
        start = at[", seen from "] + 1
        end = start + 2
        keyframe = at[',"keyframe":'] + 1
        chosen = (start, end, keyframe)

        weights = [FORMAT] * len(ids)
        for place in range(at["Step 1:"] + 1, start - 1):
            weights[place] = THOUGHT
        for place in range(at[". Step 2:"] + 1, at[". Step 3:"]):
            weights[place] = NAME
        weights[at['{"start":'] + 1] = NUMBER
        weights[at[',"end":'] + 1] = NUMBER
        # The loss of chosen numbers is that of `frame_share`.
        for place in chosen:
            weights[place] = 0.0

        offset = len(script.ids)
        colours = colour_bits(name)
        for place, (token, weight) in enumerate(zip(ids, weights, strict=True)):
            script.say([token], weight, means=colours if place in chosen else 0)
        return AnswerPlaces(offset + start, offset + end, offset + keyframe, offset + at[SEG])

    def show_part(self, script: Script, look: Look, verb: str, query: Query) -> None:
        """Append the second question, after a <select>."""
        script.say(self.reopening)
        for frame in (look.start, look.stop - 1):
            script.say([self.numbers[frame]])
            self.show(script, self.sizes.small)
        script.say([self.numbers[look.keyframe]])
        self.show(script, self.sizes.key)
        script.say([*self.text(f" {verb} {query.text}."), *self.turn])

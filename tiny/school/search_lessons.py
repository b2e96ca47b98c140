"""Lessons in searching a video: dialogues that name a part and a keyframe, look again, and draw a mask (`systems.videoseg_o3.traces`).

Frames go by their numbers in the video. The first turn shows SHOWN of them, and some once more at the end, as a system
does that shows a few of them larger. Parts begin and end with a shown frame that shows the target. As in the other
lessons the first keyframe is uniform over the shown frames that show it; the second turn keeps it. Grounding, scenes
and the facts about them are those of `tiny.school.lessons`. Numpy and the tokenizer only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from systems.videoseg_o3.traces import SEG, Action, Look, thought_steps, write_turn
from tiny.school.lessons import (
    FORMAT,
    NAME,
    SHOWN,
    THOUGHT,
    Script,
    Teacher,
    colour_bits,
    fill_script,
    layout,
    union_boxes,
)
from tiny.school.sizes import QWEN3, Family
from tiny.world.queries import Query, description
from tiny.world.scene import NUM_FRAMES, SIDE, Scene

# frame numbers of a dialogue that are chosen: start, end and keyframe of each turn
TURNS = 2
PLACES = 6
# of a lesson; the others stop after turn 1, which is what is hard, and cheap
KEYS = 2
DIALOGUES = 8
# tokens of a dialogue behind the prefix, and of one that stops after turn 1
LENGTH = 160
SHORT = 64
PART = 2  # frames of the part that the second turn shows: its first and last
# shares of short dialogues that answer, and of second turns that may not select
AT_ONCE = 0.25
LAST = 0.5
NUMBER = 1.0  # weight of a number that is copied


class SearchTeacher(Teacher):
    """Writes such dialogues. Extra arrays: `part`, shown frames of the second turn; `seg_at`, places of [SEG];
    `seg_means`, colours of the target as bits; `seg_box`, its box in the keyframe as a share of the side."""

    sampled = np.array([i * (NUM_FRAMES - 1) // (SHOWN - 1) for i in range(SHOWN)])
    shown = (*range(SHOWN), *(int(i) for i in np.searchsorted(sampled, [0, 7, 15, 23])))

    def __init__(self, tokenizer: Any, family: Family = QWEN3) -> None:
        super().__init__(tokenizer, family)
        self.layout = layout(family, LENGTH, PLACES, DIALOGUES, KEYS) | {
            "part": ((KEYS, PART), np.int64),
            "seg_at": ((DIALOGUES, TURNS), np.int64),
            "seg_means": ((DIALOGUES,), np.int64),
            "seg_box": ((DIALOGUES, 4), np.float32),
        }
        names = (
            "Step 1:",
            ", seen from ",
            ". Step 2:",
            ". Step 3:",
            '{"start":',
            ',"end":',
            ',"keyframe":',
            SEG,
        )
        self.marks = {name: self._number(name) for name in names}

    def frame_labels(self) -> list[int]:
        return [int(frame) for frame in self.sampled]

    def write(
        self,
        out: dict[str, np.ndarray],
        row: int,
        i: int,
        rng: np.random.Generator,
        made: Scene,
        query: Query,
    ) -> None:
        box_F4 = union_boxes(made, query.objects)[self.sampled]
        seen = np.flatnonzero(box_F4[:, 2] > 0)
        if not len(seen):  # seen only between the shown frames
            return
        key = int(rng.choice(seen))
        look = Look(self.labels[seen[0]], self.labels[seen[-1]] + 1, self.labels[key])
        name = description(made, query)
        again = i < KEYS and look.stop - look.start > PART + 1  # else the whole part would be shown
        at_once = not again and rng.random() < AT_ONCE
        script = self.ask(query.text)
        places = [self.answer(script, "answer" if at_once else "select", look, query, name)]
        if again:
            self.show_part(script, look, "Answer" if rng.random() < LAST else "Find", query)
            places.append(self.answer(script, "answer", look, query, name))
        if len(script.ids) > (LENGTH if i < KEYS else SHORT):
            return
        fill_script(out, row, i, "", script)
        shares = np.zeros((TURNS, 3, SHOWN), np.float32)  # of start, end and keyframe
        shares[:, 0, seen[0]] = shares[:, 1, seen[-1]] = shares[1, 2, key] = 1
        shares[0, 2, seen] = 1 / len(seen)
        out["frame_share"][row, i] = shares.reshape(PLACES, SHOWN)
        for turn, (start, end, keyframe, seg) in enumerate(places):
            out["frame_at"][row, i, 3 * turn : 3 * turn + 3] = start, end, keyframe
            out["seg_at"][row, i, turn] = seg
        if i < KEYS:
            out["key_frame"][row, i] = key
            out["part"][row, i] = (seen[0], seen[-1])
        out["seg_means"][row, i] = colour_bits(name)
        out["seg_box"][row, i] = box_F4[key] / SIDE

    def answer(
        self, made: Script, action: Action, look: Look, query: Query, name: str
    ) -> tuple[int, int, int, int]:
        """One answer; returns the places of start and end in the thought, of the keyframe and of [SEG]."""
        ids = self.dialogue.completion(
            write_turn(action, look, thought_steps(look, name, query.thought))
        )
        at = {mark: ids.index(token) for mark, token in self.marks.items()}
        start = at[", seen from "] + 1
        chosen = (start, start + 2, at[',"keyframe":'] + 1)
        weights = [FORMAT] * len(ids)
        for first, stop, weight in (
            (at["Step 1:"] + 1, start - 1, THOUGHT),
            (at[". Step 2:"] + 1, at[". Step 3:"], NAME),
            *((at[mark] + 1, at[mark] + 2, NUMBER) for mark in ('{"start":', ',"end":')),
            *((place, place + 1, 0.0) for place in chosen),  # their loss is that of the shares
        ):
            weights[first:stop] = [weight] * (stop - first)
        offset = len(made.ids)
        for k, (token, weight) in enumerate(zip(ids, weights, strict=True)):
            made.say([token], weight, means=colour_bits(name) if k in chosen else 0)
        first, end, keyframe = (offset + place for place in chosen)
        return first, end, keyframe, offset + at[SEG]

    def show_part(self, made: Script, look: Look, verb: str, query: Query) -> None:
        """The second question, after a <select>."""
        made.say(self.reopening)
        for frame in (look.start, look.stop - 1):
            made.say([self.numbers[frame], self.look])
            made.show(self.image_id, self.family.small // self.family.cell)
            made.say([self.looked])
        made.say([self.numbers[look.keyframe]])
        self._keyframe(made)
        made.say([*self.text(f" {verb} {query.text}."), *self.turn])

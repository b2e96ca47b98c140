"""Examination in searching: whole searches on held-out scenes.

Answers are greedy or sampled, and must have the taught form exactly.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import torch

from systems.videoseg_o3.traces import SEG, Look
from tiny.school.batched import Cache
from tiny.school.exam import Marks, Question, mean_marks, read_prefix, read_scripts, speak
from tiny.school.lessons import resize, union_boxes
from tiny.school.script import Script
from tiny.school.search_lessons import PART, SearchTeacher
from tiny.school.search_losses import SearchTutor
from tiny.world.scene import NUM_FRAMES, SIDE

TURN = re.compile(
    r"<think>Step 1: .+, seen from \d+ to \d+\. Step 2: (.+)\. Step 3: .+\. "
    r"Action: [a-z ]+\.</think>"
    r'<(select|answer)><VTG>\{"start":(\d+),"end":(\d+),"keyframe":(\d+)\}</VTG>'
    r"<RefSeg>\[SEG\]</RefSeg></\2>"
)
# box_px is the mean error of a box's sides in pixels, read at [SEG].
FIGURES = ("format", "name", "visible", "tiou", "turns", "box_px")


@torch.no_grad()
def examine(
    tutor: SearchTutor,
    teacher: SearchTeacher,
    asked: list[Question],
    temperature: float,
    rows: int = 128,
) -> Marks:
    """Return the mean of FIGURES for each kind of question and "all".

    Args:
        rows: Questions answered at once.
    """
    return mean_marks(partial(_answer, tutor, teacher), asked, temperature, rows, FIGURES)


def _answer(
    tutor: SearchTutor, teacher: SearchTeacher, asked: list[Question], temperature: float
) -> list[list[float]]:
    _, cache = read_prefix(tutor, teacher, asked)
    scripts = [teacher.ask(question.query.text) for question in asked]
    images = torch.zeros(0, tutor.net.width, device=tutor.prefix_ids.device)
    said = speak(tutor, teacher, scripts, [True] * len(asked), cache, images, temperature)

    # A search that selects a long enough part gets a second turn.
    parts = []
    second = [False] * len(asked)
    for i, (script, question) in enumerate(zip(scripts, asked, strict=True)):
        found = TURN.fullmatch(said[i])
        look = _look_of(found)
        if found and found[2] == "select" and look and look.stop - look.start > PART + 1:
            parts.append(_see_part(tutor, teacher, question, look))
            teacher.show_part(script, look, "Answer", question.query)
            second[i] = True
    if parts:
        images = torch.cat(parts)
        again = speak(tutor, teacher, scripts, second, cache, images, temperature)
        said = [again[i] if second[i] else said[i] for i in range(len(asked))]

    boxes = _seg_boxes(tutor, teacher, scripts, cache, images)
    answers = zip(asked, said, second, boxes, strict=True)
    return [_mark(*answer) for answer in answers]


def _look_of(found: re.Match[str] | None) -> Look | None:
    """Return the part and keyframe of an answer; None if they are not in the video."""
    if found is None:
        return None
    start, end, keyframe = (int(found[i]) for i in (3, 4, 5))
    if start <= end < NUM_FRAMES and keyframe < NUM_FRAMES:
        return Look(start, end + 1, keyframe)
    return None


def _see_part(
    tutor: SearchTutor, teacher: SearchTeacher, question: Question, look: Look
) -> torch.Tensor:
    """Return the image tokens of a second turn, (tokens, D)."""
    frames = question.scene.frames_FHWC
    device = tutor.prefix_ids.device
    small = resize(frames[[look.start, look.stop - 1]], teacher.sizes.small)
    key = resize(frames[[look.keyframe]], teacher.sizes.key)
    small_tokens = tutor.net.see(torch.from_numpy(small).to(device)).flatten(0, 1)
    key_tokens = tutor.net.see(torch.from_numpy(key).to(device)).flatten(0, 1)
    return torch.cat([small_tokens, key_tokens])


def _seg_boxes(
    tutor: SearchTutor,
    teacher: SearchTeacher,
    scripts: list[Script],
    cache: Cache,
    images: torch.Tensor,
) -> np.ndarray:
    """Return the box read at each script's last [SEG], in pixels of the video; nan without one."""
    hidden, ids = read_scripts(tutor, scripts, cache, images)
    boxes_N4 = np.full((len(scripts), 4), np.nan)
    for i, row in enumerate(ids):
        at = np.flatnonzero(row == teacher.marks[SEG])
        if len(at):
            box_4 = tutor.heads.seg(hidden[i, at[-1]]).float()
            boxes_N4[i] = SIDE * box_4.cpu().numpy()
    return boxes_N4


def _mark(question: Question, text: str, second: bool, box_4: np.ndarray) -> list[float]:
    turns = 1.0 + second
    found = TURN.fullmatch(text)
    look = _look_of(found)
    if found is None or look is None:
        return [0.0, 0.0, 0.0, 0.0, turns, np.nan]

    truth_F4 = union_boxes(question.scene, question.query.objects)
    visible_F = truth_F4[:, 2] > 0
    said_F = np.zeros_like(visible_F)
    said_F[look.start : look.stop] = True
    tiou = (said_F & visible_F).sum() / (said_F | visible_F).sum()
    right = set(found[1].split(" and ")) == set(question.name.split(" and "))
    visible = bool(visible_F[look.keyframe])
    off = np.nan
    if visible:
        off = float(np.abs(box_4 - truth_F4[look.keyframe]).mean())
    return [1.0, float(right), float(visible), float(tiou), turns, off]

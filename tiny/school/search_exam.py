"""What the tiny foundation can do on held-out scenes: whole searches, greedy or sampled, by kind of query.

Reads answers strictly, in the form that is taught. Knows no file and no process.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import torch

from systems.videoseg_o3.traces import SEG, Look
from tiny.school.exam import Question, marked, read_prefix, speak
from tiny.school.lessons import Script, resize, union_boxes
from tiny.school.search_lessons import PART, SearchTeacher
from tiny.school.search_losses import SearchTutor
from tiny.world.scene import SIDE

TURN = re.compile(
    r"<think>Step 1: .+, seen from \d+ to \d+\. Step 2: (.+)\. Step 3: .+\. Action: [a-z ]+\.</think>"
    r'<(select|answer)><VTG>\{"start":(\d+),"end":(\d+),"keyframe":(\d+)\}</VTG><RefSeg>\[SEG\]</RefSeg></\2>'
)
FIGURES = (
    "format",
    "name",
    "visible",
    "tiou",
    "turns",
    "box_px",
)  # box_px: mean error of a box's sides, read at [SEG]


@torch.no_grad()
def examine(
    tutor: SearchTutor,
    teacher: SearchTeacher,
    asked: list[Question],
    temperature: float,
    rows: int = 128,
) -> dict[str, dict[str, float]]:
    """Mean of FIGURES for each kind and "all", with the number of questions as "count"."""
    return marked(partial(_answer, tutor, teacher), asked, temperature, rows, FIGURES)


def _answer(
    tutor: SearchTutor, teacher: SearchTeacher, asked: list[Question], temperature: float
) -> list[list[float]]:
    _, cache = read_prefix(tutor, teacher, asked)
    scripts = [teacher.ask(q.query.text) for q in asked]
    nothing = torch.zeros(0, tutor.net.width, device=tutor.prefix_ids.device)
    said = speak(tutor, teacher, scripts, [True] * len(asked), cache, nothing, temperature)
    features = []
    for script, question, text in zip(scripts, asked, said, strict=True):
        found = TURN.fullmatch(text)
        if (
            found
            and found[2] == "select"
            and (look := _look(found))
            and look.stop - look.start > PART + 1
        ):
            features.append(_part(tutor, teacher, question, look))
            teacher.show_part(script, look, "Answer", question.query)
    if features:
        going = [bool(script.ids.count(teacher.image_id)) for script in scripts]
        images = torch.cat(features)
        again = speak(tutor, teacher, scripts, going, cache, images, temperature)
        said = [
            text if not on else after for text, on, after in zip(said, going, again, strict=True)
        ]
    else:
        images = nothing
        going = [False] * len(asked)
    boxes = _boxes(tutor, teacher, scripts, cache, images)
    return [_mark(*one) for one in zip(asked, said, going, boxes, strict=True)]


def _look(found: re.Match) -> Look | None:
    start, end, key = (int(found[i]) for i in (3, 4, 5))
    return Look(start, end + 1, key) if start <= end < 24 and key < 24 else None


def _part(
    tutor: SearchTutor, teacher: SearchTeacher, question: Question, look: Look
) -> torch.Tensor:
    """Image tokens of the frames of a second turn, (tokens, D)."""
    frames = question.made.frames_FHWC
    device = tutor.prefix_ids.device
    small = resize(frames[[look.start, look.stop - 1]], teacher.family.small)
    key = resize(frames[[look.keyframe]], teacher.family.key)
    see = lambda images: tutor.net.see(torch.from_numpy(images).to(device)).flatten(0, 1)
    return torch.cat([see(small), see(key)])


def _boxes(
    tutor: SearchTutor,
    teacher: SearchTeacher,
    scripts: list[Script],
    cache: list,
    images: torch.Tensor,
) -> np.ndarray:
    """The box that can be read off each script's last [SEG], in pixels of the video; nan without one."""
    width = max(len(script.ids) for script in scripts)
    ids = np.zeros((len(scripts), width), np.int64)
    places = np.zeros((len(scripts), width, 3), np.int64)
    for i, script in enumerate(scripts):
        ids[i, : len(script.ids)] = script.ids
        places[i, : len(script.ids)] = script.positions
    device = tutor.prefix_ids.device
    x = tutor.net.embed(torch.from_numpy(ids).to(device), images)
    hidden, _, _ = tutor.net.read(x, torch.from_numpy(places).to(device), past=cache)
    found_N4 = np.full((len(scripts), 4), np.nan)
    for i, row in enumerate(ids):
        at = np.flatnonzero(row == teacher.marks[SEG])
        if len(at):
            found_N4[i] = SIDE * tutor.heads.seg(hidden[i, at[-1]]).float().cpu().numpy()
    return found_N4


def _mark(question: Question, text: str, second: bool, box_4: np.ndarray) -> list[float]:
    found = TURN.fullmatch(text)
    look = _look(found) if found else None
    if found is None or look is None:
        return [0.0, 0.0, 0.0, 0.0, 1.0 + second, np.nan]
    truth_F4 = union_boxes(question.made, question.query.objects)
    seen_F = truth_F4[:, 2] > 0
    said_F = np.zeros_like(seen_F)
    said_F[look.start : look.stop] = True
    tiou = (said_F & seen_F).sum() / (said_F | seen_F).sum()
    right = set(found[1].split(" and ")) == set(question.name.split(" and "))
    visible = bool(seen_F[look.keyframe])
    off = float(np.abs(box_4 - truth_F4[look.keyframe]).mean()) if visible else np.nan
    return [1.0, float(right), float(visible), float(tiou), 1.0 + second, off]

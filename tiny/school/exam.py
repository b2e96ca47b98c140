"""What the tiny foundation can do on held-out scenes: whole dialogues, greedy or sampled, by kind of query.

Each step reads the whole (short) dialogue again behind the cached frames, which is simple, and fast enough because
all rows advance together. Reads answers strictly, in the ideal layout alone. Knows no file and no process.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from tiny.school.batched import Cache
from tiny.school.lessons import (
    MIX,
    SAMPLED,
    SHOWN,
    Script,
    Teacher,
    different_queries,
    resize,
    union_boxes,
)
from tiny.school.losses import Tutor
from tiny.world.queries import Query, description
from tiny.world.scene import SIDE, Scene, random_scene

FIRST = re.compile(
    r'<think>.+</think><answer>\[\{"frame_idx": (\d+), "object description": "([^"]+)"\}\]</answer>'
)
SECOND = re.compile(
    r'<answer>\[\{"bbox_2d":\[(\d+),(\d+),(\d+),(\d+)\],"label":"[^"]*"\}\]</answer>'
)
WORDS = 80  # most tokens of an answer
FIGURES = ("format", "name", "visible", "temporal", "iou", "iou>.5")


@dataclass(frozen=True)
class Question:
    """One scene and one query, with the truth on the shown frames."""

    made: Scene
    query: Query
    name: str
    box_F4: np.ndarray

    @property
    def temporal_F(self) -> np.ndarray:
        """Soft temporal reward of each shown frame (ReVSeg, Eq. 7)."""
        size_F = np.prod(self.box_F4[:, 2:] - self.box_F4[:, :2], -1)
        return (size_F > 0) * (size_F - size_F.min()) / max(size_F.max() - size_F.min(), 1e-9)


def questions(seed: int, count: int) -> list[Question]:
    """`count` questions, one a scene; kinds by the training mix."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        one = random_scene(rng)
        query = different_queries(rng, one, 1)[0]
        made.append(
            Question(one, query, description(one, query), union_boxes(one, query.objects)[SAMPLED])
        )
    assert set(MIX) >= {q.query.kind for q in made}
    return made


@torch.no_grad()
def examine(
    tutor: Tutor, teacher: Teacher, asked: list[Question], temperature: float, rows: int = 256
) -> dict[str, dict[str, float]]:
    """Mean of FIGURES for each kind and "all", with the number of questions as "count"."""
    return marked(partial(_answer, tutor, teacher), asked, temperature, rows, FIGURES)


def marked(
    answer: Callable[[list[Question], float], list[list[float]]],
    asked: list[Question],
    temperature: float,
    rows: int,
    figures: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Mean of `figures` for each kind of question and "all", with their number as "count"; a mark of nan counts not."""
    marks: dict[str, list[list[float]]] = defaultdict(list)
    for start in range(0, len(asked), rows):
        batch = asked[start : start + rows]
        for question, mark in zip(batch, answer(batch, temperature), strict=True):
            marks[question.query.kind].append(mark)
            marks["all"].append(mark)
    return {
        kind: dict(zip(figures, np.nanmean(mark, 0).tolist(), strict=True)) | {"count": len(mark)}
        for kind, mark in sorted(marks.items())
    }


def _answer(
    tutor: Tutor, teacher: Teacher, asked: list[Question], temperature: float
) -> list[list[float]]:
    device = tutor.prefix_ids.device
    _, cache = read_prefix(tutor, teacher, asked)
    scripts = [teacher.ask(q.query.text) for q in asked]
    no_image = torch.zeros(0, tutor.heads.token.in_features, device=device)
    said = speak(tutor, teacher, scripts, [True] * len(asked), cache, no_image, temperature)
    marks = []
    frames = []
    names = []
    for question, text in zip(asked, said, strict=True):
        found = FIRST.fullmatch(text)
        frame = int(found[1]) if found and int(found[1]) < SHOWN else -1
        name = found[2] if found else ""
        frames.append(frame)
        names.append(name)
        right = set(name.split(" and ")) == set(question.name.split(" and "))
        seen = frame >= 0 and question.box_F4[frame, 2] > 0
        temporal = float(question.temporal_F[frame]) * seen
        marks.append([0.5 * (frame >= 0), float(right), float(seen), temporal, 0.0, 0.0])
    going = [frame >= 0 for frame in frames]
    for script, name, on in zip(scripts, names, going, strict=True):
        teacher.point(script, name if on else "x")
    keys = np.stack(
        [q.made.frames_FHWC[SAMPLED[max(f, 0)]] for q, f in zip(asked, frames, strict=True)]
    )
    features = tutor.net.see(torch.from_numpy(resize(keys, teacher.family.key)).to(device)).flatten(
        0, 1
    )
    said = speak(tutor, teacher, scripts, going, cache, features, temperature)
    for question, text, frame, mark in zip(asked, said, frames, marks, strict=True):
        found = SECOND.fullmatch(text)
        if frame >= 0 and found:
            overlap = _iou(np.array([int(found[i]) for i in range(1, 5)]), question.box_F4[frame])
            mark[0] = 1.0
            mark[4] = overlap
            mark[5] = float(overlap > 0.5)
    return marks


def read_prefix(
    tutor: Tutor, teacher: Teacher, asked: list[Question]
) -> tuple[torch.Tensor, Cache]:
    """Image tokens of the shown frames, (questions, frames, tokens, D), and what the decoder made of the prefix."""
    shown = [resize(q.made.frames_FHWC[teacher.sampled], teacher.family.small) for q in asked]
    images, x = tutor.prefix(torch.from_numpy(np.stack(shown)).to(tutor.prefix_ids.device))
    _, cache, _ = tutor.net.read(x, tutor.prefix_positions.expand(len(asked), -1, -1))
    return images.unflatten(0, (len(asked), -1)), cache


def speak(
    tutor: Tutor,
    teacher: Teacher,
    scripts: list[Script],
    going: list[bool],
    cache: Cache,
    features: torch.Tensor,
    temperature: float,
) -> list[str]:
    """Lets every script that is `going` speak until its end token; appends what it said, returns the text."""
    device = tutor.prefix_ids.device
    banned = torch.ones(len(tutor.net.hf.lm_head.weight), dtype=torch.bool, device=device)
    banned[teacher.dialogue.allowed_ids()] = False
    begin = [len(script.ids) for script in scripts]
    going = list(going)
    for _ in range(WORDS):
        if not any(going):
            break
        width = max(len(script.ids) for script in scripts)
        ids = np.zeros((len(scripts), width), np.int64)
        places = np.zeros((len(scripts), width, 3), np.int64)
        for i, script in enumerate(scripts):
            ids[i, : len(script.ids)] = script.ids
            places[i, : len(script.ids)] = script.positions
        x = tutor.net.embed(torch.from_numpy(ids).to(device), features)
        hidden, _, _ = tutor.net.read(x, torch.from_numpy(places).to(device), past=cache)
        last = torch.tensor([len(script.ids) - 1 for script in scripts], device=device)
        logits = tutor.net.logits(hidden[torch.arange(len(scripts), device=device), last]).float()
        logits = logits.masked_fill(banned, -torch.inf)
        if temperature > 0:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
        else:
            chosen = logits.argmax(-1)
        for i, token in enumerate(chosen.tolist()):
            if going[i]:
                scripts[i].say([token])
                going[i] = token != teacher.end
    out = []
    for i, script in enumerate(scripts):
        said = script.ids[begin[i] :]
        out.append(teacher.dialogue.decode(said))
        if said and said[-1] == teacher.end:  # `point` opens with the end token left to the answer
            continue
        script.say([teacher.end])
    return out


def _iou(a_4: np.ndarray, b_4: np.ndarray) -> float:
    sides = np.clip(np.minimum(a_4[2:], b_4[2:]) - np.maximum(a_4[:2], b_4[:2]), 0, SIDE)
    inter = float(sides.prod())
    areas = [float(np.clip(box[2:] - box[:2], 0, SIDE).prod()) for box in (a_4, b_4)]
    return inter / max(sum(areas) - inter, 1e-9)

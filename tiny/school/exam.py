"""Examination in choosing a keyframe and drawing a box: whole dialogues on held-out scenes.

Answers are greedy or sampled, and must have the taught layout exactly. Each step reads the whole
(short) dialogue again after the cached frames: simple, and fast enough because all dialogues
advance together.
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
from tiny.school.lessons import MIX, Teacher, different_queries, resize, union_boxes
from tiny.school.losses import Tutor
from tiny.school.script import SAMPLED, SHOWN, Script
from tiny.world.queries import Query, description
from tiny.world.scene import SIDE, Scene, random_scene

FIRST = re.compile(
    r'<think>.+</think><answer>\[\{"frame_idx": (\d+), "object description": "([^"]+)"\}\]</answer>'
)
SECOND = re.compile(
    r'<answer>\[\{"bbox_2d":\[(\d+),(\d+),(\d+),(\d+)\],"label":"[^"]*"\}\]</answer>'
)
# Most tokens of an answer.
MOST_TOKENS = 80
FIGURES = ("format", "name", "visible", "temporal", "iou", "iou>.5")

# For each kind of question and "all": the mean of each figure, and "count".
Marks = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Question:
    """One scene and one query.

    Attributes:
        name: Description of the query's things.
        box_F4: Their box in each shown frame.
    """

    scene: Scene
    query: Query
    name: str
    box_F4: np.ndarray

    @property
    def temporal_F(self) -> np.ndarray:
        """Soft temporal reward of each shown frame (ReVSeg, Eq. 7)."""
        size_F = np.prod(self.box_F4[:, 2:] - self.box_F4[:, :2], -1)
        spread = max(size_F.max() - size_F.min(), 1e-9)
        return (size_F > 0) * (size_F - size_F.min()) / spread


def questions(seed: int, count: int) -> list[Question]:
    """Return `count` questions, one a scene; kinds by the training mix."""
    rng = np.random.default_rng(seed)
    asked = []
    for _ in range(count):
        scene = random_scene(rng)
        (query,) = different_queries(rng, scene, 1)
        assert query.kind in MIX
        box_F4 = union_boxes(scene, query.objects)[SAMPLED]
        asked.append(Question(scene, query, description(scene, query), box_F4))
    return asked


@torch.no_grad()
def examine(
    tutor: Tutor, teacher: Teacher, asked: list[Question], temperature: float, rows: int = 256
) -> Marks:
    """Return the mean of FIGURES for each kind of question and "all".

    Args:
        rows: Questions answered at once.
    """
    return mean_marks(partial(_answer, tutor, teacher), asked, temperature, rows, FIGURES)


def mean_marks(
    answer: Callable[[list[Question], float], list[list[float]]],
    asked: list[Question],
    temperature: float,
    rows: int,
    figures: Sequence[str],
) -> Marks:
    """Return the mean of `figures` for each kind of question and "all"; nan does not count.

    Args:
        answer: Answers some questions at a temperature and returns their figures.
    """
    by_kind: dict[str, list[list[float]]] = defaultdict(list)
    for start in range(0, len(asked), rows):
        batch = asked[start : start + rows]
        for question, mark in zip(batch, answer(batch, temperature), strict=True):
            by_kind[question.query.kind].append(mark)
            by_kind["all"].append(mark)

    means = {}
    for kind, marks in sorted(by_kind.items()):
        averages = [_mean_without_nan(column) for column in zip(*marks, strict=True)]
        means[kind] = dict(zip(figures, averages, strict=True)) | {"count": len(marks)}
    return means


def _mean_without_nan(numbers: Sequence[float]) -> float:
    """Mean of the numbers; nan if there is none."""
    known = [number for number in numbers if not np.isnan(number)]
    return float(np.mean(known)) if known else float("nan")


def _answer(
    tutor: Tutor, teacher: Teacher, asked: list[Question], temperature: float
) -> list[list[float]]:
    device = tutor.prefix_ids.device
    _, cache = read_prefix(tutor, teacher, asked)
    scripts = [teacher.ask(question.query.text) for question in asked]
    no_image = torch.zeros(0, tutor.heads.token.in_features, device=device)
    said = speak(tutor, teacher, scripts, [True] * len(asked), cache, no_image, temperature)

    # The first answers: a frame and a name. -1 stands for an answer that was not read.
    marks = []
    frames = []
    keyframes = []
    for question, script, text in zip(asked, scripts, said, strict=True):
        found = FIRST.fullmatch(text)
        frame = -1
        name = ""
        if found:
            frame = int(found[1]) if int(found[1]) < SHOWN else -1
            name = found[2]
        frames.append(frame)
        right = set(name.split(" and ")) == set(question.name.split(" and "))
        visible = frame >= 0 and question.box_F4[frame, 2] > 0
        temporal = float(question.temporal_F[frame]) * visible
        marks.append([0.5 * (frame >= 0), float(right), float(visible), temporal, 0.0, 0.0])
        teacher.point(script, name if frame >= 0 else "x")
        keyframes.append(question.scene.frames_FHWC[SAMPLED[max(frame, 0)]])

    # The second answers: a box on the chosen frame.
    pixels = resize(np.stack(keyframes), teacher.sizes.key)
    images = tutor.net.see(torch.from_numpy(pixels).to(device)).flatten(0, 1)
    going = [frame >= 0 for frame in frames]
    said = speak(tutor, teacher, scripts, going, cache, images, temperature)
    for question, text, frame, mark in zip(asked, said, frames, marks, strict=True):
        found = SECOND.fullmatch(text)
        if frame >= 0 and found:
            box_4 = np.array([int(found[i]) for i in range(1, 5)])
            overlap = _box_iou(box_4, question.box_F4[frame])
            mark[0] = 1.0
            mark[4] = overlap
            mark[5] = float(overlap > 0.5)
    return marks


def read_prefix(
    tutor: Tutor, teacher: Teacher, asked: list[Question]
) -> tuple[torch.Tensor, Cache]:
    """Return image tokens of the shown frames, (questions, frames, tokens, D), and their cache."""
    shown = []
    for question in asked:
        frames_FHWC = question.scene.frames_FHWC[teacher.sampled]
        shown.append(resize(frames_FHWC, teacher.sizes.small))
    pixels = torch.from_numpy(np.stack(shown)).to(tutor.prefix_ids.device)
    images, x = tutor.prefix(pixels)
    positions = tutor.prefix_positions.expand(len(asked), -1, -1)
    _, cache, _ = tutor.net.read(x, positions)
    return images.unflatten(0, (len(asked), -1)), cache


def read_scripts(
    tutor: Tutor, scripts: list[Script], cache: Cache, images: torch.Tensor
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the last hidden states of scripts (R, T, D) and their padded ids (R, T)."""
    device = tutor.prefix_ids.device
    width = max(len(script.ids) for script in scripts)
    ids = np.zeros((len(scripts), width), np.int64)
    positions = np.zeros((len(scripts), width, 3), np.int64)
    for row, script in enumerate(scripts):
        ids[row, : len(script.ids)] = script.ids
        positions[row, : len(script.ids)] = script.positions
    x = tutor.net.embed(torch.from_numpy(ids).to(device), images)
    hidden, _, _ = tutor.net.read(x, torch.from_numpy(positions).to(device), past=cache)
    return hidden, ids


def speak(
    tutor: Tutor,
    teacher: Teacher,
    scripts: list[Script],
    going: list[bool],
    cache: Cache,
    images: torch.Tensor,
    temperature: float,
) -> list[str]:
    """Let every script that is `going` speak until its end token.

    Appends the answers to the scripts and returns their text.
    """
    device = tutor.prefix_ids.device
    banned = torch.ones(len(tutor.net.hf.lm_head.weight), dtype=torch.bool, device=device)
    banned[teacher.dialogue.allowed_ids()] = False
    begin = [len(script.ids) for script in scripts]
    going = list(going)
    for _ in range(MOST_TOKENS):
        if not any(going):
            break
        hidden, _ = read_scripts(tutor, scripts, cache, images)
        last = torch.tensor([len(script.ids) - 1 for script in scripts], device=device)
        rows = torch.arange(len(scripts), device=device)
        logits = tutor.net.logits(hidden[rows, last]).float()
        logits = logits.masked_fill(banned, -torch.inf)
        if temperature > 0:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
        else:
            chosen = logits.argmax(-1)
        for i, token in enumerate(chosen.tolist()):
            if going[i]:
                scripts[i].say([token])
                going[i] = token != teacher.end

    texts = []
    for script, start in zip(scripts, begin, strict=True):
        said = script.ids[start:]
        texts.append(teacher.dialogue.decode(said))
        # The next question relies on an end token before it.
        if not said or said[-1] != teacher.end:
            script.say([teacher.end])
    return texts


def _box_iou(a_4: np.ndarray, b_4: np.ndarray) -> float:
    high = np.minimum(a_4[2:], b_4[2:])
    low = np.maximum(a_4[:2], b_4[:2])
    intersection = float(np.clip(high - low, 0, SIDE).prod())
    area_a = float(np.clip(a_4[2:] - a_4[:2], 0, SIDE).prod())
    area_b = float(np.clip(b_4[2:] - b_4[:2], 0, SIDE).prod())
    return intersection / max(area_a + area_b - intersection, 1e-9)

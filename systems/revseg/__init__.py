"""ReVSeg (arXiv 2512.02835): segmentation of a video by reasoning in two rounds.

Round 1 sees frames of the whole clip at low resolution, thinks, and answers with a keyframe and a description of the
target in it. Round 2 sees that keyframe at high resolution and answers with a box. A tracker, after the episode,
makes masks of the box. What is said here about numbers and formulas is the paper's; "ours" marks what it leaves open.

This file knows no engine, no tracker and no process: the policy is `ask`, the ground truth is the sample's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from core.geometry import scale_box, uniform_frames
from core.masks import boxes_areas
from core.parsing import block, integer, is_tagged, numbers, plain, records, search_records
from core.settings import unknown_name as unknown
from core.types import (
    Answer,
    Ask,
    End,
    Episode,
    EpisodeMasks,
    MaskPrompt,
    Reward,
    Sample,
    Turn,
    View,
)
from rewards.format import format_reward
from rewards.spatial import box_hit
from rewards.temporal import keyframe_size, keyframe_visible
from systems.base import WHERE, BaseSystem

Box = tuple[float, float, float, float]
Content = list[str | View]

FPS = 2  # nominal: the prompt calls the clip num_frames / 2 seconds long, however long it is (paper, App. C)
PARTS = ("format", "temporal", "spatial")
RULES = ("tags_1", "json_1", "tags_2", "json_2")  # of the format reward, in the order of the rounds
WEIGHTS = {
    "paper": (1.0, 1.0, 1.0),  # Eq. 8
    "curve": (
        0.25,
        0.15,
        0.60,
    ),  # least squares on the published training curves, which Eq. 8 cannot produce
}


@dataclass(frozen=True)
class ReVSegOptions:
    """`system.options` of ReVSeg. Sizes are pixels, multiples of 28 (one visual token)."""

    num_frames: int = 16  # sampled uniformly from the video
    frame_height: int = 448
    frame_width: int = 448
    keyframe_height: int = 840
    keyframe_width: int = 840
    max_tokens_1: int = 1024  # of round 1; ours
    max_tokens_2: int = 256  # of round 2; ours
    prompt: Literal["full", "short"] = "full"  # short: for a policy trained on the short form
    decompose: bool = True  # False: one round answers keyframe and box at once (ablation, Tab. 5)
    temporal_reward: Literal["none", "binary", "soft"] = "soft"  # ablation, Tab. 7
    weights: Literal["paper", "curve"] | Mapping[str, float] = (
        "paper"  # or one number for each of PARTS
    )
    iou_threshold: float = 0.5
    strict_turn2_tags: bool = (
        False  # True: round 2 must think and answer in tags too (the paper says both)
    )
    target_box: Literal["union"] = "union"  # the true box of a query with several targets; ours

    def __post_init__(self) -> None:
        for name, number in ((f.name, getattr(self, f.name)) for f in fields(self)):
            if type(number) is int and number < 1:
                raise ValueError(f"{WHERE}.{name} = {number}: must be at least 1")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"{WHERE}.iou_threshold = {self.iou_threshold}: must lie in [0, 1)")
        if not isinstance(self.weights, str):
            for key in self.weights:
                if key not in PARTS:
                    raise ValueError(unknown(f"{WHERE}.weights.{key}", key, PARTS))
            if missing := [part for part in PARTS if part not in self.weights]:
                raise ValueError(f"{WHERE}.weights lacks {', '.join(missing)}")

    @property
    def weights_3(self) -> tuple[float, float, float]:
        """Weights of format, temporal and spatial reward."""
        if isinstance(self.weights, str):
            return WEIGHTS[self.weights]
        form, temporal, spatial = (float(self.weights[part]) for part in PARTS)
        return form, temporal, spatial

    @property
    def box_hw(self) -> tuple[int, int]:
        """Height and width of the image whose pixels the policy's box is in."""
        if self.decompose:
            return self.keyframe_height, self.keyframe_width
        return self.frame_height, self.frame_width


class ReVSeg(BaseSystem[ReVSegOptions]):
    """The system: how an episode is played, what it is worth, and what a perfect one looks like."""

    name: str = "revseg"
    schema = ReVSegOptions

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """One episode (Alg. 1): keyframe and description, then the box; it stops at the first unreadable answer.

        Facts of the answer: `frame_idx` (index into the sampled frames), `description`, `box` (pixels of the image it was given in) and the four RULES as booleans.
        """
        options = self.options
        frames = self.frames(sample)
        if not options.decompose:
            return await self._play_at_once(sample, frames, ask)

        first = await ask(self.ask_keyframe(sample.query, frames), max_tokens=options.max_tokens_1)
        choice = read_keyframe(_said(first), len(frames))
        if choice is None:
            return self._episode(sample, frames, (first,), None, None)

        frame_idx, description = choice
        second = await ask(
            self.ask_box(frames[frame_idx], description), max_tokens=options.max_tokens_2
        )
        box = read_box(_said(second), options.box_hw, options.strict_turn2_tags)
        return self._episode(sample, frames, (first, second), choice, box)

    async def _play_at_once(self, sample: Sample, frames: Sequence[int], ask: Ask) -> Episode:
        """The ablation: keyframe, description and box in one answer, over the low-resolution frames."""
        options = self.options
        only = await ask(
            self.ask_keyframe(sample.query, frames),
            max_tokens=options.max_tokens_1 + options.max_tokens_2,
        )
        choice = read_keyframe(_said(only), len(frames))
        box = read_box(_said(only), options.box_hw, strict=True) if choice else None
        return self._episode(sample, frames, (only,), choice, box)

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """r = w_f r_f + w_t 1[S1] r_t + w_s 1[S1 and S2] r_s for each episode (Eq. 8; S1, S2: a round was read).

        No round read means no frame or no box, for which r_t and r_s are 0: that is the gating of Eq. 8.
        True boxes are those of the union of all targets; sizes are taken over the sampled frames only.
        """
        assert episodes
        assert all(e.end is not End.FAILED and e.sample_uid == sample.uid for e in episodes)
        facts = [e.answer.facts for e in episodes]
        rules_GR = torch.tensor([[f[rule] for rule in RULES] for f in facts])
        frames_G = torch.tensor([-1 if f["frame_idx"] is None else f["frame_idx"] for f in facts])
        boxes_G4 = torch.tensor(
            [f["box"] or (0.0, 0.0, 0.0, 0.0) for f in facts], dtype=torch.float64
        )
        truth_F4, visible_F = self._truth(sample)

        format_G2 = (
            torch.stack([format_reward(rules_GR[:, :2]), format_reward(rules_GR[:, 2:])], dim=1) / 2
        )
        temporal_G = self._temporal(frames_G, truth_F4, visible_F)
        spatial_G = box_hit(boxes_G4, truth_F4[frames_G.clamp(min=0)], self.options.iou_threshold)
        spatial_G = torch.where(frames_G >= 0, spatial_G, 0.0)
        rows = zip(
            episodes, format_G2.tolist(), temporal_G.tolist(), spatial_G.tolist(), strict=True
        )
        return [
            self._reward(len(e.turns), formats, temporal, spatial)
            for e, formats, temporal, spatial in rows
        ]

    def demonstrate(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[tuple[Content, str], ...]:
        """A dialogue that answers right, turn by turn: what the user says, what to answer.

        The keyframe is any sampled frame that shows the target: which one is best is left to reinforcement
        learning. Thought and description come from `sample.notes` (`thought`; `description` or `names`), else from
        the query. Raises ValueError for a sample whose targets are in none of the sampled frames.
        """
        frames = self.frames(sample)
        (truth_F4, visible_F) = self._truth(sample)
        visible = torch.nonzero(visible_F).flatten().tolist()
        if not visible:
            raise ValueError(
                f"sample {sample.uid!r}: no target in any of the {len(frames)} sampled frames"
            )
        frame_idx = int(rng.choice(visible))
        description = _describe(sample)
        box = _whole_pixels(truth_F4[frame_idx].tolist(), self.options.box_hw)
        thought = plain(sample.notes.thought or f"{sample.query}: {description}")
        name = json.dumps(description, ensure_ascii=False)
        at = ",".join(str(x) for x in box)

        opening = f'<think>{thought}</think><answer>[{{"frame_idx": {frame_idx}, "object description": {name}'
        first = self.ask_keyframe(sample.query, frames)
        if not self.options.decompose:
            return ((first, f'{opening}, "bbox_2d": [{at}]}}]</answer>'),)
        second = f'<answer>[{{"bbox_2d":[{at}],"label":{name}}}]</answer>'
        if self.options.strict_turn2_tags:
            second = f"<think>{description}</think>{second}"
        return (first, f"{opening}}}]</answer>"), (
            self.ask_box(frames[frame_idx], description),
            second,
        )

    def frames(self, sample: Sample) -> list[int]:
        """Numbers of the sampled frames in the video."""
        return uniform_frames(sample.video.num_frames, self.options.num_frames)

    def ask_keyframe(self, query: str, frames: Sequence[int]) -> Content:
        """What the user says in round 1: every sampled frame after its index, then the task."""
        options = self.options
        short = self.options.prompt == "short"
        content: Content = []
        for i, frame in enumerate(frames):
            content += [
                f"{i}" if short else f"Frame {i}:",
                View(frame, options.frame_height, options.frame_width),
            ]
        if short:
            return [
                *content,
                f" Find {query}." if options.decompose else f" Find and locate {query}.",
            ]
        return [
            *content,
            _keyframe_task(query, len(frames), None if options.decompose else options.box_hw),
        ]

    def ask_box(self, frame: int, description: str) -> Content:
        """What the user says in round 2: the keyframe, and what to find in it."""
        options = self.options
        view = View(frame, options.keyframe_height, options.keyframe_width)
        if options.prompt == "short":
            return [view, f"Locate the {description}."]
        return [view, _box_task(description, options.box_hw, options.strict_turn2_tags)]

    def _episode(
        self,
        sample: Sample,
        frames: Sequence[int],
        turns: tuple[Turn, ...],
        choice: tuple[int, str] | None,
        box: Box | None,
    ) -> Episode:
        at_once = not self.options.decompose
        strict = self.options.strict_turn2_tags
        tags_1 = is_tagged(_said(turns[0]), ("think", "answer"))
        tags_2 = (at_once or len(turns) == 2) and has_box_form(_said(turns[-1]), strict or at_once)
        frame_idx, description = choice or (None, "")
        frame = None if frame_idx is None else frames[frame_idx]
        facts = {
            "frame_idx": frame_idx,
            "description": description,
            "box": box and list(box),
            "tags_1": tags_1,
            "json_1": choice is not None,
            "tags_2": tags_2,
            "json_2": box is not None,
        }
        prompts: tuple[MaskPrompt, ...] = ()
        if frame is not None and box is not None:
            prompts = (MaskPrompt(frame, scale_box(box, self.options.box_hw, _size(sample))),)
        end = End.DONE if prompts else End.UNREADABLE if turns[-1].complete else End.TRUNCATED
        return Episode(sample.uid, turns, end, Answer(prompts, facts, keyframe=frame))

    def _truth(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes of the targets' union in the sampled frames, in pixels of the image the box is asked in; visibility."""
        frames = self.frames(sample)
        boxes_F4, areas_F = boxes_areas(sample)
        (height, width) = _size(sample)
        (to_height, to_width) = self.options.box_hw
        scale_4 = np.array([to_width / width, to_height / height] * 2)
        return torch.tensor(boxes_F4[frames] * scale_4), torch.tensor(areas_F[frames] > 0)

    def _temporal(
        self, frames_G: torch.Tensor, truth_F4: torch.Tensor, visible_F: torch.Tensor
    ) -> torch.Tensor:
        if self.options.temporal_reward == "none":
            return torch.zeros(len(frames_G), dtype=torch.float64)
        if self.options.temporal_reward == "binary":
            return keyframe_visible(frames_G, visible_F)
        sizes_F = (truth_F4[:, 2] - truth_F4[:, 0]) * (truth_F4[:, 3] - truth_F4[:, 1])
        return keyframe_size(frames_G, visible_F, sizes_F)

    def _reward(
        self, turns: int, formats: Sequence[float], temporal: float, spatial: float
    ) -> Reward:
        """`formats`: what each round adds to r_f. A turn earns the format of its round and what its answer is worth."""
        by_format, by_temporal, by_spatial = self.options.weights_3
        per_turn = (
            by_format * formats[0] + by_temporal * temporal,
            by_format * formats[1] + by_spatial * spatial,
        )
        parts = dict(zip(PARTS, (sum(formats), temporal, spatial), strict=True))
        total = sum(per_turn)  # a round that was not played earned nothing
        return Reward(total, parts, per_turn if turns == 2 else (total,))


def read_keyframe(text: str, num_frames: int) -> tuple[int, str] | None:
    """Answer of round 1: (index into the sampled frames, description of the target), or None where it is unreadable.

    Wanted: <answer>[{"frame_idx": 3, "object description": "..."}]</answer>. JSON or Python quotes, fenced or not,
    one dictionary with or without a list; of several the first counts (ours). An index outside the frames or an
    empty description is unreadable. Any text is taken; nothing raises.
    """
    body = block(text, "answer")
    rows = records(body) if body is not None else []
    if not rows:
        return None
    frame_idx = integer(rows[0].get("frame_idx"))
    description = rows[0].get("object description")
    if frame_idx is None or not 0 <= frame_idx < num_frames or not isinstance(description, str):
        return None
    return (frame_idx, plain(description)) if plain(description) else None


def read_box(text: str, hw: tuple[int, int], strict: bool = False) -> Box | None:
    """Answer of round 2: the box, clipped to an image of `hw`, or None where there is none.

    Wanted: [{"bbox_2d": [x0, y0, x1, y1], "label": "..."}] in <answer> tags, or bare unless `strict`. Of several
    readable boxes the largest counts (ours). Not four finite numbers, reversed or without area: not readable.
    """
    body = block(text, "answer")
    if body is None and strict:
        return None
    rows = records(body) if body is not None else search_records(_after_thought(text))
    boxes = [box for row in rows if (box := _clip(row.get("bbox_2d"), hw)) is not None]
    return max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]), default=None)


def has_box_form(text: str, strict: bool = False) -> bool:
    """Whether an answer of round 2 is in the asked form: think and answer tags, or unless `strict` the answer tags
    alone or nothing but JSON (the paper's prompt and its text disagree, so both are right)."""
    if is_tagged(text, ("think", "answer")):
        return True
    return not strict and (is_tagged(text, ("answer",)) or bool(records(_after_thought(text))))


def _said(turn: Turn) -> str:
    """What a turn says; a turn cut off by its token budget says nothing, so it keeps no rule and is not read."""
    return turn.text if turn.complete else ""


def _after_thought(text: str) -> str:
    return text.rpartition("</think>")[2]


def _clip(row: Any, hw: tuple[int, int]) -> Box | None:
    corners = numbers(row, 4)
    if corners is None or corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None
    x0, x1 = (min(max(x, 0.0), float(hw[1])) for x in corners[0::2])
    y0, y1 = (min(max(y, 0.0), float(hw[0])) for y in corners[1::2])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _whole_pixels(box: Sequence[float], hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """`box` in whole pixels of an image of `hw`, at least one pixel wide and high."""
    x0 = min(round(box[0]), hw[1] - 1)
    y0 = min(round(box[1]), hw[0] - 1)
    return x0, y0, max(round(box[2]), x0 + 1), max(round(box[3]), y0 + 1)


def _size(sample: Sample) -> tuple[int, int]:
    return sample.video.height, sample.video.width


def _describe(sample: Sample) -> str:
    """How the target looks, for a demonstration."""
    names = sample.notes.names or [sample.query.removeprefix("the ")]
    return plain(sample.notes.description or " and ".join(names))


def _keyframe_task(query: str, count: int, box_hw: tuple[int, int] | None) -> str:
    """The full prompt of round 1; with `box_hw` (the ablation without rounds) it asks for the box as well."""
    keys = '"frame_idx": 5, "object description": "brown dog lying to the left of the sofa"'
    extra = ""
    box = ""
    if box_hw is not None:
        keys += ', "bbox_2d": [96, 210, 251, 330]'
        box = f' and "bbox_2d", its box [x1, y1, x2, y2] in pixels of that frame ({box_hw[1]} x {box_hw[0]})'
        extra = " Also find the box around it in the keyframe."
    return (
        f"\nThese are {count} frames, numbered 0 to {count - 1}, of a video clip of {count / FPS:g} seconds sampled "
        f"at {FPS} frames per second.\n"
        f'Which object does this refer to: "{query}"?\n'
        "Reason first: say at what time the clue is to be seen, compare the objects that could be meant, and settle on "
        "one. Then pick the keyframe in which it would be easiest to outline that object: in full view and hardly "
        "covered, large, sharp rather than blurred by motion, close to the middle, and not to be confused with the "
        "background or with similar objects nearby. Last, describe the object by how it looks in the keyframe alone, "
        "precisely enough to find it there: kind, colour, shape, place; leave out motion and anything that takes "
        f"another frame to know.{extra}\n"
        "Write your reasoning between <think> and </think>, then the result between <answer> and </answer>: a JSON "
        f'list with a single entry, which has "frame_idx", the number of the keyframe (0 to {count - 1}), and '
        f'"object description"{box}. For example:\n'
        f"<think>reasoning</think><answer>[{{{keys}}}]</answer>"
    )


def _box_task(description: str, hw: tuple[int, int], strict: bool) -> str:
    """The full prompt of round 2."""
    tags = (
        " Think between <think> and </think>, then answer between <answer> and </answer>."
        if strict
        else ""
    )
    return (
        f'\nHere is the keyframe you picked, {hw[1]} x {hw[0]} pixels. Detect "{description}" in it and give its box '
        f'as JSON: [{{"bbox_2d": [x1, y1, x2, y2], "label": "{description}"}}].{tags}'
    )

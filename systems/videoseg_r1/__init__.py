"""VideoSeg-R1 (AAAI 2026): one round of reasoning about a frame, answered with a box and points for each object.

A frame sampler picks the part of the video and the target frame (`systems.videoseg_r1.sampler`; not trained). The policy
sees frames of the part, a few of the whole video and the target frame at high resolution, thinks, and lists the
objects. A segmenter, after the episode, makes masks of boxes and points. A video of one frame is an image: the same
episode with that frame alone. The reward is VisionReasoner's, a term for negative points, and a factor for length.

The paper's appendices (prompts, most numbers) are not public: what is not marked as the paper's is ours.
This file knows no engine, no tracker and no process: the policy is `ask`, the ground truth is the sample's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from core.difficulty import difficulty as mean_rating
from core.geometry import uniform_frames
from core.masks import area, box, decode
from core.parsing import plain
from core.points import inner_point, point_beside, resize_mask, scale_pixel
from core.types import (
    Answer,
    Ask,
    End,
    Episode,
    EpisodeMasks,
    Hints,
    MaskMaker,
    MaskPrompt,
    Reward,
    Sample,
    View,
    Vision,
)
from rewards.answers import answer_format, non_repeat, think_format
from rewards.iou import mask_iou_table
from rewards.length import soft_length
from rewards.negative_points import negative_points, taxicab_distance
from rewards.objects import Thresholds, matched_mean, pair_scores
from systems.base import DEFAULT_VISION, BaseSystem
from systems.videoseg_r1 import answers as object_answers
from systems.videoseg_r1.answers import (
    MAX_OBJECTS,
    coordinates,
    negatives,
    read_objects,
    rows_as_read,
    strict_answer,
)
from systems.videoseg_r1.options import VideoSegR1Options
from systems.videoseg_r1.sampler import Choice, Choices, choose

Content = list[str | View]

PARTS = ("think_format", "answer_format", "accuracy", "negative", "non_repeat", "length")
LARGEST = 5  # frames among which training picks the target frame
UNRATED = 5.5  # difficulty of a sample without ratings: the middle of 1 to 10
SHORT = {
    "all": "",
    "box": ": box",
    "point": ": point",
    "box_point": ": box, point",
    "box_negative": ": box, off",
}


@dataclass(frozen=True)
class Truth:
    """The objects in one frame, in pixels of the target image; `union_HW` is at the size of the video."""

    boxes_N4: np.ndarray  # x1 and y1 inside
    points_N2: np.ndarray
    union_HW: np.ndarray
    own_NHW: np.ndarray


class VideoSegR1(BaseSystem[VideoSegR1Options]):
    """The system: how an episode is played, what it is worth, and what a perfect one looks like."""

    name: str = "videoseg_r1"

    schema = VideoSegR1Options

    def __init__(
        self, options: VideoSegR1Options | None = None, vision: Vision = DEFAULT_VISION
    ) -> None:
        super().__init__(options, vision)
        self.choices = Choices()

    def shown(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample as training shows it to `play`: no truth but the target frame and the part around it, as hints.

        The target frame is one of the 5 in which the targets are largest, or any that shows one (`training_frame`);
        the part is a random window of 10 to 50 % of the video around it. Where no frame shows a target, any may be it.
        """
        if self.options.training_frame == "sampler":
            return sample.bare
        visible = self._visible(sample)
        frame = int(rng.choice(visible if len(visible) else sample.video.num_frames))
        hints = Hints(frame, _window(sample.video.num_frames, frame, rng))
        return replace(sample.bare, hints=hints)

    @property
    def uses_hints(self) -> bool:
        return self.options.sampler != "first"

    def hints(self, episode: Episode) -> Hints | None:
        """The sampler's choice: "only used during inference" and frozen in the paper."""
        answer = episode.answer
        if answer.keyframe is None:
            return None
        start, stop = answer.facts["segment"]
        return Hints(answer.keyframe, (start, stop))

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """One episode: the sampler's choice, unless the sample's hints give it, then one round of reasoning.

        Facts of the answer: `segment` [start, stop), `objects` as read (pixels of the target image) and `readable`. An empty list is a readable answer: there is no such object.
        """
        choice = _hint(sample) or await self._choice(sample, ask)
        content = self.ask_objects(sample.query, sample.video.num_frames, choice)
        turn = await ask(content, max_tokens=self.options.max_tokens)
        objects = read_objects(turn.text) if turn.complete else None
        facts = {
            "segment": [choice.start, choice.stop],
            "readable": objects is not None,
            "objects": objects or [],
        }
        tokens = ask.count(object_answers.reasoning(turn.text))
        prompts = tuple(
            p for o in objects or () if (p := self._prompt(sample, choice.frame, o)) is not None
        )
        end = (
            End.TRUNCATED if not turn.complete else End.UNREADABLE if objects is None else End.DONE
        )
        answer = Answer(prompts, facts, keyframe=choice.frame, reasoning_tokens=tokens)
        return Episode(sample.uid, (*choice.turns, turn), end, answer)

    async def _choice(self, sample: Sample, ask: Ask) -> Choice:
        video = sample.video

        async def make() -> Choice:
            return await choose(video.uid, video.num_frames, sample.query, ask, self.options.plan)

        return await self.choices.get((video.uid, sample.query, ask.version), make)

    @property
    def masks_by(self) -> MaskMaker:
        return "segmenter" if self.options.iou_source == "mask" else ""

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """R = (think + answer format + accuracy + negative + non-repeat) x s for each episode.

        VisionReasoner's sum, with the negative points of VideoSeg-R1 and the factor s of its Eq. 7 and 8. Only strict
        JSON earns, as published; an answer cut off by its budget earns for not repeating itself alone.
        No target: the empty list earns full format and accuracy, objects earn no accuracy. A video that has a target
        which the target frame does not show gives no accuracy to anything: "nothing" would be the wrong answer.
        With iou_source = "mask" an object's IoU is that of the segmenter's mask of it.
        """
        assert episodes
        assert all(e.end is not End.FAILED and e.sample_uid == sample.uid for e in episodes)
        assert masks is not None or not self.masks_by, "this reward is computed from masks"
        made = {} if masks is None else _by_prompt(episodes, masks)
        said_G = [e.turns[-1].text if e.turns[-1].complete else "" for e in episodes]
        answers_G = [strict_answer(text) for text in said_G]
        think_G = think_format(said_G) * self.options.think
        format_G = answer_format(answers_G, self.options.lengths)
        accuracy_G = torch.zeros(len(episodes)).double()
        negative_G = torch.zeros_like(accuracy_G)
        if not sample.targets:
            right_G = torch.tensor([answer == [] for answer in answers_G])
            format_G = torch.where(right_G, float(len(self.options.lengths)), format_G)
            accuracy_G = torch.where(right_G, self._most_accuracy, 0.0).double()
        else:
            for frame in {e.answer.keyframe for e in episodes}:
                assert frame is not None
                rows = [g for g, e in enumerate(episodes) if e.answer.keyframe == frame]
                worth = self._seg_rewards(sample, frame, [answers_G[g] for g in rows], made)
                accuracy_G[rows], negative_G[rows] = worth
        repeat_G = non_repeat([e.turns[-1].text for e in episodes])
        length_G = self._lengths(sample, episodes)
        parts_6G = torch.stack([think_G, format_G, accuracy_G, negative_G, repeat_G, length_G])
        total_G = parts_6G[:5].sum(dim=0) * length_G
        columns = zip(total_G.tolist(), parts_6G.T.tolist(), strict=True)
        return [Reward(total, dict(zip(PARTS, parts, strict=True))) for total, parts in columns]

    def demonstrate(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[tuple[Content, str], ...]:
        """A dialogue that answers right: what the user says, what to answer.

        The target frame is chosen as training chooses it, unless the hints give it. The thought comes from the notes
        too (`thought`; `description` or `names`), else from the query. Without a target the answer is the empty list.
        Raises ValueError for a sample whose targets are in no frame.
        """
        choice = _hint(sample) or self._any_choice(sample, rng)
        truth = self._truth(sample, choice.frame)
        rows = [self._spell(truth, i, rng) for i in range(len(truth.boxes_N4))]
        text = f"<answer>{json.dumps(rows, separators=(',', ':'))}</answer>"
        if self.options.think:
            names = sample.notes.names or [sample.query.removeprefix("the ")]
            described = sample.notes.description or " and ".join(names)
            thought = plain(sample.notes.thought or f"{sample.query}: {described}")
            text = f"<think>{thought}</think>{text}"
        return ((self.ask_objects(sample.query, sample.video.num_frames, choice), text),)

    def ask_objects(self, query: str, num_frames: int, choice: Choice) -> Content:
        """What the user says: frames of the part, then of the whole video, then the target frame, then the task.

        No frame is shown twice: of a video of one frame only the target is left. The short form mixes part and whole
        in the order of time.
        """
        options = self.options
        short = self.options.prompt == "short"
        key = [
            choice.start + f for f in uniform_frames(choice.stop - choice.start, options.key_frames)
        ]
        key = [f for f in key if f != choice.frame]
        whole = (
            uniform_frames(num_frames, options.reference_frames) if options.reference_frames else []
        )
        whole = [f for f in whole if f != choice.frame and f not in key]
        target = View(choice.frame, *options.target_hw)
        content: Content = []
        if short:
            for frame in sorted((*key, *whole)):
                content += [f"{frame}", View(frame, options.frame_height, options.frame_width)]
            verb = " Find" if options.think else "Locate"
            return [*content, f"{choice.frame}", target, f"{verb} {query}{SHORT[options.answer]}."]
        for title, frames in (
            ("The part of the video that matters:", key),
            ("The whole video:", whole),
        ):
            content += [title] if frames else []
            for frame in frames:
                content += [
                    f"Frame {frame}:",
                    View(frame, options.frame_height, options.frame_width),
                ]
        return [*content, f"The target frame, frame {choice.frame}:", target, _task(query, options)]

    def _any_choice(self, sample: Sample, rng: np.random.Generator) -> Choice:
        visible = self._visible(sample)
        if not len(visible):
            raise ValueError(
                f"sample {sample.uid!r}: its targets are in none of the {sample.video.num_frames} frames"
            )
        frame = int(rng.choice(visible))
        start, stop = _window(sample.video.num_frames, frame, rng)
        return Choice(start, stop, frame)

    def _visible(self, sample: Sample) -> np.ndarray:
        """The frames of which training may take one as the target frame: none where the targets are never seen."""
        if not sample.targets:
            return np.arange(sample.video.num_frames)
        areas_F = np.zeros(sample.video.num_frames, dtype=np.int64)
        for target in sample.targets:  # overlaps count twice: only the order matters
            areas_F += np.array([0 if rle is None else area(rle) for rle in target.masks_F])
        visible = np.flatnonzero(areas_F)
        if self.options.training_frame == "largest":
            return visible[np.argsort(-areas_F[visible], kind="stable")][:LARGEST]
        return visible

    def _truth(self, sample: Sample, frame: int) -> Truth:
        """The targets that `frame` shows. Boxes and points go to the target image as VisionReasoner's data does it."""
        (height, width) = _size(sample)
        (to_height, to_width) = self.options.target_hw
        rles = [t.masks_F[frame] for t in sample.targets]
        there = [rle for rle in rles if rle is not None and area(rle)][:MAX_OBJECTS]
        own_NWH = np.array([decode(rle).T for rle in there], dtype=bool).reshape(
            len(there), width, height
        )
        own_NHW = own_NWH.transpose(
            0, 2, 1
        )  # decoded masks lie by columns: copied as they lie, 20 times as fast
        boxes_N4 = np.zeros((len(there), 4))
        points_N2 = np.zeros((len(there), 2))
        for i, rle in enumerate(there):
            x0, y0, x1, y1 = box(rle)
            x, y = inner_point(own_NHW[i])
            corners = ((x0, y0), (x1 - 1, y1 - 1), (x, y))
            scaled = [
                (scale_pixel(a, width, to_width), scale_pixel(b, height, to_height))
                for a, b in corners
            ]
            boxes_N4[i] = (*scaled[0], *scaled[1])
            points_N2[i] = scaled[2]
        return Truth(boxes_N4, points_N2, np.asarray(own_NHW.any(axis=0)), own_NHW)

    def _seg_rewards(
        self,
        sample: Sample,
        frame: int,
        answers_G: Sequence[Any],
        made: Mapping[MaskPrompt, np.ndarray | None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Accuracy and negative-point reward of answers about one frame."""
        options = self.options
        truth = self._truth(sample, frame)
        zeros_G = torch.zeros(len(answers_G), dtype=torch.float64)
        if not len(truth.boxes_N4):
            return zeros_G, zeros_G
        read_G = [
            coordinates(answer, options.wants_box, options.wants_point) for answer in answers_G
        ]
        counts_G = [len(rows) for rows in read_G]
        rows_R6 = _table([row for rows in read_G for row in rows], 6)
        boxes_R4 = rows_R6[:, :4]
        points_R2 = rows_R6[:, 4:]
        limits = Thresholds(
            options.iou_threshold, options.box_l1_threshold, options.point_threshold
        )
        iou_RN = None
        if self.masks_by:
            counted = [answer for answer, rows in zip(answers_G, read_G, strict=True) if rows]
            prompts = [
                self._prompt(sample, frame, o) for answer in counted for o in rows_as_read(answer)
            ]
            iou_RN = mask_iou_table(
                [made[p] if p else None for p in prompts], torch.tensor(truth.own_NHW)
            )
        scores_RN = pair_scores(
            boxes_R4 if options.wants_box else None,
            points_R2 if options.wants_point else None,
            _table(truth.boxes_N4.tolist(), 4),
            _table(truth.points_N2.tolist(), 2),
            limits,
            iou_RN,
        )
        off_G = [negatives(answer) if options.wants_negative else [] for answer in answers_G]
        accuracy_G = matched_mean(scores_RN, counts_G)
        if not any(off_G):
            return accuracy_G, zeros_G
        union_HW = torch.from_numpy(resize_mask(truth.union_HW, options.target_hw))
        points = _table([point for points in off_G for point in points], 2)
        counts = [len(points) for points in off_G]
        return accuracy_G, negative_points(
            points, counts, taxicab_distance(union_HW), options.negative_limit
        )

    @property
    def _most_accuracy(self) -> float:
        return 2.0 * self.options.wants_box + 1.0 * self.options.wants_point

    def _lengths(self, sample: Sample, episodes: Sequence[Episode]) -> torch.Tensor:
        used_G = torch.tensor([float(e.answer.reasoning_tokens or 0) for e in episodes])
        if self.options.length_penalty == "none" or not self.options.think:
            return torch.ones(len(episodes), dtype=torch.float64)
        budget = self.options.budget.of(difficulty(sample))
        return soft_length(
            used_G, budget, self.options.length_beta, clamp=self.options.length_penalty == "clamped"
        )

    def _prompt(self, sample: Sample, frame: int, found: Mapping[str, Any]) -> MaskPrompt | None:
        """What a segmenter is given for one object, in pixels of the video; None where nothing usable is left."""
        (height, width) = _size(sample)
        (of_height, of_width) = self.options.target_hw
        sx = width / of_width
        sy = height / of_height
        at = None
        if found["box"] is not None:
            x0, y0, x1, y1 = found["box"]
            corners = (x0 * sx, y0 * sy, x1 * sx + 1, y1 * sy + 1)  # x1 and y1 were inside
            a, b, c, d = (
                min(max(v, 0.0), float(end))
                for v, end in zip(corners, (width, height) * 2, strict=True)
            )
            at = (a, b, c, d) if x1 >= x0 and y1 >= y0 and c > a and d > b else None
        marked = [(found["point"], 1), *((p, 0) for p in found["negatives"])]
        inside = [(p, k) for p, k in marked if p and 0 <= p[0] < of_width and 0 <= p[1] < of_height]
        if at is None and not any(k for _, k in inside):
            return None
        points = tuple((x * sx, y * sy) for (x, y), _ in inside)
        return MaskPrompt(frame, at, points, tuple(k for _, k in inside))

    def _spell(self, truth: Truth, i: int, rng: np.random.Generator) -> dict[str, list[int]]:
        """Object i of the truth as an answer lists it."""
        hw = self.options.target_hw
        row = dict[str, list[int]]()
        if self.options.wants_box:
            row["bbox_2d"] = [int(x) for x in truth.boxes_N4[i]]
        if self.options.wants_point:
            row["point_2d"] = [int(x) for x in truth.points_N2[i]]
        if self.options.wants_negative:
            own_HW = resize_mask(truth.own_NHW[i], hw)
            union_HW = resize_mask(truth.union_HW, hw)
            beside = point_beside(own_HW, union_HW, self.options.negative_limit, rng)
            row |= {"neg_point_2d": list(beside)} if beside else {}
        return row


def difficulty(sample: Sample) -> float:
    """Return D of a sample, from 1 to 10: the mean of its ratings, or D as the data set gives it, or 5.5.

    Raises:
        ValueError: The data set gives something else.
    """
    notes = sample.notes
    if notes.ratings is not None:
        return mean_rating(notes.ratings)
    note = UNRATED if notes.difficulty is None else notes.difficulty
    if isinstance(note, bool) or not isinstance(note, int | float) or not 1 <= note <= 10:
        raise ValueError(
            f"sample {sample.uid!r}: difficulty = {note!r}: expected a number from 1 to 10"
        )
    return float(note)


def _by_prompt(
    episodes: Sequence[Episode], masks: EpisodeMasks
) -> dict[MaskPrompt, np.ndarray | None]:
    pairs = zip(episodes, masks, strict=True)
    return {
        p: mask for e, several in pairs for p, mask in zip(e.answer.prompts, several, strict=True)
    }


def _table(rows: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    return torch.from_numpy(np.array(rows, dtype=np.float64).reshape(-1, width))


def _hint(sample: Sample) -> Choice | None:
    """The choice that the sample's hints give, if they do."""
    if sample.hints is None:
        return None
    start, stop = sample.hints.key_segment or (0, sample.video.num_frames)
    return Choice(start, stop, sample.hints.target_frame)


def _window(num_frames: int, frame: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random part of 10 to 50 % of the video that holds `frame`, [start, stop)."""
    length = max(round(num_frames * rng.uniform(0.1, 0.5)), 1)
    start = int(rng.integers(max(frame - length + 1, 0), min(frame, num_frames - length) + 1))
    return start, start + length


def _size(sample: Sample) -> tuple[int, int]:
    return sample.video.height, sample.video.width


def _task(query: str, options: VideoSegR1Options) -> str:
    """The full prompt after the frames."""
    height, width = options.target_hw
    rows = [
        {"bbox_2d": [104, 88, 331, 420], "point_2d": [210, 260], "neg_point_2d": [350, 262]},
        {"bbox_2d": [512, 97, 640, 404], "point_2d": [575, 251], "neg_point_2d": [575, 420]},
    ]
    example = json.dumps([{key: row[key] for key in options.lengths} for row in rows])
    keys = {
        "bbox_2d": '"bbox_2d", the box [x1, y1, x2, y2] around it',
        "point_2d": '"point_2d", a point [x, y] in its middle',
        "neg_point_2d": '"neg_point_2d", a point [x, y] close to it that belongs to none of the objects',
    }
    wanted = "; ".join(keys[key] for key in options.lengths)
    think = (
        "Reason first, briefly: what the words ask for, what the frames show, which objects could be meant and what "
        "tells them apart. Write your reasoning between <think> and </think>, then the result between <answer> and "
        "</answer>"
        if options.think
        else "Do not explain. Write the result between <answer> and </answer>"
    )
    return (
        f'\nFind in the target frame every object that this refers to: "{query}".\n{think}: a JSON list with an entry '
        f"for each object, in pixels of the target frame ({width} x {height}): {wanted}. If there is no such object, "
        "the list is empty. For example:\n"
        f"{'<think>reasoning</think>' if options.think else ''}<answer>{example}</answer>"
    )

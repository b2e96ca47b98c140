"""VideoSEG-O3: segmentation of a video by looking again, coarse to fine, with masks that the policy draws itself.

Turn 1 sees small frames of the whole video and a few larger ones. It thinks, and either selects a part and a keyframe,
of which the next turn sees more, or answers with a part and a keyframe. Every turn writes [SEG]: a decoder makes masks
of the hidden state there, after the episode, for the reward and for the result. Facts and numbers are those of the
released code (SPEC A.3 and B.4), the prompts are ours; "ours" marks what else is.

This file knows no engine, no decoder and no process: the policy is `ask`, the ground truth is the sample's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from core.masks import area, boxes_areas, union_of_targets
from core.parsing import plain
from core.types import (
    Answer,
    Ask,
    End,
    Episode,
    EpisodeMasks,
    Reward,
    Sample,
    SegPrompt,
    Turn,
    View,
    Vision,
)
from systems.base import DEFAULT_VISION, BaseSystem
from systems.videoseg_o3.answers import Reading, read_turn
from systems.videoseg_o3.options import MASKED, VideoSegO3Options, fit, spread
from systems.videoseg_o3.score import mask_parts, text_parts
from systems.videoseg_o3.traces import SEG, Look, plan_search, write_search

Content = list[str | View]


@runtime_checkable
class TokenIds(Protocol):
    """A policy that tells the id of one of its tokens; None for a text that is not a token of its own."""

    def id_of(self, token: str) -> int | None: ...


@dataclass(frozen=True)
class Round:
    """A turn, what was read in it, and the frame on which its mask is made."""

    turn: Turn
    reading: Reading
    frame: int


class VideoSegO3(BaseSystem[VideoSegO3Options]):
    """The system: how an episode is played, what it is worth, and what a perfect one looks like."""

    name: str = "videoseg_o3"
    schema = VideoSegO3Options

    def __init__(
        self, options: VideoSegO3Options | None = None, vision: Vision = DEFAULT_VISION
    ) -> None:
        super().__init__(options, vision)
        self.options.check_pixels(vision)

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """One episode: turns that select, until one does not, not readably, or is the last.

        Facts of the answer: `rounds`, what each turn selects or answers (part [start, stop) and keyframe) and on which
        `frame` its mask is made; `spatial`, the frames that all turns' masks are judged on besides. The answer's
        keyframe is where tracking starts. Its `segs` are empty for a policy that does not tell the id of [SEG].
        """
        content = self.ask_first(sample)
        turns = list[Turn]()
        while True:
            turns.append(await ask(content, max_tokens=self.options.frames.max_tokens))
            select = self._reading(sample, turns[-1]).select
            if select is None or len(turns) == self.options.max_turns:
                break
            content = self.ask_more(sample, select, last=len(turns) == self.options.max_turns - 1)
        return self.episode(sample, turns, ask.id_of(SEG) if isinstance(ask, TokenIds) else None)

    def episode(self, sample: Sample, turns: Sequence[Turn], seg_id: int | None) -> Episode:
        """What these turns come to: those of `play`, or of a demonstration, whose [SEG] are to be learnt as well.

        `seg_id`: of the [SEG] token; without it there are no `segs`.
        """
        rounds = list[Round]()
        asked_for = sample.video.num_frames // 2
        for turn in turns:
            reading = self._reading(sample, turn)
            rounds.append(Round(turn, reading, self._mask_frame(reading, asked_for)))
            asked_for = reading.select.keyframe if reading.select else asked_for
        last = rounds[-1]
        final = self._final_frame(sample, rounds)
        facts = {
            "rounds": [_row(r) for r in rounds],
            "spatial": self.spatial(sample),
        }
        done = last.reading.look is not None and SEG in _said(last.turn)
        end = End.DONE if done else End.UNREADABLE if last.turn.complete else End.TRUNCATED
        segs = self._segs(sample, rounds, seg_id, final) if seg_id is not None else ()
        return Episode(sample.uid, tuple(turns), end, Answer((), facts, segs, keyframe=final))

    @property
    def masks_by(self) -> Literal["", "policy"]:
        weights = self.options.all_weights
        return "policy" if any(weights[name] for name in MASKED) else ""

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]:
        """The weighted sum of the parts, for each episode; "tiou" is the true tIoU, reported and by default not paid.

        The truth is the union of all targets. How turns and masks are read: `systems.videoseg_o3.score`.

        Raises:
            ValueError: parts that need masks have a weight, but there are none.
        """
        assert episodes
        assert all(e.end is not End.FAILED and e.sample_uid == sample.uid for e in episodes)
        options = self.options
        weights = self.options.all_weights
        rles_F = union_of_targets(sample)
        visible_F = torch.tensor([rle is not None and area(rle) > 0 for rle in rles_F])
        said_GT = [[_said(turn) for turn in e.turns] for e in episodes]
        parts = text_parts(said_GT, visible_F, options.rewards, options.bare_json)
        if masks is not None:
            parts |= mask_parts(episodes, masks, rles_F, visible_F, options.rewards)
        elif paid := [name for name in MASKED if weights[name]]:
            raise ValueError(
                f"the rewards {', '.join(paid)} need masks, and there are none: give their system.options.weights 0, "
                "or run with a policy that has a mask head"
            )
        rows = torch.stack(list(parts.values()), dim=1).tolist()
        named = [dict(zip(parts, row, strict=True)) for row in rows]
        return [
            Reward(sum(weights[name] * worth for name, worth in row.items()), row) for row in named
        ]

    def demonstrate(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[tuple[Content, str], ...]:
        """A dialogue that answers right: for each turn what the user says and what to answer, all of them to learn.

        The dialogue of the data where the sample's notes have one (VTS-CoT), else a coarse-to-fine search of 1 to
        `max_turns` turns from the truth, with thoughts of `sample.notes` (`thought`; `description` or `names`).
        Raises ValueError for a sample whose targets are in no frame, and for a trace that this system cannot play.
        """
        conversations = sample.notes.conversations
        if conversations is not None:
            texts = [turn["value"] for turn in conversations if turn["from"] == "gpt"]
            return self._dialogue(sample, texts)
        looks = plan_search(
            boxes_areas(sample)[1], int(rng.integers(1, self.options.max_turns + 1)), rng
        )
        names = sample.notes.names or [sample.query.removeprefix("the ")]
        described = plain(sample.notes.description or " and ".join(names))
        thought = plain(sample.notes.thought or sample.query)
        return self._dialogue(sample, write_search(looks, described, thought))

    def ask_first(self, sample: Sample) -> Content:
        """What the user says in turn 1: small frames of the whole video, a few larger ones, the task."""
        budget = self.options.frames
        options = self.options
        video = sample.video
        temporal = spread(video.num_frames, budget.temporal_frames)
        content = self._show(sample, "The whole video, small:", temporal, budget.temporal_pixels)
        content += self._show(
            sample, "Some of its frames, larger:", self.spatial(sample), budget.spatial_pixels
        )
        if options.prompt == "short":
            return [*content, f" Find {sample.query}."]
        return [*content, _task(sample.query, video.num_frames, options.max_turns > 1)]

    def ask_more(self, sample: Sample, look: Look, last: bool) -> Content:
        """What the user says in a later turn: frames of the part that was asked for, its keyframe, large, the task."""
        budget = self.options.frames
        part = [look.start + f for f in spread(look.stop - look.start, budget.round_frames)]
        content = self._show(
            sample, f"Frames {look.start} to {look.stop - 1}:", part, budget.temporal_pixels
        )
        content += self._show(sample, "The keyframe:", [look.keyframe], budget.key_pixels)
        if self.options.prompt == "short":
            return [*content, f" {'Answer' if last else 'Find'} {sample.query}."]
        then = (
            "Now answer."
            if last
            else "Select another part and keyframe if it is still unclear, or answer."
        )
        return [
            *content,
            f'\nThe expression is "{sample.query}". {then} Think first, in the same form as before.',
        ]

    def spatial(self, sample: Sample) -> list[int]:
        """The frames that turn 1 shows larger, and that masks are judged on; VTS-CoT names them."""
        published = sample.notes.sample_frame_indice
        if published is not None:
            return list(dict.fromkeys(published))
        return spread(sample.video.num_frames, self.options.frames.spatial_frames)

    def _show(self, sample: Sample, title: str, frames: Sequence[int], pixels: int) -> Content:
        """Frames after their numbers."""
        short = self.options.prompt == "short"
        hw = fit(sample.video.height, sample.video.width, pixels, self.vision.cell)
        content: Content = [] if short else [title]
        for frame in frames:
            content += [f"{frame}" if short else f"Frame {frame}:", View(frame, *hw)]
        return content

    def _reading(self, sample: Sample, turn: Turn) -> Reading:
        return read_turn(_said(turn), sample.video.num_frames, self.options.bare_json)

    def _mask_frame(self, reading: Reading, asked_for: int) -> int:
        own = reading.look if self.options.keyframe_rule == "own" else None
        return own.keyframe if own else asked_for

    def _final_frame(self, sample: Sample, rounds: Sequence[Round]) -> int:
        """Where tracking starts.

        as_released: the keyframe of the last <select>, followed or not, else the answer's, else the middle of the
        frames of turn 1. own: the frame of the last turn's mask.
        """
        if self.options.keyframe_rule == "own":
            return rounds[-1].frame
        selected = [r.reading.select.keyframe for r in rounds if r.reading.select is not None]
        if selected:
            return selected[-1]
        answer = rounds[-1].reading.answer
        spatial = self.spatial(sample)
        return answer.keyframe if answer else spatial[len(spatial) // 2]

    def _segs(
        self, sample: Sample, rounds: Sequence[Round], seg_id: int, final: int
    ) -> tuple[SegPrompt, ...]:
        """Each [SEG] on its turn's frame and on the larger frames of turn 1, and the last turn's last one where
        tracking starts. A turn that was cut off draws nothing (ours).
        """
        segs: list[SegPrompt] = []
        for t, r in enumerate(rounds):
            ids = r.turn.completion_ids if r.turn.complete else ()
            places = [i for i, token in enumerate(ids) if token == seg_id][
                -self.options.segs_per_turn :
            ]
            for place in places:
                segs.append(SegPrompt(t, place, r.frame))
                segs += [SegPrompt(t, place, frame, "video") for frame in self.spatial(sample)]
            if t == len(rounds) - 1 and places:
                segs.append(SegPrompt(t, places[-1], final, "final"))
        return tuple(segs)

    def _dialogue(self, sample: Sample, texts: Sequence[str]) -> tuple[tuple[Content, str], ...]:
        """The user's side of a dialogue whose answers are given."""
        most = self.options.max_turns
        if not 1 <= len(texts) <= most:
            raise ValueError(
                f"sample {sample.uid!r}: a dialogue of {len(texts)} turns; max_turns is {most}"
            )
        turns = [(self.ask_first(sample), texts[0])]
        for t, (before, text) in enumerate(itertools.pairwise(texts), start=2):
            look = read_turn(before, sample.video.num_frames).select
            if look is None:
                raise ValueError(
                    f"sample {sample.uid!r}: turn {t - 1} selects nothing readable: {before[-200:]!r}"
                )
            turns.append((self.ask_more(sample, look, last=t == most), text))
        return tuple(turns)


def _said(turn: Turn) -> str:
    """What a turn says; one that was cut off by its token budget says nothing (ours)."""
    return turn.text if turn.complete else ""


def _row(r: Round) -> dict[str, Any]:
    look = r.reading.select or r.reading.answer
    action = "select" if r.reading.select else "answer" if r.reading.answer else None
    where = {"start": look.start, "stop": look.stop, "keyframe": look.keyframe} if look else {}
    return {"action": action, "frame": r.frame} | where


def _task(query: str, num_frames: int, may_select: bool) -> str:
    """The full prompt of turn 1 after the frames."""
    body = '<VTG>{"start": 12, "end": 30, "keyframe": 21}</VTG><RefSeg>[SEG]</RefSeg>'
    more = (
        "If these frames leave it unclear, ask for others: the first and the last frame of the part you need to see, "
        f"and in it one keyframe to be shown large, as\n<select>{body}</select>\n"
        "Give the mask as far as you can tell it in this case too. Once you are sure, answer in the same form, as\n"
        if may_select
        else "Answer as\n"
    )
    return (
        f'\nThe video has {num_frames} frames, numbered 0 to {num_frames - 1}. Which object is "{query}"? Find the '
        "part of the video in which it is to be seen, a keyframe that shows it well, and its mask.\n"
        "Think between <think> and </think>, in four parts that you name: Step 1, what happens when; Step 2, what is "
        "where and what it looks like; Step 3, what the words ask for and which object fits; Action, whether to look "
        f"again or to answer.\n{more}<answer>{body}</answer>"
    )

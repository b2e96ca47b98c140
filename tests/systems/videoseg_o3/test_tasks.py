"""Demonstrations of other tasks than finding targets: questions, spans, captions with masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.drawing import mask_targets
from configs.schema import MaskConfig
from core.types import End, Episode, Sample, Turn, View
from data.load import load_samples
from systems.base import Demonstration
from systems.revseg import ReVSeg
from systems.videoseg_o3 import VideoSegO3
from tests.data.fixture_places_tasks import PARTS

SEG_ID = 7


def only_sample(part: str, root: Path) -> Sample:
    PARTS[part](root)
    return load_samples("o3_sft", str(root), part)[0]


def shown(dialogue: Demonstration) -> list[View]:
    return [piece for piece in dialogue[0][0] if isinstance(piece, View)]


def words(dialogue: Demonstration) -> str:
    return "".join(piece for piece in dialogue[0][0] if isinstance(piece, str))


def demonstrated(sample: Sample) -> Demonstration:
    return VideoSegO3().demonstrate(sample, np.random.default_rng(0))


def test_a_dialogue_of_questions(tmp_path: Path) -> None:
    dialogue = demonstrated(only_sample("video_qa", tmp_path))
    assert [view.frame for view in shown(dialogue)] == [0, 1, 2, 3]
    assert words(dialogue) == "\nWhat happens?"
    assert [answer for _, answer in dialogue] == ["A dog jumps.", "It is glad."]
    # Frames are shown once.
    assert dialogue[1][0] == ["Why?"]


def test_the_span_of_an_event(tmp_path: Path) -> None:
    dialogue = demonstrated(only_sample("vtg", tmp_path))
    [(_, answer)] = dialogue
    assert answer == '{"start_frame": 2, "end_frame": 7}'
    frames = [view.frame for view in shown(dialogue)]
    assert len(frames) == 10
    assert all(f"Frame {frame}:" in words(dialogue) for frame in frames)
    assert (
        '12 frames, numbered 0 to 11. In which frames does this happen: "the dog jumps"?'
        in words(dialogue)
    )


def turn_of(answer: str) -> Turn:
    """A completion in words, with an id of its own for [SEG]."""
    ids = tuple(SEG_ID if word.startswith("[SEG]") else 1 for word in answer.split(" "))
    return Turn((), ids, (), answer, (), True, 0)


def test_each_mask_of_a_caption_is_that_of_its_phrase(tmp_path: Path) -> None:
    sample = only_sample("gcg_grandf", tmp_path)
    [(_, answer)] = demonstrated(sample)
    assert answer == "<p> A man </p> [SEG] walks <p> a dog </p> [SEG]."
    episode = VideoSegO3().episode(sample, [turn_of(answer)], SEG_ID)
    assert episode.end is End.DONE
    assert [(seg.position, seg.frame, seg.target) for seg in episode.answer.segs] == [
        (4, 0, 0),
        (10, 0, 1),
    ]
    batch = mask_targets([sample], [[episode]], None, MaskConfig(loss=1.0))
    assert batch is not None
    truths = [request.truth for request in batch.requests]
    assert truths == [target.masks_F[0] for target in sample.targets]
    assert truths[0] != truths[1]


def test_a_batch_without_a_caption_draws_nothing(tmp_path: Path) -> None:
    sample = only_sample("video_qa", tmp_path)
    episode: Episode = VideoSegO3().episode(sample, [turn_of("A dog jumps.")], SEG_ID)
    batch = mask_targets([sample], [[episode]], None, MaskConfig(loss=1.0))
    assert batch is not None
    assert batch.requests == ()


def test_tasks_of_the_systems(tmp_path: Path) -> None:
    assert VideoSegO3().tasks == ("qa", "vtg", "gcg")
    assert ReVSeg().tasks == ()


@pytest.mark.parametrize("part", ["gcg_refcocog", "gcg_flickr30k"])
def test_captions_of_other_files(part: str, tmp_path: Path) -> None:
    sample = only_sample(part, tmp_path)
    [(_, answer)] = demonstrated(sample)
    assert answer.count("[SEG]") == len(sample.targets) == 1
    # What a rollout may see says nothing of the task.
    assert replace(sample, notes=sample.bare.notes).notes.task == ""

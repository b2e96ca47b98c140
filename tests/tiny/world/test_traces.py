"""Synthetic search traces: read back by the reader of VTS-CoT, and the same twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.masks import boxes_areas
from core.types import End, Turn
from data.load import load_samples
from data.readers.vts_cot_and_o3_rl import read_vts_cot
from systems.videoseg_o3 import VideoSegO3
from tiny.world.traces import write_traces

FEW = {"seed": 5, "num_videos": 8, "expressions_per_video": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    assert write_traces(folder, **FEW) == len(read_vts_cot(folder, "mevis"))
    return folder


def items(root: Path) -> list[dict[str, Any]]:
    """The items of the file, as they are written."""
    written: list[dict[str, Any]] = json.loads((root / "VTS-CoT/mevis.json").read_text())
    return written


def test_the_real_reader_reads_them(root: Path) -> None:
    samples = load_samples("vts_cot", str(root), "mevis")
    assert 18 <= len(samples) <= 24
    assert all(sample.targets and sample.kind == "mevis" for sample in samples)
    rounds = set()
    for sample, item in zip(samples, items(root), strict=True):
        conversations = sample.notes.conversations
        assert conversations is not None
        areas_F = boxes_areas(sample)[1]
        said = [turn["value"] for turn in conversations if turn["from"] == "gpt"]
        assert len(said) == item["round_num"] + 1 == len(item["cot_trace"]) + 1
        assert sample.notes.sample_frame_indice == tuple(item["sample_frame_indice"])
        assert len(item["sample_frame_indice"]) == 5
        assert all(areas_F[one["key_frame"]] for one in item["cot_trace"])
        assert all("<select>" in text for text in said[:-1])
        assert "<answer>" in said[-1]
        assert sample.query in conversations[1]["value"]
        rounds.add(len(said))
    assert rounds == {1, 2, 3}


def test_the_answer_names_the_frames_that_show_the_target(root: Path) -> None:
    for sample in read_vts_cot(root, "mevis"):
        visible = [frame for frame, area in enumerate(boxes_areas(sample)[1]) if area]
        assert sample.notes.conversations is not None
        said = sample.notes.conversations[-1]["value"]
        answer = json.loads(said.partition("<VTG>")[2].partition("</VTG>")[0])
        assert (answer["start"], answer["end"]) == (visible[0], visible[-1])
        assert answer["keyframe"] in visible


def test_the_same_arguments_make_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_traces(tmp_path, **FEW)
    for file in ("VTS-CoT/mevis.json", "video_datas/mevis/train/mask_dict.json"):
        assert (tmp_path / file).read_bytes() == (root / file).read_bytes()
    write_traces(tmp_path / "other", **FEW | {"seed": 6})
    assert (tmp_path / "other/VTS-CoT/mevis.json").read_bytes() != (
        root / "VTS-CoT/mevis.json"
    ).read_bytes()


def test_what_is_there_stays(root: Path) -> None:
    before = (root / "VTS-CoT/mevis.json").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        write_traces(root, **FEW)
    assert (root / "VTS-CoT/mevis.json").read_bytes() == before


def test_the_system_that_they_are_for_can_learn_every_turn_of_them(root: Path) -> None:
    system = VideoSegO3.make(
        {"budget": "cold_start", "rewards": "as_intended", "keyframe_rule": "own"}
    )
    samples = read_vts_cot(root, "mevis")
    for sample, item in zip(samples, items(root), strict=True):
        said = [turn["value"] for turn in item["conversations"] if turn["from"] == "gpt"]
        dialogue = system.demonstrate(sample, np.random.default_rng(0))
        assert [text for _, text in dialogue] == said
        turns = []
        for text in said:
            ids = (1, 7, 2)
            turn = Turn((), ids, (), text, (), complete=True, version=0)
            turns.append(turn)
        episode = system.episode(sample, turns, seg_id=7)
        drawn = [(seg.turn, seg.frame) for seg in episode.answer.segs if seg.role == "keyframe"]
        assert episode.end is End.DONE
        assert [t for t, _ in drawn] == list(range(len(said)))
        assert [frame for _, frame in drawn[:-1]] == [one["key_frame"] for one in item["cot_trace"]]
        spatial = item["sample_frame_indice"]
        assert [seg.frame for seg in episode.answer.segs if seg.role == "video"] == spatial * len(
            said
        )
        visible_F = boxes_areas(sample)[1] > 0
        masks = [np.full((4, 4), visible_F[seg.frame]) for seg in episode.answer.segs]
        (reward,) = system.score(sample, [episode], [masks])
        first, last = np.flatnonzero(visible_F)[[0, -1]]
        assert reward.parts["tiou"] == pytest.approx(visible_F.sum() / (last + 1 - first))
        assert (reward.parts["format"], reward.parts["steps"], reward.parts["keyframe"]) == (
            1,
            1,
            1,
        )

"""A system with hints, auxiliary questions and budgets by difficulty, on the common loop.

Its policy is the one shipped for another system: the answers are worth little here, and the loop is
the same.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.files import read_lines
from core.masks import area
from core.types import Sample
from data.load import load_samples
from ray_jobs.record.predictions import FILE
from tests.ray_jobs.conftest import EVALUATED, GROUP, PROMPTS, STEPS, Small, start_job, told

PRESET = """
policy: {path: tiny/weights/revseg}
system:
  name: videoseg_r1
  options: {
    key_frames: 3, reference_frames: 3, frame_height: 84, frame_width: 84,
    target_height: 112, target_width: 112, negative_limit: 6.0, max_tokens: 60,
    prompt: short, iou_source: mask, length_beta: 0.01,
    budget_easy: 1, budget_medium: 1, budget_hard: 90,
    difficulty_easy: 1.0, difficulty_medium: 2.0,
    sampler_samples: 2, sampler_frames: 4, sampler_rounds: 1, sampler_max_tokens: 8}
rollout: {max_model_len: 512, max_num_seqs: 16}
learner: {row_tokens: 2048}
"""
ASPECTS = (
    "scene_complexity",
    "segmentation_challenge",
    "temporal_ambiguity",
    "motion_complexity",
    "linguistic_ambiguity",
)


def write_ratings(folder: Path, samples: list[Sample], hard: set[str]) -> None:
    """Rate the sentences in `hard` with 10 in every aspect, and all others with 1."""
    rated = {}
    for sample in samples:
        rating = 10 if sample.uid in hard else 1
        rated[sample.uid] = {"query": sample.query, "ratings": dict.fromkeys(ASPECTS, rating)}
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps({"rater": "test", "prompt": 1, "samples": rated}))


def run(job: str, preset: Path, settings: list[str]) -> None:
    done = start_job(job, str(preset), *settings)
    assert done.returncode == 0, told(done)


def visible_areas(sample: Sample) -> np.ndarray:
    """Return the summed area of the targets on each frame, (F,)."""
    areas_F = np.zeros(sample.video.num_frames, int)
    for target in sample.targets:
        for frame, mask in enumerate(target.masks_F):
            if mask is not None:
                areas_F[frame] += area(mask)
    return areas_F


def check_episode(line: dict[str, Any], sample: Sample, hard: set[str]) -> None:
    """Training shows a frame with a large target, and pays by the budget of the sentence."""
    frame = line["facts"]["frame"]
    areas_F = visible_areas(sample)
    assert areas_F[frame]
    assert (areas_F > areas_F[frame]).sum() < 5
    assert len(line["turns"]) == 1

    budget = 90 if sample.uid in hard else 1
    over = max(line["facts"]["reasoning_tokens"] - budget, 0)
    assert line["parts"]["length"] == pytest.approx(1 - 0.01 * over)


@pytest.mark.slow
def test_hints_in_training_the_sampler_in_evaluation_and_budgets_by_difficulty(
    small: Small, tmp_path: Path
) -> None:
    preset = tmp_path / "second.yaml"
    preset.write_text(PRESET)
    samples = {sample.uid: sample for sample in load_samples("mevis", str(small.data), "train")}
    hard = set(list(samples)[::2])
    write_ratings(tmp_path / "ratings", list(samples.values()), hard)
    settings = [*small.settings("second"), "train.eval_every=0"]
    run("train", preset, [*settings, f"difficulty.folder={tmp_path / 'ratings'}"])
    folder = small.run("second").path

    lines = read_lines(folder / "episodes.jsonl")
    assert len(lines) == STEPS * PROMPTS * GROUP
    assert {line["end"] for line in lines} <= {"done", "unreadable"}
    for line in lines:
        check_episode(line, samples[line["sample"]], hard)
    lengths = {line["parts"]["length"] for line in lines}
    assert len(lengths) > 2, "no budget was ever exceeded: proves little"
    gaps = [line["logprob_gap_mean"] for line in read_lines(folder / "metrics.jsonl")]
    assert 0 < max(gaps) <= 1e-4

    hints = {}
    for uid, row in json.loads((folder / "hints" / "test.json").read_text()).items():
        hints[uid] = row["hints"]
        assert 0 <= row["hints"]["target_frame"] < 24
    assert len(hints) == EVALUATED

    # The initial policy was asked once, so both evaluations have its answers.
    for step in (0, STEPS):
        table = folder / "evaluation" / f"step_{step}" / "greedy" / "per_expression.csv"
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                facts = json.loads(row["answer"])
                hint = hints[row["uid"]]
                assert facts["frame"] == hint["target_frame"]
                assert facts["segment"] == hint["key_segment"]

    # One expression more than in training: the policy before training is asked about it.
    settings = [*small.settings("second"), f"policy.path={folder}", "evaluate.samples=5"]
    run("evaluate", preset, settings)
    predictions = {line["uid"]: line for line in read_lines(folder / "evaluate" / FILE)}
    for uid, hint in hints.items():
        assert trainable(predictions[uid]) == [True]
        assert predictions[uid]["answer"]["frame"] == hint["target_frame"]
    [new] = set(predictions) - set(hints)
    assert trainable(predictions[new]) == [True], "the trained policy does not choose its frames"
    answers = json.loads((folder / "evaluate" / "hints" / "test.json").read_text())
    assert set(answers) == {new}
    answer = predictions[new]["answer"]
    assert answer["frame"] == answers[new]["hints"]["target_frame"]
    assert answer["segment"] == answers[new]["hints"]["key_segment"]


def trainable(line: dict[str, Any]) -> list[bool]:
    return [turn["trainable"] for turn in line["turns"]]

"""A system that trains on hints, asks on the side and is paid by difficulty, on the loop of the first one.

The policy is the one that was shipped for another system: its answers are worth little here, and the loop is the same.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.load import REPOSITORY
from core.masks import area
from core.types import Sample
from data.load import load_samples
from ray_jobs.record.predictions import FILE
from tests.ray_jobs.conftest import (
    EVALUATED,
    GROUP,
    PROMPTS,
    STEPS,
    TIMEOUT_S,
    Small,
    environment,
    told,
)

PRESET = """
policy: {path: tiny/weights/revseg}
system:
  name: videoseg_r1
  options: {key_frames: 3, reference_frames: 3, frame_height: 84, frame_width: 84, target_height: 112,
    target_width: 112, negative_limit: 6.0, max_tokens: 60, prompt: short, iou_source: mask, budget_easy: 1,
    budget_medium: 1, budget_hard: 90, difficulty_easy: 1.0, difficulty_medium: 2.0, length_beta: 0.01,
    sampler_samples: 2, sampler_frames: 4, sampler_rounds: 1, sampler_max_tokens: 8}
rollout: {max_model_len: 512, max_num_seqs: 16}
learner: {row_tokens: 2048}
"""


def rate(folder: Path, samples: list[Sample], hard: set[str]) -> None:
    """A file of ratings: 10 in everything for the sentences `hard`, 1 for all others."""
    aspects = (
        "scene_complexity",
        "segmentation_challenge",
        "temporal_ambiguity",
        "motion_complexity",
        "linguistic_ambiguity",
    )
    rated = {
        s.uid: {"query": s.query, "ratings": dict.fromkeys(aspects, 10 if s.uid in hard else 1)}
        for s in samples
    }
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps({"rater": "test", "prompt": 1, "samples": rated}))


def run(job: str, preset: Path, settings: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"ray_jobs.{job}", str(preset), *settings],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, told(done)


@pytest.mark.slow
def test_hints_in_training_the_sampler_in_evaluation_and_budgets_by_difficulty(
    small: Small, tmp_path: Path
) -> None:
    preset = tmp_path / "second.yaml"
    preset.write_text(PRESET)
    samples = {s.uid: s for s in load_samples("mevis", str(small.data), "train")}
    hard = set(list(samples)[::2])
    rate(tmp_path / "ratings", list(samples.values()), hard)
    settings = [*small.settings("second"), "learner.world_size=1", "train.eval_every=0"]
    run("train", preset, [*settings, f"difficulty.folder={tmp_path / 'ratings'}"])
    folder = small.run("second").path

    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS * PROMPTS * GROUP
    assert {line["end"] for line in lines} <= {"done", "unreadable"}
    for line in lines:
        frame = line["facts"]["frame"]
        sample = samples[line["sample"]]
        areas_F = np.sum(
            [[0 if m is None else area(m) for m in t.masks_F] for t in sample.targets], axis=0
        )
        assert areas_F[frame]
        assert (areas_F > areas_F[frame]).sum() < 5
        assert len(line["turns"]) == 1
        budget = 90 if line["sample"] in hard else 1
        over = max(line["facts"]["reasoning_tokens"] - budget, 0)
        assert line["parts"]["length"] == pytest.approx(1 - 0.01 * over)
    assert len({line["parts"]["length"] for line in lines}) > 2, (
        "no budget was ever exceeded: proves little"
    )
    gaps = [
        json.loads(line)["logprob_gap_mean"]
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert 0 < max(gaps) <= 1e-4

    hints = {
        uid: row["hints"]
        for uid, row in json.loads((folder / "hints" / "test.json").read_text()).items()
    }
    assert len(hints) == EVALUATED
    assert all(0 <= hint["target_frame"] < 24 for hint in hints.values())
    for step in (0, STEPS):  # asked once, by the weights that the run started from
        with open(
            folder / "evaluation" / f"step_{step}" / "greedy" / "per_expression.csv", newline=""
        ) as table:
            for row in csv.DictReader(table):
                facts = json.loads(row["answer"])
                hint = hints[row["uid"]]
                assert (facts["frame"], facts["segment"]) == (
                    hint["target_frame"],
                    hint["key_segment"],
                )

    run(
        "evaluate",
        preset,
        [*small.settings("second"), f"policy.path={folder}", "evaluate.samples=5"],
    )
    lines = {
        line["uid"]: line
        for line in map(json.loads, (folder / "evaluate" / FILE).read_text().splitlines())
    }
    asides = {uid: [turn["trainable"] for turn in line["turns"]] for uid, line in lines.items()}
    assert all(
        asides[uid] == [True] and lines[uid]["answer"]["frame"] == hints[uid]["target_frame"]
        for uid in hints
    )
    [new] = set(asides) - set(hints)
    assert asides[new] == [False] * 4 + [True], (
        "what nobody was asked before the policy is asked itself"
    )

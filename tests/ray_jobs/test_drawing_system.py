"""A system with a drawing policy, on the common loop: warm start, training, and the jobs after it.

The warm start begins with the policy shipped for another system, training with the one for this.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from core.files import read_lines
from models.policy import mask_head
from ray_jobs.record import checkpoint
from ray_jobs.record.predictions import FILE, episode_of
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.conftest import GROUP, PROMPTS, STEPS, Small, start_job, told

# The policy of another system, with its sizes.
OTHER = [
    "policy.path=tiny/weights/revseg",
    "system.options.temporal_pixels=7056",
    "system.options.spatial_pixels=7056",
    "system.options.key_pixels=12544",
    "system.options.max_tokens=40",
    "rollout.max_model_len=1024",
    "rollout.max_num_seqs=16",
    "segmenter.path=tiny/weights/segmenter",
]
WARM_STEPS = 6


def run(job: str, *settings: str) -> str:
    done = start_job(job, *settings)
    assert done.returncode == 0, told(done)
    return done.stdout


@pytest.mark.slow
def test_a_warm_start_adds_token_and_head_and_teaches_both(small: Small, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    settings = [
        *small.settings("drawn_warm"),
        *OTHER,
        f"warm_start.output={policy}",
        f"warm_start.steps={WARM_STEPS}",
        "warm_start.batch_size=6",
        "learner.world_size=1",
        "learner.lr=1e-3",
    ]
    run("warm_start", "videoseg_o3_tiny", *settings)
    steps = RunFolder(small.run("drawn_warm").path / "warm_start").steps()
    assert len(steps) == WARM_STEPS
    for line in steps:
        assert math.isfinite(line["loss"])
        assert line["grad_norm"] > 0
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert 0 < steps[-1]["mask_loss"] < steps[0]["mask_loss"]

    tokenizer = AutoTokenizer.from_pretrained(policy)
    token = tokenizer("[SEG]", add_special_tokens=False, split_special_tokens=True)
    assert len(token["input_ids"]) == 1
    head = {file.name for file in (policy / mask_head.FOLDER).iterdir()}
    assert head == {"config.json", "model.safetensors"}
    assert AutoModelForImageTextToText.from_pretrained(policy).dtype == torch.float32


@pytest.mark.slow
def test_the_loop_with_drawn_masks_and_the_jobs_after_it(small: Small, tmp_path: Path) -> None:
    settings = ["videoseg_o3_tiny", *small.settings("drawn"), "train.eval_every=0"]
    run("train", *settings)
    folder = small.run("drawn")
    steps = folder.steps()
    episodes = folder.episodes()
    assert len(steps) == STEPS
    assert len(episodes) == STEPS * PROMPTS * GROUP
    for line in steps:
        for value in line.values():
            assert not isinstance(value, float) or math.isfinite(value)
        assert 0 < line["logprob_gap_mean"] <= 1e-4
        assert line["mask_loss"] > 0
        assert line["skipped_steps"] == 0
        assert line["ratio_min"] == line["ratio_max"] == 1.0
        assert line["turns"] > 1
        assert line["end/done"] > 0.8
        assert "mask" in line["seconds"]
    mask_rewards = [episode["parts"]["mask"] for episode in episodes]
    assert max(mask_rewards) > 0, "no mask was drawn: proves little"

    heads = []
    for step in (1, 2):
        policy = folder.checkpoints / f"step_{step}" / "policy"
        heads.append((policy / mask_head.FOLDER / "model.safetensors").read_bytes())
    assert heads[0] != heads[1]
    assert checkpoint.damage(folder.checkpoints / "step_2") == ""
    assert folder.summary() is not None

    run("evaluate", *settings, f"policy.path={folder.path}")
    lines = read_lines(folder.path / "evaluate" / FILE)
    drew = [line for line in lines if line["segs"]]
    assert drew
    for line in lines:
        assert not line["prompts"]
    for line in drew:
        roles = [seg["role"] for seg in line["segs"]]
        assert roles.count("final") == 1
        assert episode_of(line).answer.segs
        assert "mask" in line["parts"]

    clips = sorted((small.data / "test" / "JPEGImages").iterdir())
    out = tmp_path / "out"
    words = [str(clips[0]), "the red circle", "videoseg_o3_tiny", f"policy.path={folder.path}"]
    run("segment", *words, f"--out={out}")
    assert json.loads((out / "answer.json").read_text())["prompts"] == []
    assert len(json.loads((out / "masks.json").read_text())["masks"]) == 24

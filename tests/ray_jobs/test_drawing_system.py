"""A system with a drawing policy, on the common loop: warm start, training, and the jobs after it.

The warm start begins with the policy shipped for another system, training with the one for this.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

from core.files import read_lines
from models.policy import mask_head
from ray_jobs.record import checkpoint
from ray_jobs.record.predictions import FILE, episode_of
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.conftest import GROUP, PROMPTS, STEPS, Small, start_job, told
from tiny.world.scene import random_scene

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
    run("train", *settings, "learner.world_size=2", "train.eval_before=false")
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

    check_an_image(small, folder, tmp_path)


def check_an_image(small: Small, folder: RunFolder, tmp_path: Path) -> None:
    """The trained policy draws on an image; the files go to their default place."""
    image_HWC = random_scene(np.random.default_rng(3)).frames_FHWC[8].repeat(2, 0).repeat(2, 1)
    Image.fromarray(image_HWC).save(tmp_path / "shapes.png")
    # Another image with the same name in the same folder.
    Image.fromarray(image_HWC[::-1]).save(tmp_path / "shapes.jpg")
    words = [str(tmp_path / "shapes.png"), "the green triangle", "videoseg_o3_tiny"]
    run("segment", *words, f"policy.path={folder.path}", f"runs={small.home}/runs")
    out = small.home / "runs" / "segment" / "shapes"
    assert json.loads((out / "answer.json").read_text())["prompts"] == []
    masks = json.loads((out / "masks.json").read_text())
    assert (len(masks["masks"]), masks["height"], masks["width"]) == (1, 224, 224)
    with av.open(str(out / "overlay.mp4")) as file:
        picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(picture[5:440:4, 20:440:4].mean() - image_HWC.mean()) < 40

"""A system whose policy draws its masks itself, on the loop of the first one: warm start, training, the jobs after it.

The warm start begins with the policy that is shipped for another system, training with the one shipped for this.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from configs.load import REPOSITORY
from models.policy import mask_head
from ray_jobs.record import checkpoint
from ray_jobs.record.predictions import FILE, episode_of
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.conftest import GROUP, PROMPTS, STEPS, TIMEOUT_S, Small, environment, told

OTHER = [  # the policy of another system, with its sizes
    "policy.path=tiny/weights/revseg",
    "system.options.temporal_pixels=7056",
    "system.options.spatial_pixels=7056",
    "system.options.key_pixels=12544",
    "system.options.max_tokens=40",
    "rollout.max_model_len=1024",
    "rollout.max_num_seqs=16",
    "segmenter.path=tiny/weights/segmenter",
]
WARM = 6


def run(job: str, *settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"ray_jobs.{job}", *settings],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, told(done)
    return done.stdout


@pytest.mark.slow
def test_a_warm_start_adds_token_and_head_and_teaches_both(small: Small, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    settings = [
        *small.settings("drawn_warm"),
        *OTHER,
        f"warm_start.output={policy}",
        f"warm_start.steps={WARM}",
        "warm_start.batch_size=6",
        "learner.world_size=1",
        "learner.lr=1e-3",
    ]
    run("warm_start", "videoseg_o3_tiny", *settings)
    steps = RunFolder(small.run("drawn_warm").path / "warm_start").steps()
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in steps)
    assert len(steps) == WARM
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert 0 < steps[-1]["mask_loss"] < steps[0]["mask_loss"]
    tokenizer = AutoTokenizer.from_pretrained(policy)
    assert (
        len(tokenizer("[SEG]", add_special_tokens=False, split_special_tokens=True)["input_ids"])
        == 1
    )
    assert {f.name for f in (policy / mask_head.FOLDER).iterdir()} == {
        "config.json",
        "model.safetensors",
    }
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
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        assert 0 < line["logprob_gap_mean"] <= 1e-4
        assert line["mask_loss"] > 0
        assert line["skipped_steps"] == 0
        assert line["ratio_min"] == line["ratio_max"] == 1.0
        assert line["turns"] > 1
        assert line["end/done"] > 0.8
        assert "mask" in line["seconds"]
    assert any(episode["parts"]["mask"] > 0 for episode in episodes), (
        "no mask was drawn: proves little"
    )
    file = Path("policy") / mask_head.FOLDER / "model.safetensors"
    heads = [(folder.checkpoints / f"step_{step}" / file).read_bytes() for step in (1, 2)]
    assert heads[0] != heads[1]
    assert checkpoint.damage(folder.checkpoints / "step_2") == ""
    assert folder.summary() is not None

    run("evaluate", *settings, f"policy.path={folder.path}")
    lines = [
        json.loads(line) for line in (folder.path / "evaluate" / FILE).read_text().splitlines()
    ]
    drew = [line for line in lines if line["segs"]]
    assert drew
    assert all(not line["prompts"] for line in lines)
    for line in drew:
        assert [s["role"] for s in line["segs"]].count("final") == 1
        assert episode_of(line).answer.segs
        assert "mask" in line["parts"]

    clip = small.data / "test" / "JPEGImages"
    run(
        "segment",
        str(sorted(clip.iterdir())[0]),
        "the red circle",
        "videoseg_o3_tiny",
        f"policy.path={folder.path}",
        f"--out={tmp_path / 'out'}",
    )
    answer = json.loads((tmp_path / "out" / "answer.json").read_text())
    assert answer["prompts"] == []
    assert len(json.loads((tmp_path / "out" / "masks.json").read_text())["masks"]) == 24

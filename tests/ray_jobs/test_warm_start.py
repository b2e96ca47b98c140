"""Supervised fine-tuning by the real learner: it steps, and what it writes is a Hugging Face folder of other weights.

That the loss falls on a batch that stays the same is tested with the learner; here every batch draws other keyframes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from configs.load import load, resolve
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.warm_start import warm_start, with_drawing
from tests.ray_jobs.conftest import EXTRA, Small, run_job, told

STEPS = 3


def test_masks_are_learned_as_the_warm_start_says(tmp_path: Path) -> None:
    known = [*EXTRA, "mask.token=red"]  # any one token will do
    cfg = with_drawing(
        load(["revseg_tiny", *known, "warm_start.mask_dice=0.25", "mask.calibration=0.5"]), tmp_path
    )
    assert (cfg.mask.bce, cfg.mask.dice, cfg.mask.points, cfg.mask.loss) == (2.0, 0.25, 12544, 1.0)
    assert cfg.mask.fresh
    assert cfg.mask.calibration == 0.5
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_policy_changes_and_loads(small: Small, tmp_path: Path) -> None:
    output = tmp_path / "policy"
    settings = [
        *small.settings("warm"),
        f"warm_start.output={output}",
        f"warm_start.steps={STEPS}",
        "warm_start.batch_size=10",
        "learner.lr=1e-3",
    ]
    done = run_job("warm_start", *settings)
    assert done.returncode == 0, told(done)
    steps = RunFolder(small.run("warm").path / "warm_start").steps()
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert all(
        line["trained_tokens"] > 0 and 0 < line["loss"] < 20 and line["grad_norm"] > 0
        for line in steps
    )
    before, after = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (resolve(load(["revseg_tiny", *EXTRA]).policy.path), output)
    )
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) > len(before) / 2
    assert all(tensor.isfinite().all() for tensor in after.values())
    with pytest.raises(
        ValueError, match="warm_start.output=.*exists already; choose another folder"
    ):
        warm_start(
            ["revseg_tiny", *EXTRA, *small.settings("refused"), f"warm_start.output={output}"]
        )
    assert not small.run("refused").path.exists(), "told before anything is written"

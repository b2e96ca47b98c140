"""Supervised fine-tuning by the real learner: the loss falls, and what it writes is a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from configs.load import load, resolve
from ray_jobs.warm_start import warm_start
from tests.ray_jobs.conftest import EXTRA, Small, run_job, told

STEPS = 3


@pytest.mark.slow
def test_loss_falls_and_the_policy_loads(small: Small, tmp_path: Path) -> None:
    output = tmp_path / "policy"
    settings = [
        *small.settings("warm"), f"warm_start.output={output}", f"warm_start.steps={STEPS}",
        "warm_start.batch_size=10", "learner.lr=1e-3",
    ]  # fmt: skip
    done = run_job("warm_start", *settings)
    assert done.returncode == 0, told(done)
    lines = (small.run("warm").path / "warm_start" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == STEPS
    before, after = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (resolve(load(["revseg_tiny", *EXTRA]).policy.path), output)
    )
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) > len(before) / 2
    assert all(tensor.isfinite().all() for tensor in after.values())
    with pytest.raises(ValueError, match="warm_start.output=.*exists already; choose another folder"):
        warm_start(["revseg_tiny", *EXTRA, *settings])

"""Supervised fine-tuning by the real learner: it steps and writes a Hugging Face folder.

Every batch has other keyframes here; a falling loss on one batch is tested with the learner.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from configs.load import REPOSITORY, load, resolve
from ray_jobs.driver.requests import PREEMPTED
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.warm_start import warm_start, with_drawing
from tests.ray_jobs.conftest import (
    EXTRA,
    TIMEOUT_S,
    Small,
    command,
    environment,
    run_job,
    told,
)

STEPS = 3


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.state_dict()


def test_masks_are_learned_as_the_warm_start_says(tmp_path: Path) -> None:
    # Any word of one token will do.
    known = [*EXTRA, "mask.token=red"]
    cfg = with_drawing(
        load(["revseg_tiny", *known, "warm_start.mask_dice=0.25", "mask.calibration=0.5"]), tmp_path
    )
    assert (cfg.mask.bce, cfg.mask.dice, cfg.mask.points, cfg.mask.loss) == (2.0, 0.25, 12544, 1.0)
    assert cfg.mask.fresh
    assert cfg.mask.calibration == 0.5
    assert not list(tmp_path.iterdir())


def start_and_stop(line: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Start a warm start, and send it SIGTERM once it prints a line with this text."""
    with subprocess.Popen(
        command("warm_start", *settings),
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        said = []
        for printed in process.stdout:
            said.append(printed)
            if line in printed:
                process.terminate()
        code = process.wait(TIMEOUT_S)
    return subprocess.CompletedProcess(process.args, code, "".join(said), "")


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
    # A preempted warm start goes on behind its last step.
    stopped = start_and_stop("step 1/3", *settings)
    assert stopped.returncode == PREEMPTED, told(stopped)
    assert not output.exists()
    done = run_job("warm_start", *settings)
    assert done.returncode == 0, told(done)
    assert "resumed from" in done.stdout
    steps = RunFolder(small.run("warm").path / "warm_start").steps()
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        assert line["trained_tokens"] > 0
        assert 0 < line["loss"] < 20
        assert line["grad_norm"] > 0
    before = weights_of(resolve(load(["revseg_tiny", *EXTRA]).policy.path))
    after = weights_of(output)
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) > len(before) / 2
    for tensor in after.values():
        assert tensor.isfinite().all()
    with pytest.raises(
        ValueError, match="warm_start.output=.*exists already; choose another folder"
    ):
        warm_start(
            ["revseg_tiny", *EXTRA, *small.settings("refused"), f"warm_start.output={output}"]
        )
    assert not small.run("refused").path.exists(), "told before anything is written"

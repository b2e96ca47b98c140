"""`rollout.max_staleness=1`: steps are played ahead, with weights one update old."""

from __future__ import annotations

import pytest

from tests.ray_jobs.conftest import Small, run_job, told


@pytest.mark.slow
def test_playing_ahead_uses_weights_that_are_at_most_one_update_old(small: Small) -> None:
    settings = [
        "rollout.max_staleness=1",
        "train.steps=3",
        "train.eval_every=0",
        "train.eval_samples=2",
        "train.keep_checkpoints=1",
        "train.eval_before=false",
    ]
    done = run_job("train", *small.settings("stale"), *settings)
    assert done.returncode == 0, told(done)
    run = small.run("stale")
    ages = set()
    for line in run.episodes():
        for turn in line["turns"]:
            if line["step"] > 1:
                ages.add(line["step"] - 1 - turn["version"])
    assert ages <= {0, 1}
    assert 1 in ages, "nothing was played ahead"
    for line in run.steps():
        assert abs(line["importance_mean"] - 1) < 0.2
    # The weights of the engine are older than the learner's, so log-probs differ.
    assert max(line["logprob_gap_mean"] for line in run.steps()[1:]) > 1e-6
    # The two before are removed.
    assert [folder.name for folder in run.checkpoints.iterdir()] == ["step_3"]
    summary = run.summary()
    assert summary is not None
    assert summary["paired"] == {}
    assert not [key for key in summary if key.endswith("before")]
    assert summary["jf_after"] >= 0
    assert not (run.path / "evaluation" / "step_0").exists()

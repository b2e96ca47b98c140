"""`rollout.max_staleness=1` for real: the next step is played while one is learned, with weights one update old."""

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
    ]
    settings += ["train.keep_checkpoints=1", "train.eval_before=false"]
    done = run_job("train", *small.settings("stale"), *settings)
    assert done.returncode == 0, told(done)
    run = small.run("stale")
    played = {(line["step"], turn["version"]) for line in run.episodes() for turn in line["turns"]}
    assert all(step - 2 <= version <= step - 1 for step, version in played if step > 1), played
    assert any(version == step - 2 for step, version in played if step > 1), (
        "nothing was played ahead"
    )
    assert all(abs(line["importance_mean"] - 1) < 0.2 for line in run.steps())
    # The engine's log-probs are those of the weights that sampled, so they differ from the learner's newer ones.
    assert max(line["logprob_gap_mean"] for line in run.steps()[1:]) > 1e-6
    assert [folder.name for folder in run.checkpoints.iterdir()] == [
        "step_3"
    ]  # the two before are removed
    summary = run.summary()
    assert summary is not None
    assert summary["paired"] == {}
    assert not [key for key in summary if key.endswith("before")]
    assert summary["jf_after"] >= 0
    assert not (run.path / "evaluation" / "step_0").exists()

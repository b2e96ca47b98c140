"""`ray_jobs.train` end to end (vLLM, DeepSpeed on two ranks, SAM 2, MLflow), and its pure parts."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
from mlflow import MlflowClient

from actors.splits import MIX, read_split, set_of
from cluster.metrics import exported_name
from configs.load import load
from core.types import End, Episode, Group
from ray_jobs.driver.sampling import Draws, training_mix
from ray_jobs.record import checkpoint
from ray_jobs.record.live_data import CHARTS, LiveData
from ray_jobs.train import TrainingState, due, plan_of, with_entropies
from tests.cluster.test_metrics import names
from tests.ray_jobs.conftest import (
    EVALUATED,
    GROUP,
    MIXED,
    PROMPTS,
    STEPS,
    TIMEOUT_S,
    TOO_LONG,
    Finished,
    Small,
    keys_of,
)

SUMMARY = {
    "system",
    "steps",
    "seed",
    "reward_first",
    "reward_last",
    "jf_before",
    "jf_after",
    "sampled_jf_before",
    "sampled_jf_after",
    "reward_before",
    "reward_after",
    "sampled_reward_before",
    "sampled_reward_after",
    "blind_jf",
    "paired",
    "logprob_gap_mean",
    "logprob_gap_max",
    "groups",
    "failed_episodes",
    "seconds",
    "tokens_per_second",
    "weights_sha256",
}
STAGES = {"play", "score", "learn", "publish"}


@pytest.mark.slow
def test_run_folder_is_complete(finished: Finished) -> None:
    path = finished.run.path
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "summary.json",
    ):
        assert (path / name).stat().st_size > 0, name
    for step in range(1, STEPS + 1):
        assert checkpoint.damage(path / "checkpoints" / f"step_{step}") == ""
    assert (path / "best").resolve() == (path / "checkpoints" / f"step_{STEPS}").resolve()
    for step in (0, STEPS):
        for how in ("greedy", "sampled"):
            folder = path / "evaluation" / f"step_{step}" / how
            summary = json.loads((folder / "summary.json").read_text())
            with open(folder / "per_expression.csv", newline="") as table:
                rows = list(csv.DictReader(table))
            assert len(rows) == summary["expressions"] == EVALUATED
            assert summary["reward_parts"]
            for name, mean in summary["reward_parts"].items():
                parts = []
                for row in rows:
                    parts.append(json.loads(row["parts"]).get(name, 0.0))
                assert mean == pytest.approx(np.mean(parts), abs=1e-4)


@pytest.mark.slow
def test_the_live_page_knows_its_figures(finished: Finished) -> None:
    live = LiveData(finished.run.path)
    titles = {chart["title"] for chart in live.curves()["charts"]}
    # A step may have no loss of a process; nothing runs on a GPU here.
    always = {chart.title for chart in CHARTS if chart.names[0] not in ("deaths/*", "gpu_memory/*")}
    assert always <= titles
    assert not (finished.run.path / "live.json").exists(), "the run has ended"
    memory = [name for name in finished.run.steps()[-1] if name.startswith("memory/")]
    assert {"memory/driver", "memory/rollout", "memory/learner"} <= set(memory)


@pytest.mark.slow
def test_the_dashboard_shows_figures_of_a_run(finished: Finished) -> None:
    written = {exported_name(name)[0] for name in finished.run.steps()[-1]}
    # Added on the way to Prometheus.
    written |= {"rayvos_seconds", "rayvos_lost"}
    assert {name for name in names() if name.startswith("rayvos_")} <= written


@pytest.mark.slow
def test_the_profile_of_a_step(finished: Finished) -> None:
    trace = json.loads((finished.run.path / f"profile_step_{STEPS}.json").read_text())
    processes = {}
    spans: dict[str, set[str]] = {}
    for event in trace["traceEvents"]:
        if event["name"] == "process_name":
            processes[event["pid"]] = event["args"]["name"]
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert 0 <= event["dur"] < TIMEOUT_S * 1e6
            spans.setdefault(processes[event["pid"]], set()).add(event["name"])
    assert {"play", "score", "learn", "publish"} <= spans["driver"]
    assert {"play_group", "generate", "take"} <= spans["rollout actor 0"]
    assert "score" in spans["reward actor 0"]
    for rank in (0, 1):
        assert {"learn", "publish"} <= spans[f"learner rank {rank}"]


@pytest.mark.slow
def test_training_watches_another_split_than_it_is_measured_on(finished: Finished) -> None:
    path = finished.run.path
    watched = json.loads(
        (path / "evaluation" / f"step_{STEPS}" / "valid" / "summary.json").read_text()
    )
    state = checkpoint.read_state(path / "checkpoints" / f"step_{STEPS}")
    assert state["watched"] == {str(STEPS): watched["J&F"]}


@pytest.mark.slow
def test_summary_says_what_happened(finished: Finished) -> None:
    summary = finished.run.summary()
    steps = finished.run.steps()
    assert summary is not None
    assert set(summary) >= SUMMARY, SUMMARY - set(summary)
    assert set(summary["seconds"]) == STAGES | {"start", "mask"}
    assert summary["failed_episodes"] == 0
    assert summary["groups"] == STEPS * PROMPTS
    # Engine and learner saw the same tokens, images and weights.
    assert 0 < summary["logprob_gap_mean"] <= 1e-4
    assert summary["reward_first"] == steps[0]["reward"]
    assert summary["reward_last"] == steps[-1]["reward"]
    assert 0 < summary["jf_before"] <= 100
    assert 0 < summary["blind_jf"] <= 100
    gain = summary["paired"]["greedy_jf"]["mean"]
    assert gain == pytest.approx(summary["jf_after"] - summary["jf_before"], abs=1e-9)
    greedy = json.loads(
        (finished.run.path / "evaluation" / "step_0" / "greedy" / "summary.json").read_text()
    )
    assert greedy["J&F"] == pytest.approx(summary["jf_before"], abs=1e-9)


@pytest.mark.slow
def test_every_step_and_every_episode_is_written(finished: Finished) -> None:
    steps = finished.run.steps()
    episodes = finished.run.episodes()
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        assert set(line["seconds"]) == STAGES
    metrics = {"reward", "reward/format", "logprob_gap_mean", "grad_norm", "end/done"}
    assert metrics <= keys_of(steps)
    for step in range(1, STEPS + 1):
        groups = [line["sample"] for line in episodes if line["step"] == step]
        assert len(groups) == PROMPTS * GROUP
        for uid in groups:
            assert groups.count(uid) == GROUP
    columns = {"end", "reward", "parts", "advantage", "seconds", "turns", "facts"}
    assert columns <= keys_of(episodes)
    rewards = [line["reward"] for line in episodes if line["step"] == 1]
    assert sum(rewards) / len(rewards) == pytest.approx(steps[0]["reward"])


@pytest.mark.slow
def test_a_mix_reports_its_sets_and_the_sample_that_cannot_fit(finished: Finished) -> None:
    labels = ["mevis_train"]
    labels += [f"{format}_{split}" for format, split in MIXED.items()]
    used: Counter[str] = Counter()
    for line in finished.run.episodes():
        assert line["sample"] != TOO_LONG
        used[set_of(line["sample"])] += 1
    assert set(used) <= set(labels)
    assert len(used) > 2
    for label in labels:
        shares = [line[f"share/{label}"] for line in finished.run.steps()]
        assert sum(shares) / STEPS == pytest.approx(used[label] / sum(used.values()))
    for line in finished.run.steps():
        assert line["set_aside"] == 1
        assert line["too_long_episodes"] == 0

    state = checkpoint.read_state(finished.run.checkpoints / f"step_{STEPS}")
    assert set(state["used"]) == set(labels)
    assert list(state["aside"]) == [TOO_LONG]
    assert TOO_LONG in finished.output


@pytest.mark.slow
def test_overlay_video_plays(finished: Finished) -> None:
    videos = sorted((finished.run.path / "evaluation" / f"step_{STEPS}" / "overlays").glob("*.mp4"))
    assert videos
    with av.open(str(videos[0])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) >= 24
    assert frames[0].std() > 10


@pytest.mark.slow
def test_it_ends_with_three_commands(finished: Finished) -> None:
    path = finished.run.path
    lines = finished.output.splitlines()
    [first] = [place for place, line in enumerate(lines) if line.startswith("overlay video: ")]
    said = [line.partition(": ") for line in lines[first : first + 4]]
    assert [what for what, _, _ in said] == [
        "overlay video",
        "look at its episodes",
        "segment a clip",
        "compare runs",
    ]
    video, look, segment, compare = (word for _, _, word in said)
    assert Path(video).is_file()
    assert look == f"python -m ray_jobs.replay {path}"
    assert segment.startswith("python -m ray_jobs.segment CLIP.mp4 ")
    assert f"policy.path={path}" in segment
    assert compare.startswith("mlflow ui --backend-store-uri sqlite:///")


@pytest.mark.slow
def test_mlflow_has_the_steps(finished: Finished) -> None:
    client = MlflowClient(finished.small.mlflow_uri)
    experiment = client.get_experiment_by_name("rayvos")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], "attributes.run_name = 'whole'")
    history = client.get_metric_history(run.info.run_id, "reward")
    points = {point.step: point.value for point in history}
    rewards = {line["step"]: line["reward"] for line in finished.run.steps()}
    assert points == pytest.approx(rewards)
    assert run.info.status == "FINISHED"
    assert "seconds/play" in run.data.metrics
    assert run.data.metrics["jf_after"] >= 0


def test_entropies_find_their_groups() -> None:
    episodes = (Episode("v/0", (), End.DONE),) * 2
    judged = {index: Group("v/0", episodes) for index in range(4)}
    # In the order of arrival; group 1 was replaced, an episode failed.
    entropies = {0: np.array([0.5]), 2: np.array([1.0]), 3: np.array([2.0])}
    found = with_entropies(judged, [3, 0], entropies)
    assert found[3].entropies_G == (entropies[0], None)
    assert found[0].entropies_G == (entropies[2], entropies[3])
    assert sorted(found) == [0, 3]


def test_due() -> None:
    assert [step for step in range(1, 7) if due(step, 3)] == [3, 6]
    assert not any(due(step, 0) for step in range(1, 7))


def test_draws_go_on_from_a_checkpoint(small: Small, tmp_path: Path) -> None:
    cfg = load(["revseg_tiny", *small.mixed("draws")])
    mix = training_mix(cfg, read_split(cfg, MIX))
    whole = Draws(mix, PROMPTS)
    whole.set_aside(0, {TOO_LONG: "too long"})
    drawn = [[sample.uid for sample in whole.of_step(step)] for step in range(1, 9)]

    draws = Draws(mix, PROMPTS, 0, TrainingState().position)
    draws.set_aside(0, {TOO_LONG: "too long"})
    for step in (1, 2, 3):
        draws.of_step(step)
    position = draws.after(3)
    state = TrainingState(step=3, used=dict(position.used), aside=dict(position.aside))
    folder = checkpoint.save(tmp_path, 3, lambda _: None, asdict(state))

    kept = TrainingState(**checkpoint.read_state(folder))
    assert kept.aside == {TOO_LONG: "too long"}
    resumed = Draws(mix, PROMPTS, kept.step, kept.position)
    for step in range(4, 9):
        assert [sample.uid for sample in resumed.of_step(step)] == drawn[step - 1]


def test_the_plan_of_a_run_is_one_line(tmp_path: Path) -> None:
    words = ["train.steps=9", "rollout.prompts_per_step=2", "rollout.group_size=4"]
    words += ["train.eval_samples=50", "train.sampled_repeats=3"]
    cfg = load(["revseg_tiny", *words])
    assert plan_of(cfg, None) == (
        "plan: start the engines, then measure the policy (up to 200 answers), then steps 1 to 9 "
        "of 8 episodes, then measure the policy (up to 200 answers) again"
    )
    (tmp_path / "step_4").mkdir()
    (tmp_path / "step_4" / "state.json").write_text('{"step": 4}')
    assert plan_of(cfg, tmp_path / "step_4").startswith(
        "plan: start the engines, then steps 5 to 9 of 8 episodes, then measure"
    )
